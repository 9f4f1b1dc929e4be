/* SPDX-License-Identifier: Apache-2.0 */
/* core/activation.h - the one way in which anything becomes usable to a guest, and the way back (P3).
 *
 * A request that is allocated in the ledger has a list of definitions: which virtual resource each is, and
 * which host resource backs it. Its activation walks over them in a fixed order, one step at a time:
 *
 *   up     prepare    virtual side, where the definition says so                          each   3.5 3.6
 *          host       host side activated                                                 each   3.7
 *          mark       the definitions say so                                              -      3.8
 *          virtual    virtual side activated                                              each   3.9
 *          bind       what the virtual side brought with it (threads) held by the host side  each
 *          confirm    the consumer itself says that it is initialised                     once   3.10
 *          finalise   both sides: what is held is read back, and is what was granted      each   3.11
 *          configure  the I/O configuration says what the guest may rely on               -      3.12
 *
 *   back   configure  the guest may rely on it no longer                                  -
 *          confirm    virtual side prepared: the consumer lets go                         once   3.20
 *          bind       host side prepared                                                  each
 *          virtual    virtual side deactivated                                            each
 *          host       host side deactivated                                               each
 *          prepare    what was prepared is gone                                           each
 *          mark       the definitions say so                                              -
 *
 * One way back serves as undo and as deactivation: it begins where the way up ended, that step included, as
 * it may have been half done, and goes through the items in reverse. A step that fails on the way up turns
 * the walk. On the way back it does not keep the others from trying: its item is held, nothing more is done
 * to it, and the walk is to be repeated for what is held.
 *
 * A lazy way back leaves the host side bound (3.21), of those kinds that can be: for them it ends behind
 * `virtual`. Going up again finds it
 * active, and takes it back too where that fails; reclaiming it is the rest of the way back.
 *
 * The walk is journalled before each step acts: so it is repeated after a crash, and each step must be
 * idempotent. '-' steps are the engine's own and act in the journal alone. Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum virtual_kind {
        VIRTUAL_NONE = 1, /* a host resource that serves the others of its list, such as cache */
        VIRTUAL_RAM,      /* base memory: the VMM itself */
        VIRTUAL_DIMM,     /* memory that was plugged */
        VIRTUAL_VCPU,
        VIRTUAL_NIC,
        VIRTUAL_DISK,
        VIRTUAL_KIND_N
};

/* Where a definition stands on a way back. */
enum definition_way { WAY_NONE, WAY_GOING, WAY_HELD };

/* Is it held otherwise than it was granted, by nobody's leave? Not kept in the store: it is looked at again.
 */
enum definition_change { CHANGE_NONE, CHANGE_SEEN, CHANGE_LASTING /* and could not be repaired */ };

/* A virtual resource definition: what it is, what backs it, how far it is. `configured` is its I/O
 * configuration: what the running guest may rely on. */
struct definition {
        uint64_t claim;     /* in the ledger; 0: none. Not kept in the store */
        uint32_t component; /* index of the host resource */
        int64_t amount;     /* of it, in the component's unit */
        enum virtual_kind kind;
        int16_t slot;   /* RAM: cell; DIMM, vCPU, NIC, disk, part of a class of service: slot; -1: of no VM */
        bool prepares;  /* its virtual side is prepared before its host side is activated */
        bool exclusive; /* nobody else may use what backs it */
        int64_t page_bytes; /* memory: of huge pages of this size; 0: of ordinary ones */
        bool host_active, active;
        bool kept; /* its host side was taken over from the run before (3.21), what it contains too */
        bool configured;
        bool moving;    /* what backs it is another component since, and does not hold it yet */
        bool goes_back; /* where it was before: it was turned back on its way there */
        /* Index plus 1 of the component that it leaves, claimed too until it has left it or is back; 0: of
         * none */
        uint32_t from;
        uint64_t claim_from; /* as `claim`, of that one */
        enum definition_way way;
        enum definition_change change;
};

enum phase {
        PHASE_PREPARE = 1,
        PHASE_HOST,
        PHASE_MARK,
        PHASE_VIRTUAL,
        PHASE_BIND,
        PHASE_CONFIRM,
        PHASE_FINALISE,
        PHASE_CONFIGURE,
        PHASE_N
};

struct activation {
        bool is_back, is_lazy;
        enum phase phase;   /* of the step that is journalled; 0: before the first. PHASE_N: up to the end */
        uint16_t item;      /* 0 where the phase has no items */
        enum phase reached; /* on the way back: the step at which the way up ended */
        uint16_t reached_item;
};

enum { ACTIVATION_TEXT = 80 };

/* The list is one of a consumer: at least one virtual and one host resource, none twice (3.1). Else a
 * sentence of what is wrong with it. */
const char *definitions_problem(const struct definition *d, size_t n);
/* Sorts into the order of activation: by kind (memory before vCPUs), then by slot. */
void definitions_sort(struct definition *d, size_t n);

void activation_begin(struct activation *a);
/* Back from where it is. Lazily: the host side stays bound where it is active. On the way back already:
 * nothing changes, but that what was to be lazy no longer is, unless it is asked for again. */
void activation_turn(struct activation *a, struct definition *d, size_t n, bool lazily);
/* Back from behind `virtual`: the rest of a lazy way back. */
void activation_reclaim(struct activation *a, struct definition *d, size_t n);
/* Once more over what is held. */
void activation_repeat(struct activation *a, struct definition *d, size_t n);

enum activation_next {
        ACTIVATION_STEP = 1, /* a->phase and a->item are to be journalled, then carried out and reported */
        ACTIVATION_USABLE,   /* the end of the way up */
        ACTIVATION_HELD,     /* the end of a way back that something was held on: repeat later */
        ACTIVATION_BACK,     /* the end of a way back; a lazy one has left the host side bound */
};
/* To the next step that has something to do. The engine's own steps on the way there are done here; *ret_own
 * is the set of them, as 1 << phase: the definitions are then to be persisted in the same transaction. */
enum activation_next activation_next(struct activation *a, struct definition *d, size_t n, unsigned *ret_own);
/* After a restart: is it at a step that was journalled and may not have been carried out? */
bool activation_is_at_step(const struct activation *a, size_t n);
/* How the step ended. On the way up a failure turns the walk; a->is_back tells. */
void activation_report(struct activation *a, struct definition *d, size_t n, bool good);

/* "prepare"; PHASE_N: "end". */
const char *phase_name(enum phase p);
bool phase_has_items(enum phase p);
/* Has the virtual resource something to do in it? */
bool definition_uses(const struct definition *d, enum phase p);
const char *virtual_kind_name(enum virtual_kind k);
enum virtual_kind virtual_kind_from_name(const char *name); /* 0: none is called so */

/* For the journal: "up host 2", "back bind 1 of confirm 0 lazy". */
const char *activation_print(const struct activation *a, char ret[ACTIVATION_TEXT]);
bool activation_parse(const char *text, struct activation *ret);
