/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/sweep.h"

#include <stdio.h>

#include "base/str.h"
#include "json/api.h"
#include "meted/keeper.h"
#include "meted/machine.h"
#include "meted/meted.h"

enum { MIB_BITS = 20, CALL_MS = 60000 };

void sweep_init(struct sweep *w, const struct machine *v, const struct definition *d)
{
        bool is_dimm = d->kind == VIRTUAL_DIMM;
        *w = (struct sweep){.m = v->m, .lane = machine_lane(v)};
        (void)STR_COPY(w->vm, v->definition.name);
        (void)snprintf(w->item, sizeof(w->item), "%s%d", is_dimm ? "dimm" : "ram",
                       is_dimm ? (int)d->slot : 0); /* all base memory is in one file */
        /* As its VMM is told to make it (vm/argv.h); what the books have of it is in whole growth units. */
        w->file_bytes = is_dimm ? d->amount : v->definition.memory_bytes >> MIB_BITS << MIB_BITS;
}

void sweep_add(struct sweep *w, int64_t bytes, int64_t node, unsigned how)
{
        int64_t begin = w->n_parts > 0 ? w->parts[w->n_parts - 1].end : 0;
        int64_t end = bytes < w->file_bytes - begin ? begin + bytes : w->file_bytes;
        if (end == begin)
                return;
        const struct pieces_part *last = w->n_parts > 0 ? &w->parts[w->n_parts - 1] : NULL;
        bool is_same = last && last->node == node && last->how == how;
        if (is_same || w->n_parts == PIECES_PARTS_MAX) /* a need is met from no more nodes than that */
                w->parts[w->n_parts - 1].end = end;
        else
                w->parts[w->n_parts++] = (struct pieces_part){.end = end, .node = node, .how = how};
}

void sweep_begin(struct sweep *w, bool is_look)
{
        pieces_begin(&w->pieces, w->parts, w->n_parts, is_look);
}

static void on_piece(void *arg, const json_t *result, const struct err *err)
{
        struct sweep *w = arg;
        struct api_keeper_placed placed;
        struct err bad = {0};
        if (!err && api_keeper_placed_parse(result, &placed, &bad))
                err = &bad;
        if (!err) {
                const struct piece_done done = {placed.next_offset, placed.moved_bytes, placed.left_bytes,
                                                placed.there_bytes, placed.took_us};
                w->took_us = placed.took_us;
                if (pieces_take(&w->pieces, &done, &bad))
                        err = &bad;
        }
        if (err && err->reason == REASON_NO_CAPACITY && pieces_skip(&w->pieces))
                err = NULL;
        w->done(w->arg, err);
}

void sweep_piece(struct sweep *w, void (*done)(void *arg, const struct err *err), void *arg)
{
        struct piece next = {0};
        (void)pieces_next(&w->pieces, &next);
        struct api_keeper_place p = {.activation = w->lane,
                                     .n_nodes = 1,
                                     .nodes = {next.node},
                                     .offset = next.offset,
                                     .bytes = next.bytes,
                                     .has_begin = true,
                                     .begin = next.begin,
                                     .has_end = true,
                                     .end = next.end,
                                     .has_file_bytes = true,
                                     .file_bytes = w->file_bytes,
                                     .has_move_bytes = true,
                                     .move_bytes = next.move_bytes,
                                     .has_room_bytes = next.room_bytes > 0,
                                     .room_bytes = next.room_bytes,
                                     .has_look = next.is_look,
                                     .look = next.is_look};
        (void)STR_COPY(p.vm, w->vm);
        (void)STR_COPY(p.item, w->item);
        w->done = done;
        w->arg = arg;
        keeper_call(w->m->keeper, API_KEEPER_RAM_PLACE, api_keeper_place_emit(&p), NULL, 0, CALL_MS, on_piece,
                    w);
}

void sweep_forget(struct sweep *w)
{
        if (w->m && w->m->keeper)
                keeper_forget(w->m->keeper, w);
}
