/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/sweep.h"

#include <errno.h>
#include <string.h>

#include "base/str.h"
#include "json/api.h"
#include "meted/keeper.h"
#include "meted/meted.h"

static void next_piece(struct sweep *w);

static void adapt(struct sweep *w, int64_t took_ms)
{
        if (took_ms < SWEEP_SHORT_MS && w->piece_bytes < SWEEP_PIECE_MOST)
                w->piece_bytes *= 2;
        while (took_ms > SWEEP_LONG_MS && w->piece_bytes > SWEEP_PIECE_LEAST) {
                w->piece_bytes /= 2;
                took_ms /= 2;
        }
}

static void on_piece(void *arg, const json_t *result, const struct err *err)
{
        struct sweep *w = arg;
        struct api_keeper_placed placed;
        struct err bad = {0};
        int64_t took_ms = loop_mono_ms() - w->called_ms;
        if (!err && api_keeper_placed_parse(result, &placed, &bad))
                err = &bad;
        if (!err && placed.next_offset < placed.file_bytes && placed.next_offset <= w->offset)
                err = (err_set(&bad, REASON_INTERNAL, EPROTO, "mete-keeper goes back in a memory file"),
                       &bad);
        if (err) {
                w->done(w, err);
                return;
        }
        w->offset = placed.next_offset;
        w->moved_bytes += placed.moved_bytes;
        w->left_bytes += placed.left_bytes;
        bool is_end = placed.next_offset >= placed.file_bytes;
        if (is_end && (w->left_bytes == 0 || w->is_look || ++w->pass == SWEEP_PASSES)) {
                w->done(w, NULL);
                return;
        }
        if (is_end)
                w->offset = w->left_bytes = 0;
        adapt(w, took_ms);
        if (w->is_slow)
                loop_timer_in(&w->pause, took_ms > SWEEP_PAUSE_MS ? took_ms : SWEEP_PAUSE_MS);
        else
                next_piece(w);
}

static void on_pause(void *arg)
{
        next_piece(arg);
}

static void next_piece(struct sweep *w)
{
        struct err err = {0};
        struct api_keeper_place p = {.activation = w->lane,
                                     .n_nodes = w->n_nodes,
                                     .offset = w->offset,
                                     .bytes = w->piece_bytes,
                                     .has_look = w->is_look,
                                     .look = w->is_look};
        if (w->is_wanted && !w->is_wanted(w)) {
                (void)err_set(&err, REASON_CANCELLED, ECANCELED, "it is not wanted there any more");
                w->done(w, &err);
                return;
        }
        (void)STR_COPY(p.vm, w->vm);
        (void)STR_COPY(p.item, w->item);
        memcpy(p.nodes, w->nodes, w->n_nodes * sizeof(*p.nodes));
        w->called_ms = loop_mono_ms();
        keeper_call(w->m->keeper, API_KEEPER_RAM_PLACE, api_keeper_place_emit(&p), NULL, 0, SWEEP_CALL_MS,
                    on_piece, w);
}

void sweep_begin(struct sweep *w)
{
        w->offset = w->moved_bytes = w->left_bytes = 0;
        w->pass = 0;
        w->piece_bytes = SWEEP_PIECE_FIRST;
        loop_timer_init(&w->pause, on_pause, w);
        next_piece(w);
}

void sweep_forget(struct sweep *w)
{
        if (!w->m) /* it never began */
                return;
        loop_timer_cancel(&w->pause);
        if (w->m->keeper)
                keeper_forget(w->m->keeper, w);
}

bool sweep_add_node(struct sweep *w, int64_t node)
{
        for (size_t i = 0; i < w->n_nodes; i++)
                if (w->nodes[i] == node)
                        return true;
        if (w->n_nodes == SWEEP_NODES)
                return false;
        w->nodes[w->n_nodes++] = node;
        return true;
}
