/* SPDX-License-Identifier: Apache-2.0 */
/* meted/activate.h - carries out the steps of activations (core/activation.h): the only code through which a
 * VM is started, grown, shrunk and ended.
 *
 * Each VM has one step under way at a time. It ends by one report to the hypervisor, whatever became of it,
 * and each may be repeated after a crash: one that finds its state reached already does nothing.
 *
 *   activate.c        one step after another, and the adoption of VMMs that outlived meted
 *   activate-vmm.c    base memory: the VMM itself
 *   activate-item.c   vCPUs and DIMMs, and the host side of everything
 *   activate-guest.c  what the guest says: it is initialised, it lets go */
#pragma once
#include "core/hypervisor.h"

struct machine;
struct meted;

/* EFFECT_STEP and EFFECT_HURRY. */
void activate_step(struct meted *m, const struct effect *f);
void activate_hurry(struct meted *m, const struct request *r);
/* No more steps of its way up, or of its way back, come: their thread in the keeper may end. */
void activate_end(struct meted *m, const struct request *r, bool is_back);
/* After a restart of meted or of the keeper: attach to the VMM that runs, or find that it died meanwhile. */
void activate_adopt(struct machine *v);
/* What its VM and its leases were granted is looked at again, and repaired. false: it does not run, or nobody
 * is attached to it. */
bool activate_verify(struct machine *v);
/* A vCPU that is plugged and that nobody was granted: its thread is put aside. */
void activate_park(struct machine *v, int slot);
/* The hypervisor was made anew: what is under way reports to nobody. */
void activate_void(struct machine *v);
/* The agent greets: what the one before it was asked is asked again, and what could not be taken back is
 * tried again soon. */
void activate_agent_back(struct machine *v);
void activate_hurry_back(struct machine *v);
/* meted goes, or the machine: no report, nothing more. */
void activate_drop(struct machine *v);
