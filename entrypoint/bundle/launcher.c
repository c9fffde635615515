/* What ENTRYPOINT ["svcinit"] runs: it starts the interpreter that lies beside it, and nothing else.
 *
 * Linked statically, so that neither the image's libc nor LD_PRELOAD and the like can keep it from starting.
 *
 * 1. All signals wait from the first microseconds on: what reaches a PID 1 that does not handle it is lost, and an
 *    interpreter takes milliseconds to its first line. A blocked signal is kept (signal(7)), also over execve(2).
 * 2. What the dynamic loader would read from the environment is meant for the command: it is handed over under another
 *    name, and svcinit.settings.environment.original_environment gives it its name back.
 * 3. Where svcinit is not PID 1, it becomes a subreaper (prctl(2)), which execve(2) keeps. -Xreaps tells svcinit. Python
 *    has no such call: svcinit would load a library for it, at each start.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef HOME
#define HOME "/opt/svcinit"
#endif
#ifndef PR_SET_CHILD_SUBREAPER
#define PR_SET_CHILD_SUBREAPER 36
#endif
#define KEPT "SVCINIT@" /* as in svcinit.settings.environment */

static int is_for_the_loader(const char *variable)
{
    return strncmp(variable, "LD_", 3) == 0 || strncmp(variable, "GLIBC_TUNABLES=", 15) == 0;
}

int main(int argc, char **argv, char **envp)
{
    int reaps = 0;
#ifdef BLOCK_SIGNALS
    unsigned char every[8];
    memset(every, 0xff, sizeof every);
    syscall(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, every, NULL, sizeof every);
    reaps = getpid() != 1 && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0;
#endif
    for (char **each = envp; *each; each++) {
        if (is_for_the_loader(*each)) {
            char *renamed = malloc(sizeof KEPT + strlen(*each));
            if (!renamed)
                return 71; /* EX_OSERR */
            strcpy(stpcpy(renamed, KEPT), *each);
            *each = renamed;
        }
    }
    char **command = calloc(argc + 6, sizeof *command);
    if (!command)
        return 71;
    char **next = command;
    *next++ = HOME "/python/bin/" PROGRAM; /* a link to the interpreter: ps(1) and top(1) show this name */
    *next++ = "-IS";
#ifdef LAZY_IMPORTS
    *next++ = "-Xlazy_imports=all"; /* PEP 810: Python 3.15 and newer */
#endif
    if (reaps)
        *next++ = "-Xreaps";
    *next++ = HOME "/python/" PROGRAM ".pyc";
    for (int i = 1; i < argc; i++)
        *next++ = argv[i];
    execve(command[0], command, envp);
    fprintf(stderr, PROGRAM ": %s cannot be run: %s; copy the whole of " HOME "\n", command[0], strerror(errno));
    return 127;
}
