/* SPDX-License-Identifier: Apache-2.0 */
/* core/pieces.h - in which pieces a memory file of a VM that runs is brought to its nodes (5.9, 5.20).
 *
 * A file has parts, one behind the other, each of which is to lie on one node: so the books say of every page
 * where it is. It is gone over piece by piece, each of which is asked for by itself: so it can be ended, or
 * something else done, between any two, and whoever dies, the next one begins anew. The first time it is
 * only looked at: what lies there already tells how much room the rest takes. Then it is moved; where
 * something was left, as what the kernel has in use at that moment, it is gone over again, PIECES_PASSES
 * times at most.
 *
 * How much is moved at once follows from how long it took the last time: moving a page costs from a
 * microsecond to some milliseconds, by how many CPUs have it mapped and how soon they answer, and all threads
 * of who does it are held meanwhile. What only has to be looked at costs next to nothing, so that has a
 * measure of its own. Pure. Embed it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum {
        PIECES_PARTS_MAX = 8,
        PIECES_PASSES = 3,
        PIECE_LOOK_FIRST = 1 << 20, /* bytes, as all of these */
        PIECE_LOOK_LEAST = 64 << 10,
        PIECE_LOOK_MOST = 16 << 20,
        PIECE_MOVE_FIRST = 64 << 10,
        PIECE_MOVE_LEAST = 64 << 10,
        PIECE_MOVE_MOST = 8 << 20,
        PIECE_SHORT_US = 5000, /* one that took less is followed by a larger one */
        PIECE_LONG_US = 20000  /* and one that took longer by a smaller one */
};

enum {
        PART_OPTIONAL = 1, /* what of it cannot be moved may stay where it is */
        PART_WAS_THERE = 2 /* before: nothing more may come to the node by it than might have, so that only
                              what is moved takes room */
};

struct pieces_part {
        int64_t end; /* in the file; it begins where the one before ends */
        int64_t node;
        unsigned how;        /* of PART_* */
        int64_t there_bytes; /* of it, what was found where it is to be */
};

struct pieces {
        size_t n_parts;
        struct pieces_part parts[PIECES_PARTS_MAX];
        bool is_look; /* no more than that: left_bytes is what would be moved */
        /* how far it is */
        int pass; /* 0: the look */
        size_t part;
        int64_t offset, look_bytes, move_bytes;
        int64_t moved_bytes;    /* in all */
        int64_t left_bytes;     /* in this pass */
        int64_t optional_bytes; /* likewise, of what is optional: gone over again, but for nothing else */
};

/* What is to be asked for. */
struct piece {
        int64_t begin, end;    /* the part of the file */
        int64_t node;          /* on which it is to lie */
        int64_t offset, bytes; /* the piece of it */
        int64_t move_bytes;    /* of which no more than so much is moved */
        int64_t room_bytes;    /* so much more is to come to the node; 0: no more than of this piece */
        bool is_look;
};

/* What came of it. */
struct piece_done {
        int64_t next_offset; /* where the next one begins; `end`: that was the last */
        int64_t moved_bytes, left_bytes, there_bytes;
        int64_t took_us; /* 0: not known */
};

/* Parts: all but there_bytes is set; 1 to PIECES_PARTS_MAX, none empty. */
void pieces_begin(struct pieces *p, const struct pieces_part *parts, size_t n_parts, bool is_look);
/* false: all was gone over; what could not be moved is in left_bytes. */
bool pieces_next(const struct pieces *p, struct piece *ret);
/* Of the piece that pieces_next() says. -EPROTO: that cannot have come of it, and nothing has changed. */
int pieces_take(struct pieces *p, const struct piece_done *done, struct err *err);
/* It could not be, as there is no room. true: the part is optional, and what is left of it stays, this time;
 * on with the next. */
bool pieces_skip(struct pieces *p);
/* For so long it may take to move these bytes where at least bytes_per_s are: with a minute for what is not
 * moving. Milliseconds, a day at most. */
enum { PIECES_BOUND_LEAST_MS = 60000, PIECES_BOUND_MOST_MS = 86400000 };
int64_t pieces_bound_ms(int64_t bytes, int64_t bytes_per_s);
