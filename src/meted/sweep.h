/* SPDX-License-Identifier: Apache-2.0 */
/* meted/sweep.h - a memory file of a VM that runs is looked at, or brought to its nodes, piece by piece.
 *
 * Which piece is next is core/pieces.h; each is one call of the keeper (ram-place) that is bounded and stands
 * for itself. Who sweeps decides what comes between two of them: the steps of a VM that moves memory are a
 * piece each (activate-place.c), a survey only waits for the answer (handover-separate.c). How long a file
 * is, and what lies where in it, is said by the books alone: the file itself is its VMM's. Embed it. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "core/activation.h"
#include "core/pieces.h"

struct machine;
struct meted;

struct sweep {
        struct meted *m;
        char vm[64], item[32];
        int64_t lane; /* machine_lane() */
        int64_t file_bytes;
        size_t n_parts;
        struct pieces_part parts[PIECES_PARTS_MAX];
        struct pieces pieces;
        int64_t took_us; /* of the last piece */
        void (*done)(void *arg, const struct err *err);
        void *arg;
};

/* The file that is behind d, a part of the VM's base memory or a DIMM. Without parts yet. */
void sweep_init(struct sweep *w, const struct machine *v, const struct definition *d);
/* So many bytes more of it, behind those before, are to lie on this node; how: of PART_*. */
void sweep_add(struct sweep *w, int64_t bytes, int64_t node, unsigned how);
/* All parts are there. is_look: only how much would be moved. */
void sweep_begin(struct sweep *w, bool is_look);
/* The piece that pieces_next() says. Borrows w until done(), where w->pieces is that much further, or as it
 * was. */
void sweep_piece(struct sweep *w, void (*done)(void *arg, const struct err *err), void *arg);
/* done() does not come any more. Idempotent. */
void sweep_forget(struct sweep *w);
