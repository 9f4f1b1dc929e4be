/* SPDX-License-Identifier: Apache-2.0 */
/* meted/crash.h - places where a crash would hurt most.
 *
 * In builds of the type debug, METE_CRASH_AT=N makes the process kill itself with SIGKILL as it passes the
 * Nth of them, METE_CRASH_AT=NAME as it passes the one of that name first, and METE_CRASH_LOG=PATH gets the
 * name of each that is passed: so a test can walk all of them and knows which it reached. With
 * METE_CRASH_STOPS set it stops there instead (SIGSTOP), until it is told to go on: time to kill something
 * else. In other builds this is nothing. */
#pragma once
#include <stdbool.h>

/* What a test wants of the step that is about to act: METE_FAULTS=PATH names a file whose one line is the
 * name of a step and a word, such as "back host vcpu error". The file is removed as the step comes by.
 *
 *   error  it fails without having acted
 *
 *   late   it acts, and its end is reported as a time-out
 *
 *   die    it acts, and meted dies of SIGKILL before that is reported
 *
 *   hold   it waits until PATH.held, which appears then, is removed: time to kill something */
enum fault { FAULT_NONE, FAULT_ERROR, FAULT_LATE, FAULT_DIE, FAULT_HOLD };

#ifdef METE_CRASH_POINTS
void crash_point(const char *name);
void crash_point_of(const char *what, const char *state, const char *when); /* "what state when" */
enum fault fault_point(const char *name);
bool fault_is_held(void);
void fault_die(void);
#else
static inline enum fault fault_point(const char *name)
{
        (void)name;
        return FAULT_NONE;
}
static inline bool fault_is_held(void)
{
        return false;
}
static inline void fault_die(void)
{
}
static inline void crash_point(const char *name)
{
        (void)name;
}
static inline void crash_point_of(const char *what, const char *state, const char *when)
{
        (void)what;
        (void)state;
        (void)when;
}
#endif
