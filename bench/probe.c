/* The service that every contender starts: notes when its first instruction runs, writes that into the fifo named by
 * its first argument as nanoseconds of CLOCK_MONOTONIC, and ends. Given a second argument, it stays until killed; given
 * more, it becomes the command that these are. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int fifo = argc > 1 ? open(argv[1], O_WRONLY) : -1;
    if (fifo < 0 || dprintf(fifo, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec) < 0)
        return 1;
    close(fifo);
    if (argc > 3) {
        execvp(argv[3], argv + 3);
        return 127;
    }
    if (argc > 2)
        pause();
    return 0;
}
