/* SPDX-License-Identifier: Apache-2.0 */
/* meted/job.h - makes resources usable and takes them back: the one function through which a VM is started,
 * grown, shrunk and ended.
 *
 * A job is what the hypervisor asked for with EFFECT_ACTIVATE or EFFECT_DEACTIVATE: a list of steps, each
 * of which ensures a state and may be repeated after a crash. Jobs of one VM run one after another; each ends
 * by reporting to the hypervisor exactly once, or, when something could not be taken back yet, by waiting for
 * another try: until then it stays claimed. */
#pragma once
#include "core/request.h"

struct machine;
struct meted;

void job_activate(struct meted *m, const struct request *r);
void job_deactivate(struct meted *m, const struct request *r);
/* After a restart of meted: find the VMM that runs, or that it died meanwhile. */
void job_adopt(struct machine *v);
/* What could not be taken back is tried again soon, as the guest has just spoken. */
void jobs_retry(struct machine *v);
/* The agent greets: what the one before it was asked is asked again. */
void jobs_agent_back(struct machine *v);
/* Forget all jobs without a report: meted goes. */
void jobs_drop(struct machine *v);
