/* SPDX-License-Identifier: Apache-2.0 */
/* meted/watch.h - this machine changes (2.3): CPUs and memory go off line and come back, memory turns out
 * spoilt, the uplink loses its carrier, devices come and go. Looked for when the kernel says that something
 * may have changed, and now and then. Of an inventory that is not this machine's nothing is looked for. */
#pragma once
#include "meted/meted.h"

enum { WATCH_EVERY_MS = 10000 };

/* How it is now, into what health.c knows; before the hypervisor is made. */
void watch_init(struct meted *m);
/* From now on. */
void watch_start(struct meted *m);
void watch_done(struct meted *m); /* idempotent */
/* What is seen late, or not at all; NULL: nothing. */
const char *watch_late(const struct meted *m);
const char *watch_blind(const struct meted *m);
