/* SPDX-License-Identifier: Apache-2.0 */
#include "core/upgrade.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

enum {
        LATE = -1,
        BAD = -2,
        STAY = -3,
        OPEN = -4, /* back, unless a VM went over */
        FORTH = -5 /* there is no way back */
};
enum { AGAIN_MS = 1000, AGAIN_MAX_MS = 30000, TRIES_MAX = 5 };

/* clang-format off */
static const int8_t table[UPGRADE_STATE_N][UPGRADE_EV_N] = {
        /*                       DONE               FAILED             WENT  CAME            CANCEL             */
        [UPGRADE_LENDING]   = { UPGRADE_STARTING,  UPGRADE_RETURNING, BAD,  BAD,            UPGRADE_RETURNING },
        [UPGRADE_STARTING]  = { UPGRADE_CHECKING,  UPGRADE_RETURNING, BAD,  BAD,            UPGRADE_RETURNING },
        [UPGRADE_CHECKING]  = { UPGRADE_MOVING,    UPGRADE_RECALLING, BAD,  BAD,            UPGRADE_RECALLING },
        [UPGRADE_MOVING]    = { UPGRADE_GIVING,    OPEN,              STAY, LATE,           OPEN              },
        [UPGRADE_GIVING]    = { UPGRADE_RETIRING,  LATE,              BAD,  UPGRADE_MOVING, FORTH             },
        [UPGRADE_RETIRING]  = { UPGRADE_DONE,      LATE,              BAD,  BAD,            FORTH             },
        [UPGRADE_RECALLING] = { UPGRADE_RETURNING, LATE,              STAY, LATE,           LATE              },
        [UPGRADE_RETURNING] = { UPGRADE_STOPPING,  LATE,              BAD,  LATE,           LATE              },
        [UPGRADE_STOPPING]  = { UPGRADE_UNDONE,    LATE,              BAD,  LATE,           LATE              },
        [UPGRADE_DONE]      = { BAD,               BAD,               BAD,  BAD,            FORTH             },
        [UPGRADE_UNDONE]    = { BAD,               BAD,               BAD,  BAD,            LATE              },
};
static const char *const state_names[UPGRADE_STATE_N] = {
        [UPGRADE_LENDING] = "lending",     [UPGRADE_STARTING] = "starting",   [UPGRADE_CHECKING] = "checking",
        [UPGRADE_MOVING] = "moving",       [UPGRADE_GIVING] = "giving",       [UPGRADE_RETIRING] = "retiring",
        [UPGRADE_RECALLING] = "recalling", [UPGRADE_STOPPING] = "stopping",   [UPGRADE_RETURNING] = "returning",
        [UPGRADE_DONE] = "done",           [UPGRADE_UNDONE] = "undone",
};
static const char *const vm_state_names[UPGRADE_VM_STATE_N] = {
        [UPGRADE_VM_WAITING] = "waiting",     [UPGRADE_VM_CHECKING] = "checking", [UPGRADE_VM_FITS] = "fits",
        [UPGRADE_VM_UNDER_WAY] = "under-way", [UPGRADE_VM_WENT] = "went",         [UPGRADE_VM_UNFIT] = "unfit",
        [UPGRADE_VM_LEFT] = "left",
};
/* clang-format on */

void upgrade_begin(struct upgrade *u, const char *id, bool is_dry)
{
        *u = (struct upgrade){.state = UPGRADE_LENDING, .is_dry = is_dry};
        (void)str_copy(u->id, sizeof(u->id), id);
}

bool upgrade_is_final(const struct upgrade *u)
{
        return u->state == UPGRADE_DONE || u->state == UPGRADE_UNDONE;
}

bool upgrade_is_back(const struct upgrade *u)
{
        return u->state == UPGRADE_RECALLING || u->state == UPGRADE_STOPPING ||
               u->state == UPGRADE_RETURNING || u->state == UPGRADE_UNDONE;
}

static void enter(struct upgrade *u, enum upgrade_state to, enum reason reason, const char *sentence)
{
        bool was_back = upgrade_is_back(u);
        u->state = to;
        if (upgrade_is_back(u) && !was_back) {
                u->reason = reason ? reason : REASON_CANCELLED;
                (void)snprintf(u->sentence, sizeof(u->sentence), "%s", sentence ? sentence : "");
        }
}

/* What did not fit is why it was, or is, to be undone; as that cannot be any more, it is tried again, as
 * whatever ends so from now on is (upgrade_ended()). Else it would be retired with the old one. */
static void has_gone(struct upgrade *u)
{
        u->has_moved = true;
        for (size_t i = 0; i < u->n; i++)
                if (u->vms[i].state == UPGRADE_VM_UNFIT)
                        u->vms[i].state = UPGRADE_VM_FITS;
}

int upgrade_step(struct upgrade *u, enum upgrade_event ev, enum reason reason, const char *sentence,
                 struct err *err)
{
        assert(u->state > 0 && u->state < UPGRADE_STATE_N && (unsigned)ev < UPGRADE_EV_N);
        int to = table[u->state][ev];
        assert(to != 0 && to != BAD);
        if (to == LATE)
                return 0;
        if (to == FORTH || (to == OPEN && u->has_moved))
                return err_set(
                        err, REASON_STALE, ESTALE,
                        "upgrade %s is %s: a VM went over, or there was none, so that it only goes forward",
                        u->id, upgrade_state_name(u->state));
        if (ev == UPGRADE_EV_WENT)
                has_gone(u);
        if (to == OPEN)
                to = UPGRADE_RECALLING;
        if (u->is_dry && u->state == UPGRADE_CHECKING && ev == UPGRADE_EV_DONE) {
                u->would = true;
                to = UPGRADE_RECALLING;
                sentence = "it was only to be found out whether it would do";
        }
        /* One of those that were to be broken off was committed before: then there is no way back. */
        if (u->state == UPGRADE_RECALLING && u->has_moved)
                to = UPGRADE_MOVING;
        if (to == STAY)
                return 1;
        if (to == UPGRADE_MOVING && u->state == UPGRADE_RECALLING) {
                u->reason = 0;
                *u->sentence = '\0';
        }
        enter(u, (enum upgrade_state)to, reason, sentence);
        return 1;
}

/* ---- its VMs ---- */

bool upgrade_vm_is_at_work(const struct upgrade_vm *vm)
{
        return vm->state == UPGRADE_VM_CHECKING || vm->state == UPGRADE_VM_UNDER_WAY;
}

static bool is_over(const struct upgrade_vm *vm)
{
        return vm->state == UPGRADE_VM_WENT || vm->state == UPGRADE_VM_UNFIT || vm->state == UPGRADE_VM_LEFT;
}

/* Not of one that died in its handover: somebody is to hear of that. */
static struct upgrade_vm *place_of_left(struct upgrade *u)
{
        for (size_t i = 0; i < u->n; i++)
                if (u->vms[i].state == UPGRADE_VM_LEFT && !u->vms[i].reason)
                        return &u->vms[i];
        return NULL;
}

int upgrade_add(struct upgrade *u, const char *vm, struct err *err)
{
        enum upgrade_vm_state first = u->state == UPGRADE_CHECKING ? UPGRADE_VM_WAITING : UPGRADE_VM_FITS;
        for (size_t i = 0; i < u->n; i++)
                if (strcmp(u->vms[i].name, vm) == 0) {
                        if (is_over(&u->vms[i]) && u->vms[i].state != UPGRADE_VM_UNFIT) {
                                u->vms[i].state = first; /* it came back */
                                u->vms[i].gap_us = -1;
                                u->vms[i].tries = u->vms[i].rank = 0;
                        }
                        return 0;
                }
        struct upgrade_vm *to = u->n < UPGRADE_VMS_MAX ? &u->vms[u->n++] : place_of_left(u);
        if (!to)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC, "more than %d VMs", UPGRADE_VMS_MAX);
        *to = (struct upgrade_vm){.state = first, .number = to->number, .gap_us = -1};
        (void)str_copy(to->name, sizeof(to->name), vm);
        return 0;
}

void upgrade_set_order(struct upgrade *u, const uint32_t *rank)
{
        assert(u->state == UPGRADE_CHECKING);
        for (size_t i = 0; i < u->n; i++)
                u->vms[i].rank = rank[i];
}

uint32_t upgrade_rank(const struct upgrade *u)
{
        uint32_t first = 0;
        for (size_t i = 0; i < u->n; i++) {
                const struct upgrade_vm *vm = &u->vms[i];
                if (vm->rank > 0 && !is_over(vm) && (first == 0 || vm->rank < first))
                        first = vm->rank;
        }
        return first;
}

static bool is_its_turn(const struct upgrade *u, const struct upgrade_vm *vm, uint32_t rank)
{
        if (u->state != UPGRADE_MOVING || rank == 0 || vm->rank == rank)
                return true;
        for (size_t i = 0; i < u->n && vm->rank == 0; i++) {
                const struct upgrade_vm *of = &u->vms[i];
                bool is_short = !upgrade_vm_is_at_work(of) && of->reason == REASON_NO_CAPACITY;
                if (of->rank == rank && !is_over(of) && !is_short)
                        return false;
        }
        return vm->rank == 0;
}

struct upgrade_vm *upgrade_next(struct upgrade *u, unsigned at_once, int64_t now_ms)
{
        enum upgrade_vm_state wanted = u->state == UPGRADE_CHECKING ? UPGRADE_VM_WAITING
                                       : u->state == UPGRADE_MOVING ? UPGRADE_VM_FITS
                                                                    : 0;
        struct upgrade_vm *first = NULL;
        uint32_t rank = upgrade_rank(u);
        unsigned n = 0;
        for (size_t i = 0; i < u->n; i++) {
                struct upgrade_vm *vm = &u->vms[i];
                n += upgrade_vm_is_at_work(vm);
                if (!first && vm->state == wanted && vm->again_ms <= now_ms && is_its_turn(u, vm, rank))
                        first = vm;
        }
        return n < at_once ? first : NULL;
}

void upgrade_later(struct upgrade *u, struct upgrade_vm *vm, int64_t now_ms)
{
        (void)u;
        assert(vm->state == UPGRADE_VM_WAITING || vm->state == UPGRADE_VM_FITS);
        vm->again_ms = now_ms + AGAIN_MS;
}

void upgrade_urge(struct upgrade *u)
{
        for (size_t i = 0; i < u->n; i++)
                u->vms[i].again_ms = 0;
}

const struct upgrade_vm *upgrade_retried(const struct upgrade *u)
{
        const struct upgrade_vm *first = NULL;
        uint32_t rank = upgrade_rank(u);
        for (size_t i = 0; i < u->n; i++) {
                const struct upgrade_vm *vm = &u->vms[i];
                bool is_open = vm->state == UPGRADE_VM_WAITING || vm->state == UPGRADE_VM_FITS;
                bool is_better = !first || (first->rank != rank && vm->rank == rank);
                if (is_open && vm->reason && is_better)
                        first = vm;
        }
        return first;
}

void upgrade_ask(struct upgrade *u, struct upgrade_vm *vm)
{
        assert(vm->state == UPGRADE_VM_WAITING || vm->state == UPGRADE_VM_FITS);
        (void)u;
        vm->number++;
        vm->tries++;
        vm->state = vm->state == UPGRADE_VM_WAITING ? UPGRADE_VM_CHECKING : UPGRADE_VM_UNDER_WAY;
}

void upgrade_handover(const struct upgrade *u, const struct upgrade_vm *vm, char ret[HANDOVER_ID])
{
        (void)snprintf(ret, HANDOVER_ID, "%s.%zu.%" PRIu32, u->id, (size_t)(vm - u->vms) + 1, vm->number);
}

/* What is so just now, and may not be so in a while. */
static bool may_pass(enum reason reason)
{
        return reason == REASON_BUSY || reason == REASON_TIMEOUT || reason == REASON_PEER_LOST ||
               reason == REASON_STALE || reason == REASON_INTERNAL;
}

bool upgrade_ended(struct upgrade *u, struct upgrade_vm *vm, enum reason reason, const char *sentence,
                   int64_t now_ms)
{
        bool was_checking = vm->state == UPGRADE_VM_CHECKING;
        assert(upgrade_vm_is_at_work(vm));
        vm->reason = reason;
        (void)snprintf(vm->sentence, sizeof(vm->sentence), "%s", reason && sentence ? sentence : "");
        if (!reason) {
                vm->state = was_checking ? UPGRADE_VM_FITS : UPGRADE_VM_WENT;
                vm->again_ms = 0;
                return true;
        }
        bool may = may_pass(reason) ||
                   (!was_checking && (reason == REASON_NO_CAPACITY || reason == REASON_CANCELLED));
        bool is_again = (!was_checking && u->has_moved) ||
                        (may && vm->tries < (was_checking ? TRIES_MAX : 2 * TRIES_MAX));
        int64_t pause_ms = (int64_t)AGAIN_MS << (vm->tries < 6 ? vm->tries - 1 : 5);
        vm->state = !is_again ? UPGRADE_VM_UNFIT : was_checking ? UPGRADE_VM_WAITING : UPGRADE_VM_FITS;
        vm->again_ms = now_ms + (pause_ms < AGAIN_MAX_MS ? pause_ms : AGAIN_MAX_MS);
        return is_again;
}

void upgrade_left(struct upgrade *u, struct upgrade_vm *vm)
{
        (void)u;
        assert(!upgrade_vm_is_at_work(vm));
        vm->state = UPGRADE_VM_LEFT;
        vm->reason = 0;
        *vm->sentence = '\0';
}

void upgrade_died(struct upgrade *u, struct upgrade_vm *vm, enum reason reason, const char *sentence)
{
        (void)u;
        assert(upgrade_vm_is_at_work(vm));
        vm->state = UPGRADE_VM_LEFT;
        vm->reason = reason ? reason : REASON_INTERNAL;
        (void)snprintf(vm->sentence, sizeof(vm->sentence), "%s", sentence ? sentence : "");
}

size_t upgrade_count(const struct upgrade *u, enum upgrade_vm_state state)
{
        size_t n = 0;
        for (size_t i = 0; i < u->n; i++)
                n += u->vms[i].state == state;
        return n;
}

bool upgrade_is_through(const struct upgrade *u)
{
        size_t at_work = upgrade_count(u, UPGRADE_VM_CHECKING) + upgrade_count(u, UPGRADE_VM_UNDER_WAY);
        return at_work == 0 && upgrade_count(u, UPGRADE_VM_WAITING) == 0 &&
               (u->state != UPGRADE_MOVING || upgrade_count(u, UPGRADE_VM_FITS) == 0);
}

/* ---- names ---- */

const char *upgrade_state_name(enum upgrade_state s)
{
        return s > 0 && s < UPGRADE_STATE_N ? state_names[s] : "?";
}

const char *upgrade_vm_state_name(enum upgrade_vm_state s)
{
        return s > 0 && s < UPGRADE_VM_STATE_N ? vm_state_names[s] : "?";
}

enum upgrade_state upgrade_state_from_name(const char *name)
{
        for (int s = 1; s < UPGRADE_STATE_N; s++)
                if (strcmp(state_names[s], name) == 0)
                        return (enum upgrade_state)s;
        return 0;
}

enum upgrade_vm_state upgrade_vm_state_from_name(const char *name)
{
        for (int s = 1; s < UPGRADE_VM_STATE_N; s++)
                if (strcmp(vm_state_names[s], name) == 0)
                        return (enum upgrade_vm_state)s;
        return 0;
}
