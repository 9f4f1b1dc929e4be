/* SPDX-License-Identifier: Apache-2.0 */
/* core/upgrade.h - a hypervisor of a server is replaced by another one with a newer VMM, while its VMs run
 * (5.22): the successor gets a first part and is started, each VM is tried on it without touching it, then
 * all are handed over; the old one's rest follows, and it ends.
 *
 *   lending - starting - checking - moving - giving - retiring - done
 *   and back [recalling -] returning - stopping - undone
 *
 * Until the first VM went over it can be undone, and is where anything does not fit; from then on it goes
 * forward alone, however long it takes, as two VMMs of different versions have no way back in general. Each
 * state is one thing that is under way, safe to be begun again; what is on disk is the state, and of each VM
 * how far it is, with the handover that was asked for: so a restart begins the same again, and nothing twice.
 * A dry run is one that is undone as soon as all were tried.
 *
 * Pure: (event, now) in; no I/O, no clock, no allocation. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/handover.h"

enum { UPGRADE_VMS_MAX = 256, UPGRADE_NAME = 64, UPGRADE_ID = 40 };

/* 0 is no state. */
enum upgrade_state {
        UPGRADE_LENDING = 1, /* the successor gets what the old one has free, or what is nobody's */
        UPGRADE_STARTING,    /* it starts, on the new VMM */
        UPGRADE_CHECKING,    /* would each VM do there? One after the other: each is to find all the room */
        UPGRADE_MOVING,      /* they are handed over, some side by side */
        UPGRADE_GIVING,      /* the old one has none: it gives to the successor what nothing claims there */
        UPGRADE_RETIRING,    /* the old one ends, and what it could not be without is the successor's */
        UPGRADE_RECALLING,   /* handovers under way are broken off; one may be too late for that */
        UPGRADE_RETURNING,   /* the successor, which has no VM, gives back what it was lent */
        UPGRADE_STOPPING,    /* it ends, and what it could not be without goes back */
        UPGRADE_DONE,        /* final */
        UPGRADE_UNDONE,      /* final */
        UPGRADE_STATE_N
};

enum upgrade_event {
        UPGRADE_EV_DONE, /* what this state is about is done; of CHECKING: all fit; of MOVING: none is left */
        UPGRADE_EV_FAILED, /* it cannot be done */
        UPGRADE_EV_WENT,   /* a VM went over */
        UPGRADE_EV_CAME,   /* the old one has a VM again */
        UPGRADE_EV_CANCEL,
        UPGRADE_EV_N
};

/* 0 is no state. */
enum upgrade_vm_state {
        UPGRADE_VM_WAITING = 1, /* to be tried */
        UPGRADE_VM_CHECKING,    /* a dry run was asked for */
        UPGRADE_VM_FITS,        /* to be handed over */
        UPGRADE_VM_UNDER_WAY,   /* that was asked for */
        UPGRADE_VM_WENT,        /* final: it runs at the successor */
        UPGRADE_VM_UNFIT,       /* final: why the upgrade is undone */
        UPGRADE_VM_LEFT,        /* final: it is not at the old one any more: it died, or somebody took it
                                   elsewhere */
        UPGRADE_VM_STATE_N
};

struct upgrade_vm {
        char name[UPGRADE_NAME];
        enum upgrade_vm_state state;
        uint32_t number;  /* of the last handover or dry run of this place; goes on where another VM has it */
        uint32_t tries;   /* so many were asked for it */
        uint32_t rank;    /* MOVING: it goes when all of lower ones are over; 0: it was in no order */
        int64_t again_ms; /* not before; not journalled */
        int64_t gap_us;   /* of its handover; -1: not known */
        enum reason reason; /* of the last that did not go well; 0: none */
        char sentence[HANDOVER_SENTENCE];
};

/* All of it is journalled. */
struct upgrade {
        char id[UPGRADE_ID];
        enum upgrade_state state; /* read anywhere, written only by upgrade.c */
        bool has_moved;           /* a VM went over: forward only */
        bool is_dry, would;       /* would: all that were tried fit */
        enum reason reason;       /* why it is undone; 0: it is not */
        char sentence[HANDOVER_SENTENCE];
        size_t n;
        struct upgrade_vm vms[UPGRADE_VMS_MAX];
};

void upgrade_begin(struct upgrade *u, const char *id, bool is_dry);
/* 1: it acted. 0: late but legal, ignored. -ESTALE: it is too late to undo it. Any other event that makes no
 * sense asserts: they are our own. reason, sentence: of FAILED and CANCEL. */
int upgrade_step(struct upgrade *u, enum upgrade_event ev, enum reason reason, const char *sentence,
                 struct err *err);
bool upgrade_is_final(const struct upgrade *u);
bool upgrade_is_back(const struct upgrade *u); /* it is being undone, or was */

/* A VM that runs at the old one. One that is known and did not stay away is in its place again. Where there
 * are too many, it has the place of one that left, whose numbers go on, so that no handover has the name of
 * another. REASON_NO_CAPACITY: there is none. */
int upgrade_add(struct upgrade *u, const char *vm, struct err *err);
/* The one that is to be tried (CHECKING) or handed over (MOVING) next, and when at_once of them are not under
 * way yet; NULL: none, now. In MOVING by ranks: what one of a later rank would take may be what those before
 * it have no room without, so that it is not asked while one of them is to go still, whatever that waits for.
 * One that is in no order, as it came later, goes when all those have gone, or where those whose turn it is
 * find no room: it may be on what they are to get. */
struct upgrade_vm *upgrade_next(struct upgrade *u, unsigned at_once, int64_t now_ms);
/* CHECKING: the order of all that are known (core/vacate.h), from 1. */
void upgrade_set_order(struct upgrade *u, const uint32_t *rank);
/* The rank whose turn it is; 0: of those that are to go still none has one. */
uint32_t upgrade_rank(const struct upgrade *u);
/* It cannot be asked for just now: others go first. */
void upgrade_later(struct upgrade *u, struct upgrade_vm *vm, int64_t now_ms);
/* None waits for its time any more: what it was tried with is another now. */
void upgrade_urge(struct upgrade *u);
/* A VM that is not under way, as the last try did not go well, and others wait for it; NULL: there is none.
 */
const struct upgrade_vm *upgrade_retried(const struct upgrade *u);
/* It is asked for from now on, as a handover of this name. */
void upgrade_ask(struct upgrade *u, struct upgrade_vm *vm);
void upgrade_handover(const struct upgrade *u, const struct upgrade_vm *vm, char ret[HANDOVER_ID]);
/* That ended. reason 0: well. What passes by itself, as no room and a peer that is away, is tried again in a
 * while, some times; once a VM went over everything is, without an end. false: it does not fit, and the
 * upgrade is to be undone. */
bool upgrade_ended(struct upgrade *u, struct upgrade_vm *vm, enum reason reason, const char *sentence,
                   int64_t now_ms);
/* It is not at the old one any more, nor under way; why it was not handed over before is of no matter then.
 */
void upgrade_left(struct upgrade *u, struct upgrade_vm *vm);
/* It died in its handover. */
void upgrade_died(struct upgrade *u, struct upgrade_vm *vm, enum reason reason, const char *sentence);
bool upgrade_vm_is_at_work(const struct upgrade_vm *vm);
/* How many are in that state. */
size_t upgrade_count(const struct upgrade *u, enum upgrade_vm_state state);
/* None is to be tried or handed over any more, in this state. */
bool upgrade_is_through(const struct upgrade *u);

const char *upgrade_state_name(enum upgrade_state s);
enum upgrade_state upgrade_state_from_name(const char *name); /* 0: none is called so */
const char *upgrade_vm_state_name(enum upgrade_vm_state s);
enum upgrade_vm_state upgrade_vm_state_from_name(const char *name);
