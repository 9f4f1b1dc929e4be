/* SPDX-License-Identifier: Apache-2.0 */
/* manager/drains-internal.h - what the files of drains share. */
#pragma once
#include "manager/manager.h"

enum { DRAIN_TICK_MS = 500, DRAIN_DRY_AT_ONCE = 2 };

struct emptying;

/* A dry run that is under way. */
struct dry {
        struct emptying *e;
        size_t vm;
        struct http_call *call;
};

struct emptying {
        struct manager *m;
        struct api_drain d;        /* as it is recorded and shown */
        bool is_dirty, is_writing; /* it is to be recorded; it is being, as it was then */
        char *recorded, *writing;  /* as it is, and as it was then; NULL: not at all */
        bool is_asked;             /* VMs have their hosts, and are asked what they take */
        struct dry dry[DRAIN_DRY_AT_ONCE];
        struct loop_timer tick;
        int64_t moved_mono_ms; /* what its host was found to be before this says nothing of what is left */
        GList *askers;
};

/* ---- drains.c ---- */
struct emptying *emptying_new(struct manager *m);
void emptying_free(void *arg); /* refuses who waits for an answer */
struct emptying *emptying_find(const struct manager *m, const char *id);
bool emptying_is_over(const struct emptying *e);
void emptying_touch(struct emptying *e); /* it is to be recorded */
__attribute__((format(printf, 4, 5))) void emptying_settle(struct emptying *e, enum api_drain_state to,
                                                           enum reason reason, const char *format, ...);
void emptying_set_vm(struct api_drain_vm *v, enum api_drain_vm_state state, enum reason reason,
                     const char *sentence);
int64_t emptying_left_ms(const struct emptying *e); /* 0 to LEVEL_MAX_MS */
struct api_drain_vm *emptying_vm_in(struct emptying *e,
                                    enum api_drain_vm_state state); /* the first, or NULL */
void emptying_tick(void *arg);

/* ---- drains-plan.c ---- */
void emptying_plan(struct emptying *e); /* begins it, and ends it where its time is over */
void emptying_drop_dry(struct emptying *e);
struct level emptying_floor(const struct emptying *e);
