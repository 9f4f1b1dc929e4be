/* SPDX-License-Identifier: Apache-2.0 */
/* sp/crash.h - places where a death would hurt most: in builds of the type debug METE_SP_CRASH_AT=N ends the
 * process by SIGKILL as it passes the Nth of them, METE_SP_CRASH_AT=NAME as it passes the one of that name
 * first, METE_SP_CRASH_LOG=PATH lists those that are passed. Names of their own, as meted, which has the
 * like, is a child and has the same environment. */
#pragma once

#ifdef METE_CRASH_POINTS
void sp_crash_point(const char *name);
#else
static inline void sp_crash_point(const char *name)
{
        (void)name;
}
#endif
