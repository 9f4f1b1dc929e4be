/* SPDX-License-Identifier: Apache-2.0 */
/* agent/busctl.h - a question to systemd by way of its own busctl(1): the agent is static, and small, and so
 * has no D-Bus of its own.
 *
 * It is started without a shell and without our environment; what it says is bounded, and so is its time. */
#pragma once
#include <stdint.h>
#include "base/err.h"

enum { BUSCTL_OUT = 32768 };

#define BUSCTL_PATH "/usr/bin/busctl"

/* argv: the command and what follows it, NULL at the end; the options are ours. Waits, until deadline_mono_ms
 * at most. Its answer in JSON, a line a value, in out; "" on failure. -ENOENT: systemd has no such unit.
 * -ETIMEDOUT: it did not answer, and may do it yet. Else *err has what busctl said. */
int busctl_run(const char *program, const char *const argv[], int64_t deadline_mono_ms, char out[BUSCTL_OUT],
               struct err *err);
