/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet/learnt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include "base/str.h"
#include "json/api.h"

static const enum learn_cost cost_of[API_MOVE_COST_N] = {
        [API_MOVE_COST_SETUP] = LEARN_SETUP,
        [API_MOVE_COST_STOP] = LEARN_STOP,
        [API_MOVE_COST_DEVICE] = LEARN_DEVICE,
        [API_MOVE_COST_COMMIT] = LEARN_COMMIT,
        [API_MOVE_COST_RUN] = LEARN_RUN,
        [API_MOVE_COST_ZERO_PAGE] = LEARN_ZERO_PAGE,
        [API_MOVE_COST_SOURCE_CPU] = LEARN_SOURCE_CPU,
        [API_MOVE_COST_DESTINATION_CPU] = LEARN_DESTINATION_CPU,
        [API_MOVE_COST_DEVICE_BYTES] = LEARN_DEVICE_BYTES,
        [API_MOVE_COST_STREAM] = LEARN_STREAM,
        [API_MOVE_COST_GOODPUT] = LEARN_GOODPUT,
        [API_MOVE_COST_RESUME] = LEARN_RESUME,
};

/* Parts of a second, of a byte or of a link, of which the document has whole numbers. */
static double parts(enum learn_cost c)
{
        return c == LEARN_DEVICE_BYTES ? 1e3 : 1e12;
}

static void emit_row(const struct learnt *row, struct api_learnt_machine *ret)
{
        *ret = (struct api_learnt_machine){0};
        (void)STR_COPY(ret->machine, row->machine);
        for (int i = 0; i < API_MOVE_COST_N; i++) {
                const struct learnt_figure *f = &row->figure[cost_of[i]];
                if (cost_of[i] == 0 || f->weight <= 0)
                        continue;
                ret->costs[ret->n_costs++] = (struct api_learnt_cost){
                        .cost = (enum api_move_cost)i,
                        .mean = llround(f->mean * parts(cost_of[i])),
                        .deviation = llround(f->deviation * parts(cost_of[i])),
                        .weight_milli = llround(fmax(f->weight * 1000, 1)),
                        .has_told = f->is_told,
                        .told = f->is_told,
                };
        }
}

json_t *learnt_emit(const struct learn *l, const char *peer)
{
        struct api_learnt *d = calloc(1, sizeof(*d));
        const struct learnt *row;
        json_t *document = NULL;
        while (d && d->n_machines < ARRAY_N(d->machines) && (row = learn_row(l, peer, d->n_machines)))
                emit_row(row, &d->machines[d->n_machines++]);
        if (d && d->n_machines > 0)
                document = api_learnt_emit(d);
        free(d);
        return document;
}

int learnt_parse(struct learn *l, const char *peer, const json_t *document, struct err *err)
{
        struct api_learnt *d = calloc(1, sizeof(*d));
        int r = d ? api_learnt_parse(document, d, err) : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        for (size_t i = 0; r == 0 && i < d->n_machines; i++) {
                struct learnt row = {0};
                (void)STR_COPY(row.peer, peer);
                (void)STR_COPY(row.machine, d->machines[i].machine);
                for (size_t k = 0; k < d->machines[i].n_costs; k++) {
                        const struct api_learnt_cost *c = &d->machines[i].costs[k];
                        enum learn_cost which = cost_of[c->cost];
                        row.figure[which] = (struct learnt_figure){
                                (double)c->mean / parts(which), (double)c->deviation / parts(which),
                                (double)c->weight_milli / 1000, c->has_told && c->told};
                }
                (void)learn_put(l, &row);
        }
        free(d);
        return r;
}
