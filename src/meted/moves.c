/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/moves.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
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

enum { VOID_MS = 500, EXTEND_LOOK_MS = 500, SEND_MS = 5000, URGENT_MS = 200, URGENT_EACH = 8 };

/* What a step gave, to be carried out once it is durable. The move may be gone by then. */
struct batch {
        char id[MOVE_ID];
        enum move_state state; /* that was entered; 0: none was */
        struct move_effects effects;
};

/* ---- the table ---- */

struct moving *moving_find(const struct meted *m, const char *id)
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

struct moving *moving_new(struct meted *m)
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

static void refuse_askers(struct moving *mv, const struct err *why)
{
        GList *askers = g_steal_pointer(&mv->askers);
        for (GList *l = askers; l; l = l->next)
                api_refuse(l->data, why);
        g_list_free(askers);
}

static void moving_free(gpointer p)
{
        struct moving *mv = p;
        struct err ends = {0};
        (void)err_set(&ends, REASON_CANCELLED, ECANCELED, "meted ends");
        refuse_askers(mv, &ends); /* nobody hears that: their connections were closed before */
        source_close(mv);
        arrive_drop(mv);
        loop_timer_cancel(&mv->tick);
        loop_timer_cancel(&mv->extend);
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

void moving_arm(struct moving *mv)
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
        moving_answer(mv);
        mv->m->moves->dry = g_list_remove(mv->m->moves->dry, mv);
        moving_free(mv);
}

/* 1: it acted. 0: it came too late. Negative: it makes no sense here. */
int moving_step(struct moving *mv, struct move_event *ev, struct err *err)
{
        struct move_effects effects = {0};
        ev->now_ms = loop_now_ms();
        if (mv->m->moves->is_stopping || mv->is_void || mv->is_loaded)
                return 0; /* what is void is made anew in a moment, which asks again */
        int done = move_step(&mv->core, ev, &effects, err);
        if (done > 0)
                moving_apply(mv, &effects);
        moving_arm(mv);
        return done;
}

void move_happened(struct moving *mv, struct move_event *ev)
{
        struct err err = {0};
        if (mv->is_dry && mv->m->moves->is_stopping)
                return;
        if (mv->is_dry)
                dry_happened(mv, ev);
        else if (moving_step(mv, ev, &err) < 0)
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
        moving_apply(mv, &effects);
        moving_arm(mv);
}

static void on_extend(void *arg)
{
        struct moving *mv = arg;
        if (!mv->is_void && !mv->is_loaded)
                move_extend(mv);
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
        /* The guest stands until it is heard: what was lost with a link that was cut would be sent anew by
         * TCP only after twice as long again, so the next word takes another connection; with more time
         * from word to word, as the way may be long. */
        bool is_urgent = said->says == MOVE_SAYS_RUN && mv->core.repeats < MOVE_URGENT_REPEATS;
        int64_t timeout_ms = is_urgent ? URGENT_MS << mv->core.repeats / URGENT_EACH : SEND_MS;
        json_t *v = move_message_emit(mv, said);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        /* Who answers is of no interest: what the peer has to say it says itself. */
        if (!text || peers_post(mv->m, mv->peer, "/v1/peer/moves", text, timeout_ms, &err))
                log_debug("move %s: %s is not told %s: %s", mv->core.row.id, mv->peer,
                          move_says_name(said->says), text ? err.sentence : "no memory");
        free(text);
}

void moving_answer(struct moving *mv)
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
        refuse_askers(mv, why);
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
                moving_answer(mv);
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
                moving_answer(mv); /* it is under way */
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
        struct moving *mv = moving_find(m, b->id);
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
                for (size_t i = 0; i < b->effects.n && (mv = moving_find(m, b->id)); i++)
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

void moving_apply(struct moving *mv, const struct move_effects *effects)
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

size_t moves_copying(const struct meted *m)
{
        GHashTableIter i;
        gpointer mv;
        size_t n = 0;
        g_hash_table_iter_init(&i, m->moves->by_id);
        while (g_hash_table_iter_next(&i, NULL, &mv))
                n += ((const struct moving *)mv)->is_copying;
        return n;
}

/* ---- what was learnt ---- */

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

/* ---- the VM is not of this host ---- */

static void on_forgotten(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        g_autofree char *id = call;
        struct moving *mv = moving_find(m, id);
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
        int bad = moves_check_id(said->id, err);
        bad = bad ? bad : moves_check_room(m, err);
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
        moving_apply(mv, &effects);
        moving_arm(mv);
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
        struct move_ran ran = {0};
        int bad = move_message_read(body, &said, vm, &guest, &stream, &ran, err);
        struct moving *mv = bad ? NULL : moving_find(m, said.id);
        if (mv && (strcmp(mv->peer, from) != 0 || strcmp(mv->vm, vm) != 0)) {
                bad = err_set(err, REASON_DENIED, EPERM, "the move %s is none of %s's", said.id, from);
        } else if (!bad && !mv && said.says == MOVE_SAYS_RESERVE) {
                bad = admit(m, from, vm, &said, &guest, err);
                if (bad && err->reason)
                        say_dropped(m, from, vm, &said, err);
                mv = bad ? NULL : moving_find(m, said.id);
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
                        mv->ran = ran;
                        source_measured(mv, is_repeated); /* first: it is part of the record */
                }
                if (done > 0)
                        moving_apply(mv, &effects);
                moving_arm(mv);
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
        if (!move_is_source(&mv->core)) /* it is told to run by arrive_run() alone */
                return mv->core.row.owner == OWNER_SOURCE || mv->core.row.state == MOVE_RUNNING;
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
        mv->was_told_to_run = mv->core.row.state == MOVE_RUNNING;
        const struct machine *v = machine_find(m, mv->vm);
        /* One that was given back had been adopted here. */
        mv->is_defined =
                v && mv->guest &&
                (v->epoch == 0 || (!move_is_final(&mv->core) && mv->core.row.owner == OWNER_SOURCE)) &&
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
