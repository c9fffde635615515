/* A service of a few lines: accepts connections on a port and closes them; HUP is survived, TERM ends it. */

#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    int on = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    signal(SIGHUP, SIG_IGN);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 16))
        return 1;
    for (;;) {
        int connection = accept(listening, NULL, NULL);
        if (connection >= 0)
            close(connection);
    }
}
