/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/crash.h"

#ifdef METE_CRASH_POINTS
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void manager_crash_point(const char *what, const char *state, const char *when)
{
        const char *at = getenv("METE_MANAGER_CRASH_AT");
        char name[96];
        (void)snprintf(name, sizeof(name), "%s %s %s", what, state, when);
        if (at && strcmp(name, at) == 0)
                (void)raise(SIGKILL);
}
#else
typedef int crash_points_are_off;
#endif
