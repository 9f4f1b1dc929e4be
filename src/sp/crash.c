/* SPDX-License-Identifier: Apache-2.0 */
#include "sp/crash.h"

#ifdef METE_CRASH_POINTS
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void sp_crash_point(const char *name)
{
        static long passed, at = -1;
        static const char *at_name;
        const char *n = getenv("METE_SP_CRASH_AT"), *path = getenv("METE_SP_CRASH_LOG");
        if (at < 0) {
                at = n ? strtol(n, NULL, 10) : 0;
                at_name = n && at == 0 ? n : "";
        }
        int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
        passed++;
        if (fd >= 0) {
                (void)!dprintf(fd, "%ld %s\n", passed, name);
                (void)close(fd);
        }
        if (passed == at || strcmp(name, at_name) == 0)
                (void)raise(SIGKILL);
}
#else
typedef int crash_points_are_off;
#endif
