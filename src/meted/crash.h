/* SPDX-License-Identifier: Apache-2.0 */
/* meted/crash.h - places where a crash would hurt most.
 *
 * In builds of the type debug, METE_CRASH_AT=N makes the process kill itself with SIGKILL as it passes the
 * Nth of them, and METE_CRASH_LOG=PATH gets the name of each that is passed: so a test can walk all of them
 * and knows which it reached. In other builds this is nothing. */
#pragma once

#ifdef METE_CRASH_POINTS
void crash_point(const char *name);
#else
static inline void crash_point(const char *name)
{
        (void)name;
}
#endif
