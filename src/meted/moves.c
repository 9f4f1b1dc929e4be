/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/moves.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "fleet/learnt.h"
#include "json/read.h"
#include "meted/crash.h"
#include "meted/moves-internal.h"
#include "wire/http-call.h"
#include "wire/http.h"
#include "wire/peers.h"

enum {
        MOVES_MAX = 256,
        DRY_MAX = 8,
        FINISHED_KEPT = 64,
        VOID_MS = 500,
        RESERVE_MS = 60000,
        EXTEND_MS = 10000,
        EXTEND_BEFORE_MS = 1500,
        EXTEND_LOOK_MS = 500,
        SEND_MS = 5000,
        PAGE = 64,
        MOVE_ID_MAX = 48
};

struct moves {
        GHashTable *by_id; /* id -> struct moving, owned */
        GList *dry;        /* of struct moving, owned: only asked what would come of it */
        struct learn learn;
        bool is_stopping; /* what is answered now is answered as meted goes: it decides nothing */
};

/* What a step gave, to be carried out once it is durable. The move may be gone by then. */
struct batch {
        char id[MOVE_ID];
        enum move_state state; /* that was entered; 0: none was */
        struct move_effects effects;
};

static void apply(struct moving *mv, const struct move_effects *effects);
static void answer(struct moving *mv);

/* ---- the table ---- */

static struct moving *find(const struct meted *m, const char *id)
{
        return m->moves ? g_hash_table_lookup(m->moves->by_id, id) : NULL;
}

struct moving *move_of_vm(const struct meted *m, const char *vm)
{
        GHashTableIter i;
        gpointer mv;
        if (!m->moves)
                return NULL;
        g_hash_table_iter_init(&i, m->moves->by_id);
        while (g_hash_table_iter_next(&i, NULL, &mv))
                if (strcmp(((struct moving *)mv)->vm, vm) == 0 &&
                    !move_is_final(&((struct moving *)mv)->core))
                        return mv;
        return NULL;
}

static void on_tick(void *arg), on_extend(void *arg);
static void extend(struct moving *mv);

static struct moving *moving_new(struct meted *m)
{
        struct moving *mv = g_new0(struct moving, 1);
        mv->m = m;
        mv->guard_fd = mv->stream_fd = -1;
        listener_init(mv);
        loop_timer_init(&mv->tick, on_tick, mv);
        loop_timer_init(&mv->extend, on_extend, mv);
        loop_timer_in(&mv->extend, EXTEND_LOOK_MS);
        loop_timer_init(&mv->look, source_look, mv);
        return mv;
}

static void moving_free(gpointer p)
{
        struct moving *mv = p;
        source_close(mv);
        arrive_drop(mv);
        loop_timer_cancel(&mv->tick);
        loop_timer_cancel(&mv->extend);
        g_list_free(mv->askers);
        g_free(mv->guest);
        g_free(mv);
}

void move_say(struct moving *mv, const char *event, const char *fmt, ...)
{
        char text[REQUEST_SENTENCE], subject[REQUEST_KEY];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        (void)snprintf(subject, sizeof(subject), "vm:%s", mv->vm);
        hypervisor_note(mv->m->hv, loop_now_ms(), mv->core.row.id, subject, event, "%s", text);
        meted_changed(mv->m);
}

void move_outcome_name_of(const struct moving *mv, char ret[80])
{
        (void)snprintf(ret, 80, "%s.%u", mv->core.row.id, mv->core.row.attempt);
}

/* ---- steps ---- */

static void arm(struct moving *mv)
{
        int64_t at = move_deadline(&mv->core), now = loop_now_ms();
        if (at == INT64_MAX)
                loop_timer_cancel(&mv->tick);
        else
                loop_timer_in(&mv->tick, at > now ? at - now : 0);
}

/* Of a dry run: it is measured, then planned, then told, and nothing is left of it. */
static void dry_happened(struct moving *mv, const struct move_event *ev)
{
        if (ev->kind == MOVE_EV_PROFILED) {
                source_plan(mv, 0);
                return;
        }
        mv->ended_ms = loop_now_ms();
        if (ev->kind == MOVE_EV_FAILED) {
                mv->core.row.state = MOVE_REFUSED;
                mv->core.row.reason = ev->reason;
                (void)snprintf(mv->core.row.sentence, sizeof(mv->core.row.sentence), "%s",
                               ev->sentence ? ev->sentence : "");
        } else if (ev->kind == MOVE_EV_COUNTER) {
                mv->core.row.state = MOVE_COUNTERED;
        }
        answer(mv);
        mv->m->moves->dry = g_list_remove(mv->m->moves->dry, mv);
        moving_free(mv);
}

/* 1: it acted. 0: it came too late. Negative: it makes no sense here. */
static int step(struct moving *mv, struct move_event *ev, struct err *err)
{
        struct move_effects effects = {0};
        ev->now_ms = loop_now_ms();
        if (mv->m->moves->is_stopping || mv->is_void || mv->is_loaded)
                return 0; /* what is void is made anew in a moment, which asks again */
        int done = move_step(&mv->core, ev, &effects, err);
        if (done > 0)
                apply(mv, &effects);
        arm(mv);
        return done;
}

void move_happened(struct moving *mv, struct move_event *ev)
{
        struct err err = {0};
        if (mv->is_dry && mv->m->moves->is_stopping)
                return;
        if (mv->is_dry)
                dry_happened(mv, ev);
        else if (step(mv, ev, &err) < 0)
                log_warn("move %s: %s", mv->core.row.id, err.sentence);
}

void move_report(struct moving *mv, uint64_t token, enum move_event_kind kind, const struct err *err)
{
        struct move_event ev = {.kind = kind,
                                .token = token,
                                .reason = err ? err->reason : 0,
                                .sentence = err ? err->sentence : NULL};
        move_happened(mv, &ev);
}

static void restore(struct moving *mv)
{
        struct move_effects effects = {0};
        const struct machine *v = machine_find(mv->m, mv->vm);
        const struct move_row row = mv->durable;
        mv->is_void = false;
        move_restore(&mv->core, &row, v && v->vm, loop_now_ms(), &effects);
        apply(mv, &effects);
        arm(mv);
}

static void on_extend(void *arg)
{
        struct moving *mv = arg;
        if (!mv->is_void && !mv->is_loaded)
                extend(mv);
        if (!move_is_final(&mv->core))
                loop_timer_in(&mv->extend, EXTEND_LOOK_MS);
}

static void on_tick(void *arg)
{
        struct moving *mv = arg;
        struct move_event ev = {.kind = MOVE_EV_TICK};
        if (mv->is_void)
                restore(mv);
        else
                move_happened(mv, &ev);
}

/* ---- what is said to the other side ---- */

static void tell(struct moving *mv, const struct move_message *said)
{
        struct err err = {0};
        json_t *v = move_message_emit(mv, said);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        /* Who answers is of no interest: what the peer has to say it says itself. */
        if (!text || peers_post(mv->m, mv->peer, "/v1/peer/moves", text, SEND_MS, &err))
                log_debug("move %s: %s is not told %s: %s", mv->core.row.id, mv->peer,
                          move_says_name(said->says), text ? err.sentence : "no memory");
        free(text);
}

static void answer(struct moving *mv)
{
        GList *askers = g_steal_pointer(&mv->askers);
        for (GList *l = askers; l; l = l->next) {
                char *text = NULL;
                json_t *v = move_view(mv);
                text = v ? json_write(v, NULL) : NULL;
                json_decref(v);
                http_reply_text(l->data, text ? 200 : 500, "application/json", text ? text : "{}");
                free(text);
        }
        g_list_free(askers);
}

/* It never was. */
static void forget(struct moving *mv, const struct err *why)
{
        GList *askers = g_steal_pointer(&mv->askers);
        for (GList *l = askers; l; l = l->next)
                api_refuse(l->data, why);
        g_list_free(askers);
        g_hash_table_remove(mv->m->moves->by_id, mv->core.row.id);
}

/* ---- effects ---- */

static void carry_out(struct moving *mv, const struct move_effect *f)
{
        bool is_source = move_is_source(&mv->core);
        switch (f->kind) {
        case MOVE_PERSIST:
        case MOVE_EVENT:
        case MOVE_ADOPT:
                break; /* done, with the transaction */
        case MOVE_SEND:
                tell(mv, &f->message);
                break;
        case MOVE_ANSWER:
                answer(mv);
                break;
        case MOVE_PROFILE:
                source_profile(mv, f->token);
                break;
        case MOVE_PLAN:
                source_plan(mv, f->token);
                break;
        case MOVE_RESERVE:
                (is_source ? source_reserve : arrive_reserve)(mv, f);
                break;
        case MOVE_GUARD_END:
                source_guard_end(mv);
                break;
        case MOVE_COPY_START:
                answer(mv); /* it is under way */
                source_copy(mv, f);
                break;
        case MOVE_WRITE:
                source_write(mv, f);
                break;
        case MOVE_VMM_PREPARE:
                arrive_prepare(mv, f);
                break;
        case MOVE_VMM_WATCH:
                arrive_watch(mv, f);
                break;
        case MOVE_VMM_CONT:
                (is_source ? source_run : arrive_run)(mv, f);
                break;
        case MOVE_RELEASE:
                (is_source ? source_release : arrive_release)(mv, f);
                break;
        case MOVE_EFFECT_N:
                assert(false);
        }
}

static void on_durable(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct batch *b = call;
        struct moving *mv = find(m, b->id);
        (void)r;
        if (mv && err && !mv->is_void) {
                mv->is_void = true; /* what was not recorded was not decided */
                if (mv->is_durable)
                        loop_timer_in(&mv->tick, VOID_MS);
                else
                        forget(mv, err);
        } else if (mv && !err && !mv->is_void) {
                mv->durable = mv->written;
                mv->is_durable = true;
                if (b->state)
                        crash_point_of("move", move_state_name(b->state), "recorded");
                for (size_t i = 0; i < b->effects.n && (mv = find(m, b->id)); i++)
                        carry_out(mv, &b->effects.list[i]);
                if (b->state)
                        crash_point_of("move", move_state_name(b->state), "done");
        }
        g_free(b);
}

static int put(struct moving *mv)
{
        struct err err = {0};
        char *text = move_record(mv);
        int bad = text ? store_put_document(mv->m->store, STORE_MOVE, mv->core.row.id, text, &err)
                       : err_set(&err, REASON_INTERNAL, ENOMEM, "no memory for the record of a move");
        free(text);
        if (bad)
                meted_unwritten(mv->m, &err);
        mv->written = mv->core.row;
        return bad;
}

/* With the record that says who owns it. */
static void adopt(struct moving *mv)
{
        struct machine *v = machine_find(mv->m, mv->vm);
        struct err err = {0};
        if (!v)
                return;
        v->epoch = mv->core.row.epoch;
        if (mv->guest)
                (void)STR_COPY(v->boot_id, mv->guest->boot_id);
        if (machine_put(v, &err))
                meted_unwritten(mv->m, &err);
}

static void apply(struct moving *mv, const struct move_effects *effects)
{
        struct batch *b = g_new0(struct batch, 1);
        (void)STR_COPY(b->id, mv->core.row.id);
        b->effects = *effects;
        if (move_is_final(&mv->core) && !mv->ended_ms)
                mv->ended_ms = loop_now_ms();
        for (size_t i = 0; i < effects->n; i++) {
                const struct move_effect *f = &effects->list[i];
                if (f->kind == MOVE_EVENT)
                        move_say(mv, f->event, "%s", f->text);
                else if (f->kind == MOVE_ADOPT)
                        adopt(mv);
                else if (f->kind == MOVE_PERSIST)
                        (void)put(mv);
                if (f->kind == MOVE_PERSIST)
                        b->state = mv->core.row.state;
        }
        if (b->state)
                crash_point_of("move", move_state_name(b->state), "decided");
        meted_wait(mv->m, 0, WAIT_COMMIT, on_durable, b);
        meted_changed(mv->m);
}

/* ---- what it takes ---- */

struct learn *moves_learn(const struct meted *m)
{
        return &m->moves->learn;
}

void moves_learnt(struct meted *m, const char *peer)
{
        struct err err = {0};
        json_t *v = learnt_emit(&m->moves->learn, peer);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        if (text ? store_put_document(m->store, STORE_LEARNT, peer, text, &err)
                 : store_delete_document(m->store, STORE_LEARNT, peer, &err))
                meted_unwritten(m, &err);
        free(text);
}

int64_t move_rate_bps(int64_t bandwidth_bps)
{
        int64_t bps = (bandwidth_bps + NET_UNIT_BPS - 1) / NET_UNIT_BPS * NET_UNIT_BPS;
        return bps < NET_LEAST_BPS ? NET_LEAST_BPS : bps;
}

size_t move_needs(const struct moving *mv, int64_t bandwidth_bps, int64_t cpu_milli,
                  struct need ret[NEEDS_MAX])
{
        size_t n = 0;
        bool has_net = false;
        for (size_t i = 0; i < mv->m->inventory.n; i++)
                has_net = has_net || mv->m->inventory.components[i].kind == COMPONENT_NET;
        if (cpu_milli > 0) { /* as many CPUs as it takes, an equal part of each */
                int64_t cpus = (cpu_milli + 999) / 1000;
                ret[n++] = (struct need){
                        .kind = COMPONENT_CPU,
                        .amount = cpus,
                        .amount_max = cpus,
                        .n_parameters = 1,
                        .parameters = {{PARAMETER_SHARE, RELATION_AT_LEAST, (cpu_milli + cpus - 1) / cpus}}};
        }
        if (has_net && bandwidth_bps > 0) {
                int64_t bps = move_rate_bps(bandwidth_bps);
                ret[n++] = (struct need){.kind = COMPONENT_NET, .amount = bps, .amount_max = bps};
        }
        return n;
}

struct reservations {
        char prefix[REQUEST_ID];
        GPtrArray *keys; /* of those that hold something; NULL: only their end is wanted */
        int64_t end_ms;
};

static void take_reservation(const struct request *r, void *arg)
{
        struct reservations *of = arg;
        if (r->kind != REQUEST_RESERVATION || !request_is_live(r) || !g_str_has_prefix(r->id, of->prefix) ||
            strchr(r->id + strlen(of->prefix), '.'))
                return;
        of->end_ms = r->end_ms > of->end_ms ? r->end_ms : of->end_ms;
        if (of->keys)
                g_ptr_array_add(of->keys, g_strdup(r->key));
}

/* They are found by their ids, so that a restart loses none. */
static struct reservations reservations_of(const struct moving *mv, bool with_keys)
{
        struct reservations of = {.keys = with_keys ? g_ptr_array_new_with_free_func(g_free) : NULL};
        (void)snprintf(of.prefix, sizeof(of.prefix), MOVES_RESERVE "%s.", mv->core.row.id);
        hypervisor_each(mv->m->hv, take_reservation, &of);
        return of;
}

struct cpus {
        const struct moving *mv;
        char prefix[REQUEST_ID];
        int64_t *cpus, share_milli;
        size_t n, max;
};

static void take_cpus(const struct request *r, void *arg)
{
        struct cpus *of = arg;
        if (r->kind != REQUEST_RESERVATION || !request_is_live(r) || !g_str_has_prefix(r->id, of->prefix) ||
            strchr(r->id + strlen(of->prefix), '.'))
                return;
        for (size_t i = 0; i < r->n_definitions && of->n < of->max; i++) {
                const struct component *c = &of->mv->m->inventory.components[r->definitions[i].component];
                if (c->kind != COMPONENT_CPU)
                        continue;
                of->cpus[of->n++] = c->os_index;
                of->share_milli = r->definitions[i].amount;
        }
}

size_t move_cpus(const struct moving *mv, int64_t *ret, size_t max, int64_t *ret_share_milli)
{
        struct cpus of = {.mv = mv, .cpus = ret, .max = max};
        (void)snprintf(of.prefix, sizeof(of.prefix), MOVES_RESERVE "%s.", mv->core.row.id);
        hypervisor_each(mv->m->hv, take_cpus, &of);
        *ret_share_milli = of.share_milli;
        return of.n;
}

void move_unreserve(struct moving *mv)
{
        uint64_t serial;
        struct err err = {0};
        struct reservations of = reservations_of(mv, true);
        for (guint i = 0; i < of.keys->len; i++)
                (void)hypervisor_release(mv->m->hv, g_ptr_array_index(of.keys, i),
                                         "the move needs it no longer", loop_now_ms(), &serial, &err);
        if (of.keys->len)
                meted_changed(mv->m);
        g_ptr_array_free(of.keys, TRUE);
}

/* An id that none had: finished ones are remembered. */
static void reservation_id(const struct moving *mv, char id[REQUEST_ID])
{
        char key[REQUEST_KEY];
        for (unsigned n = 1;; n++) {
                (void)snprintf(id, REQUEST_ID, MOVES_RESERVE "%s.%u", mv->core.row.id, n);
                (void)snprintf(key, sizeof(key), "reservation:%s", id);
                if (!hypervisor_find(mv->m->hv, key))
                        return;
        }
}

static int reserve(struct moving *mv, const struct need *needs, size_t n, int64_t end_ms, struct err *err)
{
        char id[REQUEST_ID];
        uint64_t serial = 0;
        reservation_id(mv, id);
        struct ask ask = {
                .kind = REQUEST_RESERVATION, .id = id, .needs = needs, .n_needs = n, .end_ms = end_ms};
        int bad = hypervisor_ask(mv->m->hv, &ask, loop_now_ms(), &serial, err);
        if (bad)
                return bad;
        meted_changed(mv->m);
        const struct request *r = hypervisor_request(mv->m->hv, serial);
        if (r && r->state == REQUEST_GRANTED)
                return 1;
        (void)err_set(err, r ? r->reason : REASON_INTERNAL, ENOSPC, "%.200s", r ? r->sentence : "it is gone");
        return 0;
}

int move_reserve(struct moving *mv, const struct need *needs, size_t n, struct err *err)
{
        int64_t for_ms = mv->core.row.reserve_ms > 0 ? mv->core.row.reserve_ms : RESERVE_MS;
        move_unreserve(mv);
        return n == 0 ? 1 : reserve(mv, needs, n, loop_now_ms() + for_ms, err);
}

static size_t all_needs(const struct moving *mv, int64_t bandwidth_bps, struct need ret[NEEDS_MAX])
{
        const struct vector *v = &mv->core.row.vector;
        return move_needs(mv, bandwidth_bps,
                          move_is_source(&mv->core) ? v->source_cpu_milli : v->destination_cpu_milli, ret);
}

bool move_raise(struct moving *mv, int64_t bandwidth_bps)
{
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        int64_t end_ms = reservations_of(mv, false).end_ms;
        if (end_ms <= loop_now_ms())
                return false;
        move_unreserve(mv);
        if (reserve(mv, needs, all_needs(mv, bandwidth_bps, needs), end_ms, &err) > 0) {
                mv->raised_bps = bandwidth_bps;
                hold_thread_again(mv);
                return true;
        }
        (void)reserve(mv, needs, all_needs(mv, mv->core.row.vector.bandwidth_bps, needs), end_ms, &err);
        hold_thread_again(mv);
        return false; /* what it had; nobody can have taken it */
}

/* It takes longer than was predicted: what is reserved stays so, where nobody else was promised it. */
static void extend(struct moving *mv)
{
        const struct vector *v = &mv->core.row.vector;
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        int64_t now = loop_now_ms(), end_ms = reservations_of(mv, false).end_ms;
        if (end_ms == 0 || end_ms > now + EXTEND_BEFORE_MS || move_is_final(&mv->core))
                return;
        size_t n =
                all_needs(mv, mv->raised_bps > v->bandwidth_bps ? mv->raised_bps : v->bandwidth_bps, needs);
        move_unreserve(mv);
        if (n > 0 && reserve(mv, needs, n, now + EXTEND_MS, &err) > 0) {
                hold_thread_again(mv); /* it may be other CPUs */
                move_say(mv, "extended", "it takes longer than was predicted: what it takes is reserved on");
        } else if (n > 0 && end_ms > now) {
                struct err none = {0};
                (void)reserve(mv, needs, n, end_ms, &none); /* what it had; nobody can have taken it */
                hold_thread_again(mv);
                move_say(mv, "not-extended", "what it takes is not reserved for longer: %.120s",
                         err.sentence);
        }
}

/* ---- the VM is not of this host ---- */

static void on_forgotten(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        g_autofree char *id = call;
        struct moving *mv = find(m, id);
        struct machine *v = mv ? machine_find(m, mv->vm) : NULL;
        (void)r;
        if (!mv || err)
                return; /* all is as it was, and it is asked again */
        if (v) {
                machine_clear_dir(m, mv->vm);
                machine_remove(v);
        }
        mv->is_defined = false;
        move_report(mv, mv->release_token, MOVE_EV_RELEASED, NULL);
}

void move_forget_vm(struct moving *mv)
{
        struct meted *m = mv->m;
        struct err err = {0};
        if (hypervisor_vm_forget(m->hv, mv->vm, &err)) {
                log_warn("move %s: %s", mv->core.row.id, err.sentence);
                return; /* asked again */
        }
        if (store_delete_document(m->store, STORE_VM, mv->vm, &err))
                meted_unwritten(m, &err);
        meted_wait(m, 0, WAIT_COMMIT, on_forgotten, g_strdup(mv->core.row.id));
        meted_changed(m);
}

/* ---- asked for ---- */

/* Finished ones are shown for a while, those that ended last. */
static void trim(struct meted *m)
{
        for (;;) {
                GHashTableIter i;
                gpointer p;
                struct moving *oldest = NULL;
                unsigned n = 0;
                g_hash_table_iter_init(&i, m->moves->by_id);
                while (g_hash_table_iter_next(&i, NULL, &p)) {
                        struct moving *mv = p;
                        if (!move_may_be_forgotten(&mv->core) || mv->askers)
                                continue;
                        n++;
                        if (!oldest || mv->ended_ms < oldest->ended_ms)
                                oldest = mv;
                }
                if (n <= FINISHED_KEPT)
                        return;
                struct err err = {0};
                if (store_delete_document(m->store, STORE_MOVE, oldest->core.row.id, &err)) {
                        meted_unwritten(m, &err);
                        return;
                }
                source_forget(oldest);
                g_hash_table_remove(m->moves->by_id, oldest->core.row.id);
        }
}

/* It is a part of other names: of reservations, of outcomes. */
static int check_id(const char *id, struct err *err)
{
        return strlen(id) <= MOVE_ID_MAX && str_is_name(id)
                       ? 0
                       : err_set(err, REASON_INVALID, EINVAL, "id: a name of at most %d characters is wanted",
                                 MOVE_ID_MAX);
}

static int check_room(struct meted *m, struct err *err)
{
        trim(m);
        return g_hash_table_size(m->moves->by_id) < MOVES_MAX
                       ? 0
                       : err_set(err, REASON_BUSY, EBUSY, "%d moves are under way, more are not", MOVES_MAX);
}

static int check_ask(struct meted *m, const struct machine *v, const struct api_vm_move *in, struct err *err)
{
        const struct level l = {in->has_level && in->level.has_total_ms ? in->level.total_ms : 0,
                                in->has_level && in->level.has_downtime_ms ? in->level.downtime_ms : 0,
                                in->has_best_effort && in->best_effort};
        int bad = in->has_level ? level_check(&l, err) : 0;
        if (bad)
                return bad;
        if (strcmp(in->to, m->config.name) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s is this host", in->to);
        if (machine_state(v) != API_VM_STATE_RUNNING)
                return err_set(err, REASON_STALE, ESTALE, "the VM %s does not run", v->definition.name);
        char path[512];
        machine_path(v, "guard.sock", path, sizeof(path));
        if (access(path, F_OK) < 0)
                return err_set(
                        err, REASON_UNSUPPORTED, EOPNOTSUPP,
                        "the VMM of %s was started without a monitor for the guard of a move: it can be "
                        "moved after its next start",
                        v->definition.name);
        bad = moves_check(m, v, err);
        bad = bad ? bad : copy_check(v->vm, &v->definition, err);
        if (!bad && v->definition.has_disk && !m->config.shares_disks)
                bad = err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                              "%s has a disk, and that is not said to be the same on all peers ([move] "
                              "shared_disks in mete.conf)",
                              v->definition.name);
        return bad ? bad : peers_can(m, in->to, err);
}

static struct moving *asked_for(struct meted *m, const struct machine *v, const struct api_vm_move *in,
                                struct level *ret_level)
{
        struct moving *mv = moving_new(m);
        (void)STR_COPY(mv->vm, v->definition.name);
        (void)STR_COPY(mv->peer, in->to);
        mv->on_miss = in->has_on_miss && in->on_miss == API_ON_MISS_FINISH ? ON_MISS_FINISH
                      : in->has_on_miss && in->on_miss == API_ON_MISS_ASK  ? ON_MISS_ASK
                                                                           : ON_MISS_ABORT;
        *ret_level = (struct level){in->has_level && in->level.has_total_ms ? in->level.total_ms : 0,
                                    in->has_level && in->level.has_downtime_ms ? in->level.downtime_ms : 0,
                                    !in->has_level || (in->has_best_effort && in->best_effort)};
        mv->is_best_effort = ret_level->is_best_effort;
        mv->asked_ms = loop_now_ms();
        return mv;
}

static struct moving *begin(struct meted *m, const struct machine *v, const struct api_vm_move *in,
                            const char *id)
{
        struct move_effects effects = {0};
        struct level level;
        struct moving *mv = asked_for(m, v, in, &level);
        move_begin(&mv->core, id, &level, v->epoch, mv->asked_ms, &effects);
        g_hash_table_insert(m->moves->by_id, mv->core.row.id, mv);
        move_say(mv, "move-asked", "to %s, total %lld ms, downtime %lld ms%s", mv->peer,
                 (long long)level.total_ms, (long long)level.downtime_ms,
                 level.is_best_effort ? ", best effort" : "");
        apply(mv, &effects);
        arm(mv);
        return mv;
}

static void begin_dry(struct meted *m, const struct machine *v, const struct api_vm_move *in, const char *id,
                      struct http_request *req)
{
        struct level level;
        struct moving *mv = asked_for(m, v, in, &level);
        mv->is_dry = true;
        mv->core.row.state = MOVE_PLANNING;
        mv->core.row.owner = OWNER_SOURCE;
        mv->core.row.level = level;
        (void)STR_COPY(mv->core.row.id, id);
        mv->askers = g_list_prepend(mv->askers, req);
        m->moves->dry = g_list_prepend(m->moves->dry, mv);
        source_profile(mv, 0);
}

void moves_ask(struct meted *m, struct http_request *req, struct machine *v, const json_t *body)
{
        struct api_vm_move in = {0};
        struct err err = {0};
        char drawn[40];
        int bad = api_vm_move_parse(body, &in, &err);
        (void)snprintf(drawn, sizeof(drawn), "m%08x%08x", g_random_int(), g_random_int());
        const char *id = in.has_id ? in.id : drawn;
        struct moving *mv = bad || (in.has_dry_run && in.dry_run) ? NULL : find(m, id);
        if (mv && (strcmp(mv->vm, v->definition.name) != 0 || strcmp(mv->peer, in.to) != 0))
                bad = err_set(&err, REASON_INVALID, EEXIST, "the id %s was used before, for another move",
                              id);
        if (!bad && !mv) {
                bad = check_id(id, &err);
                bad = bad ? bad : check_ask(m, v, &in, &err);
                bad = bad ? bad : check_room(m, &err);
        }
        bool is_dry = in.has_dry_run && in.dry_run;
        if (!bad && is_dry && g_list_length(m->moves->dry) >= DRY_MAX)
                bad = err_set(&err, REASON_BUSY, EBUSY, "%d dry runs are under way, more are not", DRY_MAX);
        if (bad) {
                api_refuse(req, &err);
                return;
        }
        if (is_dry) {
                begin_dry(m, v, &in, id, req);
                return;
        }
        bool is_new = mv == NULL;
        mv = mv ? mv : begin(m, v, &in, id);
        mv->askers = g_list_prepend(mv->askers, req);
        /* It is decided: under way, countered, or over. */
        if (!is_new && (mv->core.row.tries > 0 || mv->core.row.state >= MOVE_COPYING ||
                        mv->core.row.state == MOVE_COUNTERED))
                answer(mv);
}

static struct moving *asked(struct meted *m, struct http_request *req, const char *id)
{
        struct err err = {0};
        struct moving *mv = find(m, id);
        if (!mv) {
                (void)err_set(&err, REASON_NOT_FOUND, ENOENT, "no move is called %s", id);
                api_refuse(req, &err);
        }
        return mv;
}

struct told {
        struct http_request *req;
        char id[MOVE_ID];
};

/* What has come of it is said once it is recorded. */
static void on_told(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct told *t = call;
        struct moving *mv = find(m, t->id);
        struct err gone = {0};
        (void)r;
        if (!err && !mv)
                (void)err_set(&gone, REASON_NOT_FOUND, ENOENT, "no move is called %s", t->id);
        if (err || !mv) {
                api_refuse(t->req, err ? err : &gone);
        } else {
                mv->askers = g_list_prepend(mv->askers, t->req);
                answer(mv);
        }
        g_free(t);
}

/* done: what came of the word. Where it was too late nothing was done, and that is said. */
static void tell_later(struct moving *mv, struct http_request *req, int done, struct err *err)
{
        const struct move_row *row = &mv->core.row;
        if (done == 0)
                (void)err_set(err, mv->is_void || mv->is_loaded ? REASON_BUSY : REASON_STALE, EALREADY,
                              mv->is_void || mv->is_loaded ? "the move %s is being found again: ask again"
                                                           : "the move %s is %s: it is too late for that",
                              row->id, move_state_name(row->state));
        if (done <= 0) {
                api_refuse(req, err);
                return;
        }
        struct told *t = g_new0(struct told, 1);
        t->req = req;
        (void)STR_COPY(t->id, mv->core.row.id);
        meted_wait(mv->m, 0, WAIT_COMMIT, on_told, t);
        meted_changed(mv->m);
}

void moves_cancel(struct meted *m, struct http_request *req, const char *id)
{
        struct moving *mv = asked(m, req, id);
        struct move_event ev = {
                .kind = MOVE_EV_CANCEL, .reason = REASON_CANCELLED, .sentence = "it was cancelled"};
        struct err err = {0};
        if (!mv)
                return;
        int done = step(mv, &ev, &err);
        if (mv->core.row.reason == REASON_CANCELLED && move_is_final(&mv->core))
                done = 1; /* it is as it was wanted */
        tell_later(mv, req, done, &err);
}

void moves_accept(struct meted *m, struct http_request *req, const char *id, const json_t *body)
{
        struct api_move_accept in = {0};
        struct err err = {0};
        struct moving *mv = asked(m, req, id);
        if (!mv)
                return;
        if (api_move_accept_parse(body, &in, &err)) {
                api_refuse(req, &err);
                return;
        }
        struct move_event ev = {
                .kind = MOVE_EV_ACCEPT,
                .level = {in.level.has_total_ms ? in.level.total_ms : 0,
                          in.level.has_downtime_ms ? in.level.downtime_ms : 0, mv->is_best_effort}
        };
        bool is_copied = mv->core.row.state == MOVE_COPYING;
        int done = is_copied ? source_accept(mv, &ev.level, &err) : 1;
        done = done > 0 ? step(mv, &ev, &err) : done;
        if (is_copied && done > 0)
                source_accepted(mv);
        tell_later(mv, req, done, &err);
}

json_t *moves_show(const struct meted *m, const char *id, struct err *err)
{
        struct moving *mv = find(m, id);
        if (!mv)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "no move is called %s", id);
        return mv ? move_view(mv) : NULL;
}

static int by_name(gconstpointer a, gconstpointer b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

json_t *moves_list(const struct meted *m, const char *query, struct err *err)
{
        struct api_move_query q = {0};
        if (api_move_query_read(query, &q, err))
                return NULL;
        guint n = 0;
        gpointer *ids = g_hash_table_get_keys_as_array(m->moves->by_id, &n);
        qsort(ids, n, sizeof(*ids), by_name);
        json_t *list = json_array(), *page = json_object();
        size_t limit = q.has_limit ? (size_t)q.limit : PAGE;
        const char *last = NULL;
        for (guint i = 0; i < n; i++) {
                if (q.has_after && strcmp(ids[i], q.after) <= 0)
                        continue;
                if (json_array_size(list) == limit) {
                        (void)json_object_set_new(page, "next", json_string(last));
                        break;
                }
                last = ids[i];
                (void)json_array_append_new(list, move_view(find(m, last)));
        }
        g_free(ids);
        (void)json_object_set_new(page, "moves", list);
        return page;
}

/* ---- the other side ---- */

/* The epoch below which a word about this VM is an old one: it was here since. */
static uint64_t least_epoch(const struct meted *m, const struct api_peer_vm *guest)
{
        uint64_t least = 0;
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->moves->by_id);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                const struct moving *mv = p;
                if (mv->guest && strcmp(mv->guest->definition.uuid, guest->definition.uuid) == 0 &&
                    mv->core.row.epoch > least)
                        least = mv->core.row.epoch;
        }
        return least;
}

/* It is told why, as nobody reads the status of an answer. */
static void say_dropped(struct meted *m, const char *to, const char *vm, const struct move_message *said,
                        const struct err *why)
{
        struct move_message out = {.says = MOVE_SAYS_DROPPED,
                                   .epoch = said->epoch,
                                   .attempt = said->attempt,
                                   .reason = why->reason};
        struct moving nobody = {.m = m, .core.row.state = MOVE_DROPPED};
        struct err err = {0};
        (void)STR_COPY(out.id, said->id);
        (void)snprintf(out.sentence, sizeof(out.sentence), "%s", why->sentence);
        (void)STR_COPY(nobody.vm, vm);
        json_t *v = move_message_emit(&nobody, &out);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        if (text)
                (void)peers_post(m, to, "/v1/peer/moves", text, SEND_MS, &err);
        free(text);
}

/* A move that comes here begins with what its source wants reserved. */
static int admit(struct meted *m, const char *from, const char *vm, const struct move_message *said,
                 struct api_peer_vm **guest, struct err *err)
{
        struct move_effects effects = {0};
        if (!*guest || strcmp((*guest)->definition.name, vm) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "it does not say what is to move");
        int bad = check_id(said->id, err);
        bad = bad ? bad : check_room(m, err);
        if (!bad && (machine_find(m, vm) || move_of_vm(m, vm)))
                bad = err_set(err, REASON_INCOMPATIBLE, EEXIST, "%s has a VM that is called %s already",
                              m->config.name, vm);
        if (bad)
                return bad;
        struct moving *mv = moving_new(m);
        (void)STR_COPY(mv->vm, vm);
        (void)STR_COPY(mv->peer, from);
        mv->asked_ms = loop_now_ms();
        mv->guest = g_steal_pointer(guest);
        bad = move_admit(&mv->core, said, least_epoch(m, mv->guest), mv->asked_ms, &effects, err);
        if (bad < 0) {
                moving_free(mv);
                return bad;
        }
        g_hash_table_insert(m->moves->by_id, mv->core.row.id, mv);
        apply(mv, &effects);
        arm(mv);
        return 0;
}

static void answer_unknown(struct meted *m, const char *from, const char *vm, const struct move_message *said)
{
        struct move_message out;
        struct err err = {0};
        if (!move_answer_unknown(said, &out))
                return;
        struct moving nobody = {.m = m, .core.row.state = MOVE_DROPPED};
        (void)STR_COPY(nobody.vm, vm);
        json_t *v = move_message_emit(&nobody, &out);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        if (text)
                (void)peers_post(m, from, "/v1/peer/moves", text, SEND_MS, &err);
        free(text);
}

int moves_hear(struct meted *m, const char *from, const struct in6_addr *at, const json_t *body,
               struct err *err)
{
        struct move_message said;
        struct api_peer_vm *guest = NULL;
        struct api_peer_stream *stream = NULL;
        char vm[64];
        int64_t run_us = 0;
        int bad = move_message_read(body, &said, vm, &guest, &stream, &run_us, err);
        struct moving *mv = bad ? NULL : find(m, said.id);
        if (mv && (strcmp(mv->peer, from) != 0 || strcmp(mv->vm, vm) != 0)) {
                bad = err_set(err, REASON_DENIED, EPERM, "the move %s is none of %s's", said.id, from);
        } else if (!bad && !mv && said.says == MOVE_SAYS_RESERVE) {
                bad = admit(m, from, vm, &said, &guest, err);
                if (bad && err->reason)
                        say_dropped(m, from, vm, &said, err);
                mv = bad ? NULL : find(m, said.id);
        } else if (!bad && !mv) {
                answer_unknown(m, from, vm, &said);
        } else if (!bad) {
                struct move_effects effects = {0};
                struct move_event ev = {.kind = MOVE_EV_MESSAGE, .now_ms = loop_now_ms(), .message = &said};
                if (said.says == MOVE_SAYS_BROKEN || said.says == MOVE_SAYS_DROPPED)
                        source_hear_broken(mv);
                bool is_of_now = said.attempt >= mv->core.row.attempt;
                enum move_state before = mv->core.row.state;
                bool is_repeated = mv->core.repeats > 0;
                int done = mv->is_void || mv->is_loaded ? 0 : move_step(&mv->core, &ev, &effects, err);
                if (done > 0 && stream && is_of_now) {
                        mv->stream = *stream;
                        mv->has_stream = true;
                }
                if (done > 0 && guest && mv->guest && is_of_now &&
                    strcmp(guest->definition.uuid, mv->guest->definition.uuid) == 0) {
                        g_free(mv->guest);
                        mv->guest = g_steal_pointer(&guest);
                }
                if (before == MOVE_COMMITTED && mv->core.row.state == MOVE_FINISHING) {
                        mv->run_us = run_us;
                        source_measured(mv, is_repeated); /* first: it is part of the record */
                }
                if (done > 0)
                        apply(mv, &effects);
                arm(mv);
                bad = done < 0 ? done : 0;
        }
        if (!bad && mv)
                mv->peer_at = *at;
        g_free(guest);
        g_free(stream);
        return bad;
}

/* ---- what happens to a VM ---- */

int moves_check(const struct meted *m, const struct machine *v, struct err *err)
{
        const struct moving *mv = move_of_vm(m, v->definition.name);
        return mv ? err_set(err, REASON_BUSY, EBUSY, "the VM %s is being moved: %s", v->definition.name,
                            mv->core.row.id)
                  : 0;
}

bool moves_is_standing(const struct machine *v)
{
        const struct moving *mv = move_of_vm(v->m, v->definition.name);
        if (!mv)
                return false;
        if (!move_is_source(&mv->core))
                return mv->core.row.owner == OWNER_SOURCE;
        switch ((int)mv->core.row.state) {
        case MOVE_COPYING:
        case MOVE_ORPHANED:
        case MOVE_COMMITTING:
        case MOVE_COMMITTED:
        case MOVE_RETURNING:
        case MOVE_RESUMING:
        case MOVE_FINISHING:
                return true;
        default:
                return false;
        }
}

bool moves_is_fixed(const struct machine *v, struct err *err)
{
        const struct moving *mv = move_of_vm(v->m, v->definition.name);
        if (!mv || (move_is_source(&mv->core) && mv->core.row.state < MOVE_RESERVING_THERE) ||
            mv->core.row.owner == OWNER_DESTINATION)
                return false;
        (void)err_set(err, REASON_BUSY, EBUSY,
                      "this VM is being moved to another host; ask again in a while");
        return true;
}

bool moves_is_arriving(const struct machine *v)
{
        const struct moving *mv = move_of_vm(v->m, v->definition.name);
        return mv && !move_is_source(&mv->core) && mv->core.row.owner == OWNER_SOURCE;
}

void moves_vm_event(struct machine *v, enum vm_event event, const char *words)
{
        struct moving *mv = move_of_vm(v->m, v->definition.name);
        if (mv)
                (move_is_source(&mv->core) ? source_vm_event : arrive_vm_event)(mv, event, words);
}

void moves_vm_died(struct machine *v, const char *why)
{
        struct moving *mv = move_of_vm(v->m, v->definition.name);
        struct move_event ev = {.kind = MOVE_EV_DIED, .reason = REASON_STALE, .sentence = why};
        if (!mv)
                return;
        ev.attempt = move_is_source(&mv->core) ? mv->core.row.attempt : mv->prepared;
        copy_free(g_steal_pointer(&mv->copy));
        listener_close(mv); /* who connects from now on finds nobody to take it in */
        move_happened(mv, &ev);
}

/* ---- start and end ---- */

static int load(const char *id, const char *text, void *arg, struct err *err)
{
        struct meted *m = arg;
        struct moving *mv = moving_new(m);
        int bad = move_record_read(mv, id, text, err);
        if (bad) {
                moving_free(mv);
                return bad;
        }
        mv->durable = mv->written = mv->core.row;
        mv->is_durable = mv->is_loaded = true;
        /* No VMM of an attempt before is left once one was prepared for this. */
        if (mv->core.row.state >= MOVE_READY && mv->core.row.state <= MOVE_CONFIRMING)
                mv->prepared = mv->core.row.attempt;
        mv->is_touched = mv->is_inherited = move_is_source(&mv->core) && mv->core.row.tries > 0;
        const struct machine *v = machine_find(m, mv->vm);
        mv->is_defined = v && mv->guest && v->epoch == 0 &&
                         strcmp(v->definition.uuid, mv->guest->definition.uuid) == 0;
        g_hash_table_insert(m->moves->by_id, mv->core.row.id, mv);
        return 0;
}

/* One that cannot be read is no loss: it is learnt again. */
static int load_learnt(const char *peer, const char *text, void *arg, struct err *err)
{
        struct meted *m = arg;
        struct err bad = {0};
        (void)err;
        json_t *v = json_read(text, strlen(text), &bad);
        if (!v || learnt_parse(&m->moves->learn, peer, v, &bad))
                log_warn("what moves to %s cost: %s", peer, bad.sentence);
        json_decref(v);
        return 0;
}

int moves_start(struct meted *m, struct err *err)
{
        m->moves = g_new0(struct moves, 1);
        learn_init(&m->moves->learn);
        m->moves->by_id = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, moving_free);
        int bad = store_load_documents(m->store, STORE_LEARNT, load_learnt, m, err);
        return bad ? bad : store_load_documents(m->store, STORE_MOVE, load, m, err);
}

bool moves_adopt(struct meted *m)
{
        size_t n_loaded = 0;
        g_autoptr(GList) all = g_hash_table_get_values(m->moves->by_id);
        for (GList *l = all; l; l = l->next) {
                struct moving *mv = l->data;
                n_loaded += mv->is_loaded ? 1 : 0;
                const struct machine *v = machine_find(m, mv->vm);
                if (!mv->is_loaded || (v && machine_is_awaited(v))) /* nobody is attached to it yet */
                        continue;
                mv->is_loaded = false;
                n_loaded--;
                restore(mv);
        }
        return n_loaded > 0;
}

void moves_stop(struct meted *m)
{
        GHashTableIter i;
        gpointer p;
        if (!m->moves)
                return;
        m->moves->is_stopping = true;
        g_hash_table_iter_init(&i, m->moves->by_id);
        while (g_hash_table_iter_next(&i, NULL, &p))
                copy_free(g_steal_pointer(&((struct moving *)p)->copy)); /* before the VMs it is of */
}

void moves_free(struct meted *m)
{
        if (!m->moves)
                return;
        g_hash_table_destroy(m->moves->by_id);
        g_list_free_full(m->moves->dry, moving_free);
        g_free(m->moves);
        m->moves = NULL;
}
