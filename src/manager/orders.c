/* SPDX-License-Identifier: Apache-2.0 */
/* manager/orders.c - orders, as they are recorded, carried out and shown. What is to be done is decided in
 * core/order.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "json/read.h"
#include "manager/crash.h"
#include "manager/manager.h"

#define ANY "any"

/* An order, with what the daemon keeps of it. Its calls carry a copy of the number of the call that was made
 * last, so that none that was given up is taken for it. */
struct job {
        struct manager *m;
        struct order core;
        bool is_best_effort;
        bool is_dirty, is_writing; /* it is to be recorded; it is being, as it was then */
        char *recorded, *writing;  /* as it is, and as it was then; NULL: not at all */
        enum api_on_miss on_miss;
        char drain[40], words[MANAGER_WORDS]; /* "": none */
        struct api_move *seen;                /* what its host said last, or NULL */
        enum order_call want;                 /* to be made when it is recorded */
        struct http_call *call;
        enum order_call calling;
        struct loop_timer due;
        GList *askers; /* struct http_request */
};

static void on_due(void *arg);

static struct job *job_new(struct manager *m)
{
        struct job *j = g_new0(struct job, 1);
        j->m = m;
        loop_timer_init(&j->due, on_due, j);
        return j;
}

static void job_free(void *arg)
{
        struct job *j = arg;
        struct err err = {0};
        (void)err_set(&err, REASON_BUSY, ECANCELED, "mete-manager stops; ask again");
        for (GList *l = j->askers; l; l = l->next)
                api_refuse(l->data, &err);
        g_list_free(j->askers);
        loop_timer_cancel(&j->due);
        if (j->call)
                http_call_cancel(j->call);
        g_free(j->seen);
        free(j->recorded);
        free(j->writing);
        g_free(j);
}

static struct job *find(const struct manager *m, const char *id)
{
        return g_hash_table_lookup(m->orders, id);
}

/* ---- as JSON: shown, and recorded ---- */

static struct api_move_level level_out(const struct level *l)
{
        return (struct api_move_level){.has_total_ms = l->total_ms > 0,
                                       .total_ms = l->total_ms,
                                       .has_downtime_ms = l->downtime_ms > 0,
                                       .downtime_ms = l->downtime_ms};
}

static struct level level_in(bool has, const struct api_move_level *l)
{
        return (struct level){.total_ms = has && l->has_total_ms ? l->total_ms : 0,
                              .downtime_ms = has && l->has_downtime_ms ? l->downtime_ms : 0};
}

static bool has_bound(const struct level *l)
{
        return l->total_ms > 0 || l->downtime_ms > 0;
}

static json_t *view(const struct job *j)
{
        const struct order *o = &j->core;
        struct api_order *to = g_new0(struct api_order, 1);
        (void)STR_COPY(to->id, o->id);
        to->key = o->key;
        to->has_words = *j->words != '\0';
        (void)STR_COPY(to->words, j->words);
        (void)STR_COPY(to->vm, o->vm);
        (void)STR_COPY(to->from, o->from);
        to->n_to = o->n_to;
        for (size_t i = 0; i < o->n_to; i++)
                (void)STR_COPY(to->to[i], o->to[i]);
        to->at = (int64_t)o->at;
        to->state = (enum api_order_state)o->state;
        to->round = o->round;
        to->accepts = o->accepts;
        to->has_level = has_bound(&o->level);
        to->level = level_out(&o->level);
        to->has_floor = has_bound(&o->floor);
        to->floor = level_out(&o->floor);
        to->has_offer = has_bound(&o->offer);
        to->offer = level_out(&o->offer);
        to->has_ask = to->ask = o->is_asking;
        to->has_taken = has_bound(&o->taken);
        to->taken = level_out(&o->taken);
        to->has_best_effort = to->best_effort = j->is_best_effort;
        to->has_on_miss = j->on_miss != 0;
        to->on_miss = j->on_miss;
        to->has_drain = *j->drain != '\0';
        (void)STR_COPY(to->drain, j->drain);
        to->asked_ms = o->asked_ms;
        to->until_ms = o->until_ms;
        to->has_next_ms = o->next_ms > 0;
        to->next_ms = o->next_ms;
        to->has_lost_ms = o->lost_ms > 0;
        to->lost_ms = o->lost_ms;
        to->has_ended_ms = o->ended_ms > 0;
        to->ended_ms = o->ended_ms;
        to->has_reason = o->reason != 0;
        to->reason = o->reason;
        to->has_sentence = *o->sentence != '\0';
        (void)STR_COPY(to->sentence, o->sentence);
        to->has_move = j->seen != NULL;
        if (j->seen)
                to->move = *j->seen;
        json_t *v = api_order_emit(to);
        g_free(to);
        return v;
}

/* What is not recorded is not so yet. */
static json_t *shown(const struct job *j)
{
        if (!j->is_dirty && !j->is_writing)
                return view(j);
        return j->recorded ? json_read(j->recorded, strlen(j->recorded), NULL) : NULL;
}

static int take_record(struct job *j, const struct api_order *in, struct err *err)
{
        struct order *o = &j->core;
        if ((size_t)in->at >= in->n_to)
                return err_set(err, REASON_INTERNAL, EBADMSG, "at: there are %zu hosts", in->n_to);
        (void)STR_COPY(o->id, in->id);
        o->key = (uint32_t)in->key;
        if (in->has_words)
                (void)STR_COPY(j->words, in->words);
        (void)STR_COPY(o->vm, in->vm);
        (void)STR_COPY(o->from, in->from);
        o->n_to = in->n_to;
        for (size_t i = 0; i < in->n_to; i++)
                (void)STR_COPY(o->to[i], in->to[i]);
        o->at = (size_t)in->at;
        o->state = (enum order_state)in->state;
        o->round = (unsigned)in->round;
        o->accepts = (unsigned)in->accepts;
        o->level = level_in(in->has_level, &in->level);
        o->floor = level_in(in->has_floor, &in->floor);
        o->taken = level_in(in->has_taken, &in->taken);
        o->offer = level_in(in->has_offer, &in->offer);
        o->is_asking = in->has_ask && in->ask;
        j->is_best_effort = in->has_best_effort && in->best_effort;
        j->on_miss = in->has_on_miss ? in->on_miss : 0;
        if (in->has_drain)
                (void)STR_COPY(j->drain, in->drain);
        o->asked_ms = in->asked_ms;
        o->until_ms = in->until_ms;
        o->next_ms = in->has_next_ms ? in->next_ms : 0;
        o->lost_ms = in->has_lost_ms ? in->lost_ms : 0;
        o->ended_ms = in->has_ended_ms ? in->ended_ms : 0;
        o->reason = in->has_reason ? in->reason : 0;
        if (in->has_sentence)
                (void)STR_COPY(o->sentence, in->sentence);
        if (in->has_move)
                j->seen = g_memdup2(&in->move, sizeof(in->move));
        return 0;
}

static int load_one(const char *id, const char *text, void *arg, struct err *err)
{
        struct manager *m = arg;
        struct job *j = job_new(m);
        struct api_order *in = g_new0(struct api_order, 1);
        json_t *v = json_read(text, strlen(text), err);
        int bad = v ? api_order_parse(v, in, err) : -EPROTO;
        bad = bad ? bad : take_record(j, in, err);
        json_decref(v);
        g_free(in);
        if (bad) {
                job_free(j);
                return err_note(err, "the order %s in the store", id);
        }
        j->recorded = strdup(text);
        g_hash_table_insert(m->orders, j->core.id, j);
        return 0;
}

/* ---- stepping ---- */

static void apply(struct job *j, const struct order_effects *e)
{
        struct order *o = &j->core;
        char trace[128];
        if (e->call) {
                if (j->call)
                        http_call_cancel(j->call);
                j->call = NULL;
                j->want = e->call;
                j->m->counters.rounds += e->call == ORDER_CALL_ASK;
        }
        j->is_dirty = j->is_dirty || e->is_changed;
        if (e->is_changed)
                manager_crash_point("order", order_state_name(o->state), "decided");
        if (e->is_decided) {
                (void)snprintf(trace, sizeof(trace), "%s/%s", o->vm, o->id);
                manager_say(j->m, trace, o->vm, order_state_name(o->state), o->sentence);
        }
        if (e->is_changed && order_is_over(o))
                j->m->counters.ended[o->state]++;
        if (o->due_ms > 0)
                loop_timer_in(&j->due, o->due_ms > loop_now_ms() ? o->due_ms - loop_now_ms() : 0);
        else
                loop_timer_cancel(&j->due);
        manager_changed(j->m);
}

static void step(struct job *j, struct order_event *ev)
{
        struct order_effects e;
        ev->now_ms = loop_now_ms();
        order_step(&j->core, ev, &e);
        apply(j, &e);
}

static void on_due(void *arg)
{
        struct order_event ev = {.kind = ORDER_EV_TIME};
        step(arg, &ev);
}

/* ---- calls ---- */

static enum order_seen kind_of(const struct api_move *in)
{
        if (strcmp(in->state, "done") == 0)
                return ORDER_SEEN_DONE;
        if (strcmp(in->state, "countered") == 0)
                return ORDER_SEEN_COUNTERED;
        return in->has_ended_ms ? ORDER_SEEN_ENDED : ORDER_SEEN_GOING;
}

static void take_move(struct job *j, const struct api_move *in, struct order_event *ev)
{
        ev->seen = kind_of(in);
        for (size_t i = 0; i < in->n_offers && i < ORDER_OFFERS_MAX; i++)
                ev->offers[ev->n_offers++] = level_in(true, &in->offers[i].level);
        ev->earliest_ms = in->has_earliest_ms ? in->earliest_ms : 0;
        ev->reason = in->has_reason ? in->reason : 0;
        if (in->has_sentence && *in->sentence)
                (void)STR_COPY(ev->sentence, in->sentence);
        else if (in->has_limit)
                (void)snprintf(ev->sentence, sizeof(ev->sentence), "there is too little of: %s", in->limit);
        /* What it said it could keep is of interest longer than the words with which it ends. */
        bool keeps = j->seen && j->seen->n_offers > 0 && in->n_offers == 0;
        struct api_move *old = j->seen;
        j->seen = g_memdup2(in, sizeof(*in));
        if (keeps && strcmp(old->id, in->id) == 0) {
                memcpy(j->seen->offers, old->offers, sizeof(old->offers));
                j->seen->n_offers = old->n_offers;
                j->seen->has_limit = old->has_limit;
                memcpy(j->seen->limit, old->limit, sizeof(old->limit));
        }
        g_free(old);
        j->is_dirty = j->is_dirty || ev->seen != ORDER_SEEN_GOING;
}

static void lost(struct order_event *ev, const struct err *err)
{
        ev->seen = ORDER_SEEN_LOST;
        ev->reason = err->reason;
        (void)STR_COPY(ev->sentence, err->sentence);
}

static void hear(struct job *j, enum order_call call, const struct http_answer *answer,
                 struct order_event *ev)
{
        char id[ORDER_MOVE_ID];
        struct err err = {0};
        if (answer->status == 404 && call != ORDER_CALL_ASK) {
                ev->seen = ORDER_SEEN_UNKNOWN;
                return;
        }
        if (answer->status != 200) {
                bool is_said = fleet_refusal(answer, j->core.from, &err);
                lost(ev, &err);
                ev->seen = is_said ? ORDER_SEEN_REFUSED : ORDER_SEEN_LOST;
                return;
        }
        struct api_move *in = g_new0(struct api_move, 1);
        json_t *v = json_read(answer->body, answer->body_n, &err);
        if (!v || api_move_parse(v, in, &err)) {
                lost(ev, &err);
        } else if (strcmp(in->id, order_move_id(&j->core, id)) != 0 || strcmp(in->vm, j->core.vm) != 0 ||
                   in->role != API_MOVE_ROLE_SOURCE) {
                (void)err_set(&err, REASON_INVALID, EPROTO, "it answers with another move than %s", id);
                lost(ev, &err);
        } else {
                take_move(j, in, ev);
        }
        json_decref(v);
        g_free(in);
}

static void on_answer(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                      const struct err *err)
{
        struct job *j = arg;
        struct order_event ev = {.kind = ORDER_EV_SEEN};
        struct err bad = {0};
        j->call = NULL;
        manager_crash_point("order", order_state_name(j->core.state), "heard");
        if (!err && peer && fleet_check_peer(j->core.from, peer, &bad)) {
                lost(&ev, &bad);
        } else if (!err) {
                hear(j, j->calling, answer, &ev);
        } else {
                lost(&ev, err);
                /* There was no connection over which it could have been asked. */
                if (j->calling == ORDER_CALL_ASK && err->reason == REASON_DENIED)
                        ev.seen = ORDER_SEEN_UNASKED;
        }
        step(j, &ev);
}

static json_t *ask_body(const struct job *j)
{
        const struct level *l = order_level(&j->core);
        char id[ORDER_MOVE_ID];
        struct api_vm_move out = {.has_id = true, .has_level = has_bound(l), .level = level_out(l)};
        (void)STR_COPY(out.to, order_host(&j->core));
        (void)STR_COPY(out.id, order_move_id(&j->core, id));
        out.has_best_effort = out.best_effort = j->is_best_effort;
        out.has_on_miss = j->on_miss != 0;
        out.on_miss = j->on_miss;
        return api_vm_move_emit(&out);
}

static void make_call(struct job *j)
{
        const struct order *o = &j->core;
        struct err err = {0};
        char id[ORDER_MOVE_ID], path[160];
        enum order_call call = j->want;
        json_t *body = NULL;
        j->want = ORDER_CALL_NONE;
        (void)snprintf(path, sizeof(path), "/v1/moves/%s%s", order_move_id(o, id),
                       call == ORDER_CALL_ACCEPT ? "/accept" : "");
        if (call == ORDER_CALL_ASK) {
                (void)snprintf(path, sizeof(path), "/v1/vms/%s/move", o->vm);
                body = ask_body(j);
        } else if (call == ORDER_CALL_ACCEPT) {
                struct api_move_accept out = {.level = level_out(&o->taken)};
                body = api_move_accept_emit(&out);
        }
        const char *method = body ? "POST" : call == ORDER_CALL_BREAK ? "DELETE" : "GET";
        j->calling = call;
        j->call = fleet_call(j->m, o->from, method, path, body, call == ORDER_CALL_ASK, on_answer, j, &err);
        if (!j->call) {
                struct order_event ev = {.kind = ORDER_EV_SEEN};
                lost(&ev, &err);
                step(j, &ev);
        }
}

/* ---- the transaction ---- */

static int write_one(struct job *j, struct err *err)
{
        json_t *v = view(j);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        if (!text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        record_put(j->m->record, STORE_ORDER, j->core.id, text);
        j->writing = text;
        j->is_dirty = false;
        j->is_writing = true;
        return 0;
}

int orders_write(struct manager *m, const char *drain, struct err *err)
{
        GHashTableIter i;
        gpointer p;
        int bad = 0;
        g_hash_table_iter_init(&i, m->orders);
        while (!bad && g_hash_table_iter_next(&i, NULL, &p)) {
                struct job *j = p;
                if (j->is_dirty && (drain ? strcmp(j->drain, drain) == 0 : record_has_room(m->record)))
                        bad = write_one(j, err);
        }
        return bad;
}

void orders_unwritten(struct manager *m)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->orders);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                struct job *j = p;
                j->is_dirty = j->is_dirty || j->is_writing;
                j->is_writing = false;
                free(j->writing);
                j->writing = NULL;
        }
}

/* Under way, waiting, offered or over: whoever asked hears of it. */
static bool is_decided(const struct job *j)
{
        return j->core.state == ORDER_MOVING || j->core.state == ORDER_WAITING ||
               j->core.state == ORDER_OFFERED || order_is_over(&j->core);
}

static void answer(struct job *j)
{
        GList *all = j->askers;
        j->askers = NULL;
        for (GList *l = all; l; l = l->next)
                api_reply(l->data, view(j));
        g_list_free(all);
}

void orders_written(struct manager *m)
{
        GList *all = g_hash_table_get_values(m->orders);
        for (GList *l = all; l; l = l->next) {
                struct job *j = l->data;
                bool was_written = j->is_writing;
                j->is_writing = false;
                if (was_written) {
                        free(j->recorded);
                        j->recorded = j->writing;
                        j->writing = NULL;
                }
                if (j->is_dirty) { /* it has gone on since; nothing is done of what is not recorded */
                        manager_changed(m);
                        continue;
                }
                if (was_written)
                        manager_crash_point("order", order_state_name(j->core.state), "recorded");
                if (is_decided(j))
                        answer(j);
                if (was_written && order_is_over(&j->core) && *j->drain)
                        drains_heard(m, j->drain);
                if (j->want)
                        make_call(j);
                if (was_written)
                        manager_crash_point("order", order_state_name(j->core.state), "done");
        }
        g_list_free(all);
}

/* ---- what is asked for ---- */

size_t orders_live(const struct manager *m)
{
        size_t n = 0;
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->orders);
        while (g_hash_table_iter_next(&i, NULL, &p))
                n += !order_is_over(&((struct job *)p)->core);
        return n;
}

static struct job *oldest_over(const struct manager *m, size_t *ret_n)
{
        struct job *oldest = NULL;
        GHashTableIter i;
        gpointer p;
        *ret_n = 0;
        g_hash_table_iter_init(&i, m->orders);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                struct job *j = p;
                if (!order_is_over(&j->core) || j->askers || j->is_dirty || j->is_writing ||
                    (*j->drain && drains_is_live(m, j->drain)))
                        continue;
                ++*ret_n;
                if (!oldest || j->core.ended_ms < oldest->core.ended_ms)
                        oldest = j;
        }
        return oldest;
}

/* Of those that are over only the newest are kept; those of a drain that is under way all are. */
static void trim(struct manager *m)
{
        size_t n;
        for (struct job *j; (j = oldest_over(m, &n)) != NULL && n > MANAGER_ORDERS_KEPT;) {
                used_add(m, STORE_ORDER, j->core.id, j->words, j->core.ended_ms);
                g_hash_table_remove(m->orders, j->core.id);
        }
}

static int check_vm(const struct manager *m, const char *vm, struct err *err)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->orders);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                const struct job *j = p;
                if (!order_is_over(&j->core) && strcmp(j->core.vm, vm) == 0)
                        return err_set(err, REASON_BUSY, EBUSY, "%s is being moved already: order %s", vm,
                                       j->core.id);
        }
        return 0;
}

static int check_room(struct manager *m, struct err *err)
{
        trim(m);
        if (orders_live(m) >= MANAGER_ORDERS_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "%d orders are under way, more are not",
                               MANAGER_ORDERS_MAX);
        return 0;
}

static bool is_new(const struct manager *m, const char *id)
{
        return !find(m, id) && !used_words(m, STORE_ORDER, id);
}

void orders_draw_id(const struct manager *m, const char *stem, char ret[ORDER_ID])
{
        unsigned n = 1;
        do {
                if (stem)
                        (void)snprintf(ret, ORDER_ID, "%.29s.%u", stem, n++);
                else
                        (void)snprintf(ret, ORDER_ID, "o%08x%08x", g_random_int(), g_random_int());
        } while (!is_new(m, ret));
}

int orders_give(struct manager *m, const struct order *o, const struct order_terms *terms, struct err *err)
{
        struct order_effects e;
        int bad = is_new(m, o->id) ? check_vm(m, o->vm, err)
                                   : err_set(err, REASON_INVALID, EEXIST, "the id %s was used before", o->id);
        bad = bad ? bad : check_room(m, err);
        if (bad)
                return bad;
        struct job *j = job_new(m);
        j->core = *o;
        j->core.key = g_random_int();
        j->is_best_effort = terms->is_best_effort;
        j->on_miss = terms->on_miss;
        if (terms->drain)
                (void)STR_COPY(j->drain, terms->drain);
        if (terms->words)
                (void)STR_COPY(j->words, terms->words);
        g_hash_table_insert(m->orders, j->core.id, j);
        order_begin(&j->core, loop_now_ms(), &e);
        apply(j, &e);
        return 0;
}

const struct order *orders_of_drain(const struct manager *m, const char *id, const char *drain)
{
        const struct job *j = find(m, id);
        return j && strcmp(j->drain, drain) == 0 ? &j->core : NULL;
}

void orders_break(struct manager *m, const char *id)
{
        struct job *j = find(m, id);
        struct order_event ev = {.kind = ORDER_EV_CANCEL};
        if (j)
                step(j, &ev);
}

/* Where it is to go, of those that can have it. */
static int choose(const struct manager *m, const char *to, struct order *o, struct err *err)
{
        const struct fleet_host *h = fleet_of_vm(m, o->vm, err);
        if (!h)
                return -err->code;
        (void)STR_COPY(o->from, h->entry->name);
        if (strcmp(to, ANY) == 0) {
                o->n_to = fleet_any(m, h, fleet_vm(h, o->vm), o->to, ORDER_TO_MAX);
                return o->n_to > 0 ? 0
                                   : err_set(err, REASON_NO_CAPACITY, ENOSPC,
                                             "no other host that answers has room for %s", o->vm);
        }
        if (strcmp(to, o->from) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s runs on %s already", o->vm, to);
        if (!fleet_find(m, to))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no host is called %s (mete host list)", to);
        o->n_to = 1;
        (void)STR_COPY(o->to[0], to);
        return 0;
}

static int64_t or_else(bool has, int64_t value, int64_t other)
{
        return has ? value : other;
}

/* What the configuration says counts only for bounds that are asked for. */
static int read_ask(const struct manager *m, const struct api_order_ask *in, struct order *o, struct err *err)
{
        const struct api_move_level *f = &in->floor;
        struct level l = level_in(in->has_level, &in->level);
        l.is_best_effort = !in->has_level || (in->has_best_effort && in->best_effort);
        o->level = l;
        o->floor = (struct level){
                .total_ms = or_else(in->has_floor && f->has_total_ms, f->total_ms, m->config.floor_total_ms),
                .downtime_ms = or_else(in->has_floor && f->has_downtime_ms, f->downtime_ms,
                                       m->config.floor_downtime_ms)};
        o->is_asking = in->has_ask && in->ask;
        o->floor.total_ms = l.total_ms ? o->floor.total_ms : 0;
        o->floor.downtime_ms = l.downtime_ms ? o->floor.downtime_ms : 0;
        o->until_ms = loop_now_ms() + or_else(in->has_wait_ms, in->wait_ms, m->config.wait_ms);
        if (in->has_id)
                (void)STR_COPY(o->id, in->id);
        else
                orders_draw_id(m, NULL, o->id);
        return in->has_level ? level_check(&l, err) : 0;
}

void orders_ask(struct manager *m, struct http_request *req, const char *vm, const json_t *body)
{
        struct api_order_ask in = {0};
        struct order o = {0};
        struct err err = {0};
        char words[MANAGER_WORDS];
        (void)STR_COPY(o.vm, vm);
        int bad = api_order_ask_parse(body, &in, &err);
        bad = bad ? bad : read_ask(m, &in, &o, &err);
        in.has_id = false; /* nothing of what is asked for */
        api_words(vm, bad ? NULL : api_order_ask_emit(&in), words);
        struct job *j = bad ? NULL : find(m, o.id);
        if (j && strcmp(j->words, words) != 0)
                bad = err_set(&err, REASON_INVALID, EEXIST,
                              "the id %s was used before, for %s and with other words", o.id, j->core.vm);
        bad = bad || j ? bad : used_check(m, STORE_ORDER, o.id, words, &err);
        bad = bad || j ? bad : choose(m, in.to, &o, &err);
        const struct order_terms terms = {.is_best_effort = o.level.is_best_effort,
                                          .on_miss = in.has_on_miss ? in.on_miss : 0,
                                          .words = words};
        bad = bad || j ? bad : orders_give(m, &o, &terms, &err);
        if (bad) {
                api_refuse(req, &err);
                return;
        }
        j = find(m, o.id);
        j->askers = g_list_prepend(j->askers, req);
        manager_changed(m);
}

/* Answered when it is known what came of it. */
static void answer_choice(struct job *j, struct http_request *req, int bad, const struct order_effects *e,
                          const struct err *err)
{
        if (bad) {
                api_refuse(req, err);
                return;
        }
        j->askers = g_list_prepend(j->askers, req);
        apply(j, e);
}

void orders_accept(struct manager *m, struct http_request *req, const char *id, const json_t *body)
{
        struct job *j = find(m, id);
        struct api_order_accept in = {0};
        struct order_effects e;
        struct err err = {0};
        int bad = j ? api_order_accept_parse(body, &in, &err)
                    : err_set(&err, REASON_NOT_FOUND, ENOENT, "no order is called %s", id);
        const struct level l = level_in(true, &in.level);
        bad = bad ? bad : order_accept(&j->core, in.has_level ? &l : NULL, loop_now_ms(), &e, &err);
        answer_choice(j, req, bad, &e, &err);
}

void orders_decline(struct manager *m, struct http_request *req, const char *id)
{
        struct job *j = find(m, id);
        struct order_effects e;
        struct err err = {0};
        int bad = j ? order_decline(&j->core, loop_now_ms(), &e, &err)
                    : err_set(&err, REASON_NOT_FOUND, ENOENT, "no order is called %s", id);
        answer_choice(j, req, bad, &e, &err);
}

void orders_cancel(struct manager *m, struct http_request *req, const char *id)
{
        struct job *j = find(m, id);
        struct err err = {0};
        if (!j) {
                (void)err_set(&err, REASON_NOT_FOUND, ENOENT, "no order is called %s", id);
                api_refuse(req, &err);
                return;
        }
        j->askers = g_list_prepend(j->askers, req);
        orders_break(m, id); /* answered when it is over */
}

json_t *orders_show(const struct manager *m, const char *id, struct err *err)
{
        const struct job *j = find(m, id);
        json_t *v = j ? shown(j) : NULL;
        if (!v)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "no order is called %s", id);
        return v;
}

static int by_name(gconstpointer a, gconstpointer b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

json_t *orders_list(const struct manager *m, const char *query, struct err *err)
{
        struct api_fleet_query q = {0};
        if (api_fleet_query_read(query, &q, err))
                return NULL;
        guint n = 0;
        gpointer *ids = g_hash_table_get_keys_as_array(m->orders, &n);
        if (n > 1)
                qsort(ids, n, sizeof(*ids), by_name);
        json_t *list = json_array(), *page = json_object();
        size_t limit = q.has_limit ? (size_t)q.limit : MANAGER_PAGE;
        const char *last = NULL;
        for (guint i = 0; i < n; i++) {
                if (q.has_after && strcmp(ids[i], q.after) <= 0)
                        continue;
                if (json_array_size(list) == limit) {
                        (void)json_object_set_new(page, "next", json_string(last));
                        break;
                }
                json_t *v = shown(find(m, ids[i]));
                last = v ? ids[i] : last;
                if (v)
                        (void)json_array_append_new(list, v);
        }
        g_free(ids);
        (void)json_object_set_new(page, "moves", list);
        return page;
}

/* ---- coming and going ---- */

int orders_start(struct manager *m, struct err *err)
{
        m->orders = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, job_free);
        return store_load_documents(m->store, STORE_ORDER, load_one, m, err);
}

void orders_adopt(struct manager *m)
{
        GList *all = g_hash_table_get_values(m->orders);
        struct order_event ev = {.kind = ORDER_EV_RESTART};
        for (GList *l = all; l; l = l->next)
                if (!order_is_over(&((struct job *)l->data)->core))
                        step(l->data, &ev);
        g_list_free(all);
}

void orders_stop(struct manager *m)
{
        if (m->orders)
                g_hash_table_destroy(m->orders);
        m->orders = NULL;
}
