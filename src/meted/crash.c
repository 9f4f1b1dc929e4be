/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/crash.h"

#ifdef METE_CRASH_POINTS
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void crash_point(const char *name)
{
        static long passed, at = -1;
        static int log_fd = -1;
        if (at < 0) {
                const char *n = getenv("METE_CRASH_AT"), *path = getenv("METE_CRASH_LOG");
                at = n ? strtol(n, NULL, 10) : 0;
                if (path)
                        log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        }
        passed++;
        if (log_fd >= 0)
                (void)!dprintf(log_fd, "%ld %s\n", passed, name);
        if (passed == at)
                (void)raise(SIGKILL);
}
#else
typedef int crash_points_are_off;
#endif
