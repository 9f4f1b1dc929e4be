/* SPDX-License-Identifier: Apache-2.0 */
/* agent/online.h - puts hot-plugged CPUs and memory on line, and says what is.
 *
 * A CPU or a memory block that was plugged on the host appears in sysfs a little later. The kernel's uevents
 * say when it is worth looking; they can be lost, and are not there in every container, so while somebody
 * waits it is also looked for every 50 ms (10 ms without uevents). Each look costs a guest that has few CPUs
 * more than it seems, just when its kernel is busy with what was plugged. Writing to `online` takes the
 * kernel some milliseconds for each CPU, in which the loop stands still. CPU 0 is never taken off line. */
#pragma once
#include "json/api.h"
#include "wire/rpc.h"

enum { ONLINE_JOBS_MAX = 8 };

struct online;

/* sys: "/sys"; tests have one of their own. */
struct online *online_new(const char *sys);
void online_free(struct online *o); /* what waits is answered */

void online_state(struct online *o, struct api_guest_state *ret);
int64_t online_block_bytes(const struct online *o); /* memory is plugged in multiples of it; 0: unknown */
/* Answers the call when all is on line, or the time is up. */
void online_request(struct online *o, const struct api_guest_online *want, struct rpc_call *call);
void online_offline(struct online *o, const struct api_guest_offline *want, struct api_guest_state *ret);
