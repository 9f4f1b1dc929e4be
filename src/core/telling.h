/* SPDX-License-Identifier: Apache-2.0 */
/* core/telling.h - what one guest is told of each component of its host, and when: the part of host hardware
 * information (HHI) that changes with every grant. json/hhi.h is how it is said.
 *
 * A row says what of a component is the guest's, what is free, and one word for all of it. Others are never
 * identified (2.22): what is neither the guest's nor free is "taken", whoever has it. The guest's is what it
 * was told that it may rely on (the I/O configuration), not what is on its way there or back.
 *
 * Telling: one message is under way at a time, and none within TELLING_PAUSE_MS of the one before. A change
 * gives the view a new generation, and so does a message of which it is not known what became: the guest may
 * have it, and takes none of the same generation. A message is a delta against the last generation that the
 * guest said it has, or all of it where it has none, or not that one. Generations only rise, over restarts of
 * ours too, as a guest says on connecting which it has.
 *
 * Pure, no allocation. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/component.h"

struct hypervisor;

enum { TELLING_PAUSE_MS = 50 };

enum told_mark {
        TOLD_YOURS = 1, /* at least a part of it */
        TOLD_FREE,      /* at least a part of it, and none is yours */
        TOLD_TAKEN,
        TOLD_RESERVED, /* for the host itself */
        TOLD_OFFLINE,  /* failed, or gone */
        TOLD_MARK_N
};
const char *told_mark_name(enum told_mark mark); /* "yours" */

struct told {
        int64_t capacity, yours, free; /* in the component's unit */
        uint64_t slots;                /* which vCPUs are on it, or which DIMMs */
        bool has_base;                 /* memory that the guest began with */
        enum told_mark mark;
};
bool told_is_equal(const struct told *a, const struct told *b);

/* The rows of all components, in their order. vm: a name; of one that is not known nothing is its own. */
void hypervisor_told(const struct hypervisor *h, const char *vm, struct told *ret);

/* ---- telling one guest ---- */
struct telling {
        uint64_t generation; /* of the view as it is now */
        uint64_t known;      /* that the guest has, by its own word; 0: none */
        uint64_t sent;       /* under way; 0: nothing is */
        bool is_connected;
        bool is_known_here; /* what `known` looks like is still known here: a delta against it can be made */
        bool is_full;       /* what is under way, or was the last */
        bool is_rewritten; /* since what is under way was written: no delta can be made against that either */
        int64_t not_before_ms;
        int64_t full_after_ms; /* all of it is dear to write, and a guest can have it wanted: not again before
                                */
        int32_t back_off_ms;   /* between the last two; it ends when a delta was applied */
};

enum telling_what { TELL_NOTHING, TELL_LATER, TELL_DELTA, TELL_FULL };

/* The view is another one. */
void telling_changed(struct telling *t);
/* The machine itself is described otherwise: the guest is to get all of it. */
void telling_rewritten(struct telling *t);
/* Another host has told the guest, of this generation at the latest: whatever it is told is a later one, also
 * where the guest has forgotten what it had. */
void telling_follows(struct telling *t, uint64_t generation);
/* The guest greets, and says which generation it has; 0: none. */
void telling_connected(struct telling *t, uint64_t known);
void telling_lost(struct telling *t);
/* What is to be sent now: then it is under way, with t->generation, and a delta is against t->known.
 * TELL_LATER: not before t->not_before_ms. */
enum telling_what telling_next(struct telling *t, int64_t now_ms);
/* The guest answered to what is under way: it has it, or could make nothing of it, or did not answer in time:
 * then it gets all. Of anything else: nothing changes. */
void telling_answered(struct telling *t, uint64_t generation, bool is_applied);
