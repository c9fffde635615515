/* A service of a few lines: accepts connections on a port and closes them; HUP is survived, TERM ends it. USR1 makes an
 * orphan, which ends a moment later. */

#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void make_orphan(int number)
{
    pid_t parent = fork();
    (void)number;
    if (parent == 0) {
        if (fork() == 0)
            usleep(100 * 1000);
        _exit(9);
    }
    waitpid(parent, NULL, 0);
    if (write(1, "orphan\n", 7) != 7)
        _exit(1);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    int on = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, make_orphan);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 16))
        return 1;
    for (;;) {
        int connection = accept(listening, NULL, NULL);
        if (connection >= 0)
            close(connection);
    }
}
