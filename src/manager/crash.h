/* SPDX-License-Identifier: Apache-2.0 */
/* manager/crash.h - places where a death would hurt most: in builds of the type debug
 * METE_MANAGER_CRASH_AT="WHAT STATE WHEN" ends the process by SIGKILL as it passes that one first.
 *
 * what is order or drain, state one of its states, when: decided (in memory alone), recorded (nothing that
 * follows from it was done), done (calls are made, askers answered), heard (an answer to its call is there).
 * Of carry (carry.c) the states are begun, part, all and there, each recorded.
 */
#pragma once

#ifdef METE_CRASH_POINTS
void manager_crash_point(const char *what, const char *state, const char *when);
#else
static inline void manager_crash_point(const char *what, const char *state, const char *when)
{
        (void)what;
        (void)state;
        (void)when;
}
#endif
