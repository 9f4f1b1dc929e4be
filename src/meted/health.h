/* SPDX-License-Identifier: Apache-2.0 */
/* meted/health.h - what of the host can be used: what operators took out of use, which is in the store, and
 * what the machine itself has lost, which it is asked for. Both are in m->inventory and in the hypervisor's
 * components as `healthy` and `lost`; what then becomes of what lies there is the hypervisor's decision
 * (core/change.c). */
#pragma once
#include "json/api.h"
#include "meted/meted.h"
#include "store/store.h"

/* Into the inventory, from the store, before a hypervisor is made of it. */
int health_load(struct meted *m, struct err *err);
/* Behind hypervisor_recover(): what was lost while nobody decided on it. */
void health_settle(struct meted *m);
void health_done(struct meted *m);
/* What the machine itself has (node: plus 1; 0: not known); then, when all of it is said, what becomes of it.
 */
void health_seen(struct meted *m, size_t component, bool is_gone, int64_t lost, uint32_t node);
struct host_toll health_apply(struct meted *m, const char *cause);

/* Recorded with the next commit. What is out of use already may be so for another time. REASON_NOT_FOUND (no
 * such component; none that an operator took out of use), REASON_INVALID; REASON_POLICY: the last CPU. */
int health_offline(struct meted *m, const struct api_component_offline *p, struct api_component_changed *ret,
                   struct err *err);
int health_online(struct meted *m, const char *component, struct api_component_changed *ret, struct err *err);

/* Why not all of it can be used; false: all can. *ret_until_ms: 0: nobody has said until when. */
bool health_text(const struct meted *m, size_t component, char *ret, size_t size, int64_t *ret_until_ms);
