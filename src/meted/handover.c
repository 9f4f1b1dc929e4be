/* SPDX-License-Identifier: Apache-2.0 */
/* The table of handovers, and the driver of each: events in, effects out. What a step decides is recorded
 * with its turn and then carried out; but the swift states, in which the guest stands, record nothing and are
 * carried out at once. What belongs to a state that was left meanwhile is not carried out: the one that is
 * there has its own. */
#include "meted/handover.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "fleet/handover-wire.h"
#include "json/read.h"
#include "meted/crash.h"
#include "meted/handover-internal.h"
#include "meted/moves.h"
#include "wire/http-call.h"
#include "wire/http.h"

enum { HANDOVERS_MAX = 64, FINISHED_KEPT = 32, VOID_MS = 500, SEND_MS = 5000, WATCH_MS = 10 };

struct handovers {
        GHashTable *by_id; /* id -> struct handing, owned */
        struct http_calls *calls;
        bool is_stopping; /* what is answered now is answered as meted goes: it decides nothing */
};

/* What a step gave, to be carried out once it is durable. The handover may be gone by then. */
struct batch {
        char id[HANDOVER_ID];
        enum handover_state entered; /* 0: none was */
        struct handover_effects effects;
};

static void apply(struct handing *ho, const struct handover_effects *effects);

/* ---- the table ---- */

struct handing *handing_find(const struct meted *m, const char *id)
{
        return m->handovers ? g_hash_table_lookup(m->handovers->by_id, id) : NULL;
}

struct handing *handing_of_vm(const struct meted *m, const char *vm)
{
        GHashTableIter i;
        gpointer p;
        if (!m->handovers)
                return NULL;
        g_hash_table_iter_init(&i, m->handovers->by_id);
        while (g_hash_table_iter_next(&i, NULL, &p))
                if (strcmp(((struct handing *)p)->vm, vm) == 0 &&
                    !handover_is_final(&((struct handing *)p)->core))
                        return p;
        return NULL;
}

bool handing_is_latest(const struct handing *ho)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, ho->m->handovers->by_id);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                const struct handing *other = p;
                if (strcmp(other->vm, ho->vm) == 0 && other->core.row.epoch > ho->core.row.epoch)
                        return false;
        }
        return true;
}

void handing_each(const struct meted *m, void (*fn)(struct handing *ho, void *arg), void *arg)
{
        GHashTableIter i;
        gpointer p;
        if (!m->handovers)
                return;
        g_hash_table_iter_init(&i, m->handovers->by_id);
        while (g_hash_table_iter_next(&i, NULL, &p))
                fn(p, arg);
}

bool handing_is_source(const struct handing *ho)
{
        return handover_role(ho->core.row.state) == ROLE_SOURCE;
}

static void on_tick(void *arg), on_watch(void *arg), on_again(void *arg);

static struct handing *handing_new(struct meted *m)
{
        struct handing *ho = g_new0(struct handing, 1);
        ho->m = m;
        ho->notify_fd = -1;
        ho->sent_bytes = ho->ram_bytes = ho->separated_bytes = -1;
        loop_timer_init(&ho->tick, on_tick, ho);
        loop_timer_init(&ho->again, on_again, ho);
        loop_timer_init(&ho->watch, on_watch, ho);
        loop_timer_init(&ho->gap, giver_bound, ho);
        return ho;
}

static void let_go(struct handing *ho)
{
        /* First: who is told that it is cancelled may call the keeper, as the return of a loan does. */
        transfer_free(g_steal_pointer(&ho->transfer));
        (void)meted_unwait(ho->m, ho);
        if (ho->m->keeper)
                keeper_forget(ho->m->keeper, ho);
        sweep_forget(&ho->sweep);
        loop_timer_cancel(&ho->again);
        loop_timer_cancel(&ho->watch);
        loop_timer_cancel(&ho->gap);
        handing_notify_end(ho);
        ho->is_calling = ho->is_prepared = false;
}

static void handing_free(gpointer p)
{
        struct handing *ho = p;
        let_go(ho);
        loop_timer_cancel(&ho->tick);
        g_free(ho->guest);
        g_free(ho->looked);
        g_free(ho);
}

void handing_say(struct handing *ho, const char *event, const char *fmt, ...)
{
        char text[REQUEST_SENTENCE], subject[REQUEST_KEY];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        (void)snprintf(subject, sizeof(subject), "vm:%s", ho->vm);
        hypervisor_note(ho->m->hv, loop_now_ms(), ho->core.row.id, subject, event, "%s", text);
        meted_changed(ho->m);
}

/* ---- steps ---- */

/* By the clock that nobody sets: else each wait would end with it. What is in the store is of another start,
 * and begins anew (handover_restore()). */
static void arm(struct handing *ho)
{
        int64_t at = handover_deadline(&ho->core), now = loop_mono_ms();
        if (at == INT64_MAX)
                loop_timer_cancel(&ho->tick);
        else
                loop_timer_in(&ho->tick, at > now ? at - now : 0);
}

/* 1: it acted. 0: it came too late. Negative: it makes no sense here. */
static int step(struct handing *ho, struct handover_event *ev, struct err *err)
{
        struct handover_effects effects = {0};
        ev->now_ms = loop_mono_ms();
        if (ho->m->handovers->is_stopping || ho->is_void || ho->is_loaded)
                return 0; /* what is void is made anew in a moment, which asks again */
        int done = handover_step(&ho->core, ev, &effects, err);
        if (done > 0)
                apply(ho, &effects);
        arm(ho);
        return done;
}

void handing_report(struct handing *ho, uint64_t token, enum handover_event_kind kind, const struct err *err)
{
        struct handover_event ev = {.kind = kind,
                                    .token = token,
                                    .reason = err ? err->reason : 0,
                                    .sentence = err ? err->sentence : NULL};
        struct err bad = {0};
        if (step(ho, &ev, &bad) < 0)
                log_warn("handover %s: %s", ho->core.row.id, bad.sentence);
}

void handing_classified(struct handing *ho, int64_t separate_ms)
{
        struct handover_event ev = {.kind = HANDOVER_EV_CLASSIFIED,
                                    .token = ho->token[HANDOVER_CLASSIFY],
                                    .separate_ms = separate_ms};
        struct err bad = {0};
        if (step(ho, &ev, &bad) < 0)
                log_warn("handover %s: %s", ho->core.row.id, bad.sentence);
}

static void restore(struct handing *ho)
{
        struct handover_effects effects = {0};
        const struct machine *v = machine_find(ho->m, ho->vm);
        const struct handover_row row = ho->durable;
        ho->written = row;
        enum handover_record record = RECORD_NONE;
        struct err err = {0};
        ho->is_void = false;
        if (handing_read(ho, &record, &err)) {
                if (!handover_is_final(&ho->core)) /* of one that is over it may be gone */
                        log_warn("handover %s: %s", ho->core.row.id, err.sentence);
                record = RECORD_COMMITTED; /* what cannot be known may be */
        }
        handover_restore(&ho->core, &row, v && v->vm ? HANDOVER_VMM_LIVES : HANDOVER_VMM_GONE, record,
                         loop_mono_ms(), &effects);
        ho->entered = row.state;
        apply(ho, &effects);
        arm(ho);
}

static void on_tick(void *arg)
{
        struct handing *ho = arg;
        if (ho->is_void)
                restore(ho);
        else
                handing_report(ho, 0, HANDOVER_EV_TICK, NULL);
}

static void on_again(void *arg)
{
        struct handing *ho = arg;
        if (!ho->is_void && !ho->is_loaded && !ho->m->handovers->is_stopping)
                (handing_is_source(ho) ? giver_again : taker_again)(ho);
}

/* ---- the record ---- */

static void on_notify(void *arg, uint32_t events)
{
        struct handing *ho = arg;
        char buffer[4096];
        (void)events;
        while (read(ho->notify_fd, buffer, sizeof(buffer)) > 0)
                ;
        on_watch(ho);
}

/* A target waits for the source's word while the guest stands, so it has notices of it; nothing waits for
 * what a source sees there. A notice may get lost, where there are too many, and one is never made of what
 * was written before: so it is looked at once more by the clock. */
static void on_watch(void *arg)
{
        struct handing *ho = arg;
        uint64_t step_now = ho->core.row.step;
        bool is_giver = handing_is_source(ho);
        if (!handover_state_has(ho->core.row.state, HANDOVER_WATCH) || ho->m->handovers->is_stopping) {
                handing_notify_end(ho);
                return;
        }
        loop_timer_in(&ho->watch, WATCH_MS);
        if (!is_giver)
                handing_notify(ho, on_notify);
        enum handover_record is;
        struct err err = {0};
        if (handing_read(ho, &is, &err))
                return;
        if (is != RECORD_NONE && (is != ho->seen || ho->seen_step != step_now)) {
                ho->seen = is;
                ho->seen_step = step_now;
                handing_report(ho, step_now, handing_event_of(is), NULL);
        } else if (is == RECORD_NONE && !is_giver && ho->stands_step != step_now && handing_stands(ho)) {
                ho->stands_step = step_now;
                handing_report(ho, step_now, HANDOVER_EV_STANDS, NULL);
        }
}

/* ---- what is said to mete-sp ---- */

static void on_said(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                    const struct err *err)
{
        (void)arg;
        (void)answer;
        (void)peer;
        if (err) /* it is said again, or asked for */
                log_debug("mete-sp: %s", err->sentence);
}

static void say_out(struct meted *m, const struct api_handover_message *out)
{
        struct err err = {0};
        struct http_target to = {.socket = m->config.processor};
        size_t n = 0;
        json_t *v = api_handover_message_emit(out);
        char *text = v ? json_write(v, &n) : NULL;
        json_decref(v);
        if (!text || !*m->config.processor ||
            !http_call(m->handovers->calls, &to, "POST", "/v1/handover/messages", text, n, SEND_MS, on_said,
                       m, &err))
                log_debug("mete-sp is not told: %s", err.sentence);
        free(text);
}

static void tell(struct handing *ho, const struct handover_message *said)
{
        struct api_handover_message *out = g_new0(struct api_handover_message, 1);
        handover_wire_fill(said, ho->vm, out);
        if ((said->says == HANDOVER_SAYS_CLASSIFIED || said->says == HANDOVER_SAYS_QUIESCED) && ho->guest) {
                out->has_guest = true;
                out->guest = *ho->guest;
        }
        if (said->says == HANDOVER_SAYS_INFORMED && ho->guest && ho->guest->has_loan) {
                out->has_transfer = true;
                (void)STR_COPY(out->transfer, ho->guest->loan.transfer);
        }
        out->has_separated_bytes = ho->separated_bytes >= 0 && (said->says == HANDOVER_SAYS_CLASSIFIED ||
                                                                said->says == HANDOVER_SAYS_SEPARATED);
        out->separated_bytes = ho->separated_bytes;
        bool is_given = said->says == HANDOVER_SAYS_GIVEN || said->says == HANDOVER_SAYS_GONE;
        out->at_us = is_given ? ho->stood_us : said->says == HANDOVER_SAYS_RUNNING ? ho->ran_us : 0;
        out->has_at_us = out->at_us > 0;
        if (is_given) {
                giver_count(ho);
                out->has_sent_bytes = out->has_ram_bytes = ho->sent_bytes >= 0;
                out->sent_bytes = ho->sent_bytes;
                out->ram_bytes = ho->ram_bytes;
        }
        say_out(ho->m, out);
        g_free(out);
}

/* ---- effects ---- */

static void carry_out(struct handing *ho, const struct handover_effect *f)
{
        bool is_giver = handing_is_source(ho);
        ho->token[f->kind] = f->token;
        switch (f->kind) {
        case HANDOVER_PERSIST:
        case HANDOVER_EVENT:
        case HANDOVER_ADOPT:
                break; /* done, with the transaction */
        case HANDOVER_SEND:
                tell(ho, &f->message);
                break;
        case HANDOVER_CLASSIFY:
                giver_classify(ho);
                break;
        case HANDOVER_SEPARATE:
                giver_separate(ho);
                break;
        case HANDOVER_QUIESCE:
                giver_quiesce(ho);
                break;
        case HANDOVER_CHECK:
                taker_check(ho);
                break;
        case HANDOVER_GUARD_START:
                giver_guard_start(ho);
                break;
        case HANDOVER_GUARD_END:
                giver_guard_end(ho);
                break;
        case HANDOVER_VMM_GIVE:
                giver_give(ho);
                break;
        case HANDOVER_VMM_PREPARE:
                taker_prepare(ho);
                break;
        case HANDOVER_VMM_WATCH:
                taker_watch(ho);
                break;
        case HANDOVER_VMM_CONT:
                (is_giver ? giver_run : taker_run)(ho);
                break;
        case HANDOVER_VMM_QUIT:
                break; /* it ends with what it had: RELEASE follows */
        case HANDOVER_STAND:
                handing_stand(ho);
                break;
        case HANDOVER_WRITE:
                handing_write(ho, f->record, is_giver ? "source" : "target");
                break;
        case HANDOVER_WATCH:
                on_watch(ho);
                break;
        case HANDOVER_RELEASE:
                (is_giver ? giver_release : taker_release)(ho);
                break;
        case HANDOVER_ASSIGN:
        case HANDOVER_ANSWER:
        case HANDOVER_FORGET:
        case HANDOVER_EFFECT_N:
                assert(false); /* the service processor's */
        }
}

static void run(struct meted *m, const struct batch *b)
{
        struct handing *ho;
        for (size_t i = 0; i < b->effects.n; i++) {
                ho = handing_find(m, b->id);
                if (!ho || b->effects.list[i].token != ho->core.row.step)
                        break;
                carry_out(ho, &b->effects.list[i]);
        }
        if (b->entered)
                crash_point_of("handover", handover_state_name(b->entered), "done");
        ho = b->entered == TARGET_SETTLED ? handing_find(m, b->id) : NULL;
        if (ho)
                taker_settle(ho);
}

/* It never was. */
static void forget(struct handing *ho)
{
        g_hash_table_remove(ho->m->handovers->by_id, ho->core.row.id);
}

static void on_durable(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct batch *b = call;
        struct handing *ho = handing_find(m, b->id);
        (void)r;
        if (ho && ho->pending > 0)
                ho->pending--;
        if (ho && err && !ho->is_void) {
                ho->is_void = true; /* what was not recorded was not decided */
                if (ho->is_durable)
                        loop_timer_in(&ho->tick, VOID_MS);
                else
                        forget(ho);
        } else if (ho && !err && !ho->is_void) {
                ho->durable = ho->written;
                ho->is_durable = true;
                if (b->entered)
                        crash_point_of("handover", handover_state_name(b->entered), "recorded");
                run(m, b);
        }
        g_free(b);
}

void handing_put(struct handing *ho)
{
        struct err err = {0};
        char *text = handing_record(ho);
        if (text ? store_put_document(ho->m->store, STORE_HANDOVER, ho->core.row.id, text, &err)
                 : err_set(&err, REASON_INTERNAL, ENOMEM, "no memory for the record of a handover"))
                meted_unwritten(ho->m, &err);
        free(text);
        ho->written = *handing_row(ho);
}

/* With the row that says whose it is. */
static void adopt(struct handing *ho)
{
        struct machine *v = machine_find(ho->m, ho->vm);
        struct err err = {0};
        if (!v)
                return;
        v->epoch = ho->guest && ho->guest->has_owner_epoch ? (uint64_t)ho->guest->owner_epoch : 1;
        if (ho->guest)
                (void)STR_COPY(v->boot_id, ho->guest->vm.boot_id);
        if (machine_put(v, &err))
                meted_unwritten(ho->m, &err);
}

static void apply(struct handing *ho, const struct handover_effects *effects)
{
        struct meted *m = ho->m;
        bool is_recorded = ho->pending > 0;
        struct batch *b = g_new0(struct batch, 1);
        (void)STR_COPY(b->id, ho->core.row.id);
        b->effects = *effects;
        if (handover_is_final(&ho->core) && !ho->ended_ms)
                ho->ended_ms = loop_now_ms();
        if (ho->core.row.state != ho->entered)
                b->entered = ho->entered = ho->core.row.state;
        if (ho->core.row.state == SOURCE_QUIESCING)
                ho->may_lend = true; /* on disk before it does */
        if (b->entered == TARGET_DROPPING && ho->core.row.end == TARGET_LOST)
                adopt(ho); /* it was this side's as it died, and is from now on */
        for (size_t i = 0; i < effects->n; i++) {
                const struct handover_effect *f = &effects->list[i];
                is_recorded = is_recorded || f->kind == HANDOVER_PERSIST || f->kind == HANDOVER_EVENT ||
                              f->kind == HANDOVER_ADOPT;
                if (f->kind == HANDOVER_EVENT)
                        handing_say(ho, f->event, "%s", f->text);
                else if (f->kind == HANDOVER_ADOPT)
                        adopt(ho);
                else if (f->kind == HANDOVER_PERSIST)
                        handing_put(ho);
        }
        if (b->entered)
                crash_point_of("handover", handover_state_name(b->entered), "decided");
        if (is_recorded) {
                ho->pending++;
                meted_wait(m, 0, WAIT_COMMIT, on_durable, b);
                meted_changed(m);
        } else {
                run(m, b);
                g_free(b);
        }
}

/* ---- mete-sp says ---- */

/* Greater than of any of this VM that is over here. Those of other VMs go on beside it, and may be through
 * before it begins; of VMs whose last one is forgotten by now, it is that of the oldest that is not. */
static uint64_t least_epoch(const struct meted *m, const char *vm)
{
        uint64_t most = 0, oldest = UINT64_MAX;
        unsigned n = 0;
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->handovers->by_id);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                const struct handing *ho = p;
                if (!handover_is_final(&ho->core))
                        continue;
                n++;
                oldest = MIN(oldest, ho->core.row.epoch);
                if (strcmp(ho->vm, vm) == 0)
                        most = MAX(most, ho->core.row.epoch);
        }
        if (n >= FINISHED_KEPT)
                most = MAX(most, oldest);
        return most + 1;
}

/* Finished ones are kept for a while, those of the highest epochs. */
static void trim(struct meted *m)
{
        for (;;) {
                GHashTableIter i;
                gpointer p;
                struct handing *oldest = NULL;
                unsigned n = 0;
                g_hash_table_iter_init(&i, m->handovers->by_id);
                while (g_hash_table_iter_next(&i, NULL, &p)) {
                        struct handing *ho = p;
                        if (!handover_may_be_forgotten(&ho->core) || ho->pending > 0)
                                continue;
                        n++;
                        if (!oldest || ho->core.row.epoch < oldest->core.row.epoch)
                                oldest = ho;
                }
                struct err err = {0};
                if (n <= FINISHED_KEPT)
                        return;
                if (store_delete_document(m->store, STORE_HANDOVER, oldest->core.row.id, &err)) {
                        meted_unwritten(m, &err);
                        return;
                }
                forget(oldest);
        }
}

/* What goes along with a word that this state waits for; of one that it does not, nothing is believed. */
static void take_along(struct handing *ho, const struct api_handover_message *in, enum handover_says says)
{
        enum handover_state s = ho->core.row.state;
        if (in->has_peer)
                (void)STR_COPY(ho->peer, in->peer);
        if (s == TARGET_ACCEPTED && says == HANDOVER_SAYS_INFORM && in->has_guest) {
                g_free(ho->guest);
                ho->guest = g_memdup2(&in->guest, sizeof(in->guest));
                (void)boot_read(ho->boot);
        }
        if (s == SOURCE_QUIESCED && says == HANDOVER_SAYS_GIVE && in->has_transfer)
                (void)STR_COPY(ho->transfer_path, in->transfer);
        if ((says == HANDOVER_SAYS_STATUS || says == HANDOVER_SAYS_SETTLE) && in->has_partition_epoch)
                room_know(ho, in->partition_epoch);
}

static int admit(struct meted *m, const struct api_handover_message *in, const struct handover_message *said,
                 struct err *err)
{
        struct handover_effects effects = {0};
        trim(m);
        if (g_hash_table_size(m->handovers->by_id) >= HANDOVERS_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "%d handovers are under way, more are not",
                               HANDOVERS_MAX);
        if (handing_of_vm(m, in->vm))
                return err_set(err, REASON_BUSY, EBUSY, "the VM %s is being handed over already", in->vm);
        struct handing *ho = handing_new(m);
        (void)STR_COPY(ho->vm, in->vm);
        (void)STR_COPY(ho->peer, in->peer);
        for (size_t i = 0; in->n_keeps > i && i < HANDING_KEEPS_MAX; i++)
                (void)STR_COPY(ho->keeps[ho->n_keeps++], in->keeps[i]);
        ho->asked_ms = loop_now_ms();
        if (in->has_guest)
                ho->guest = g_memdup2(&in->guest, sizeof(in->guest));
        int bad = handover_admit(&ho->core, said, least_epoch(m, in->vm), loop_mono_ms(), &effects, err);
        if (bad < 0) {
                handing_free(ho);
                return bad;
        }
        g_hash_table_insert(m->handovers->by_id, ho->core.row.id, ho);
        apply(ho, &effects);
        arm(ho);
        return 0;
}

static void answer_unknown(struct meted *m, const char *vm, const struct handover_message *said,
                           const struct err *why)
{
        struct handover_message out;
        if (!handover_answer_unknown(said, &out))
                return;
        if (why->reason) {
                out.reason = why->reason;
                (void)snprintf(out.sentence, sizeof(out.sentence), "%.150s", why->sentence);
        }
        struct api_handover_message *to = g_new0(struct api_handover_message, 1);
        handover_wire_fill(&out, vm, to);
        say_out(m, to);
        g_free(to);
}

static int hear(struct meted *m, const struct api_handover_message *in, struct err *err)
{
        struct handover_message said;
        int bad = handover_wire_take(in, &said, err);
        if (!bad && said.to == ROLE_PROCESSOR)
                bad = err_set(err, REASON_INVALID, EINVAL, "%s is for mete-sp",
                              handover_says_name(said.says));
        if (bad)
                return bad;
        struct handing *ho = handing_find(m, said.id);
        if (ho && (strcmp(ho->vm, in->vm) != 0 || said.to != handover_role(ho->core.row.state)))
                return err_set(err, REASON_INVALID, EEXIST, "the handover %s is another one here", said.id);
        if (!ho) {
                bool is_first = said.says == HANDOVER_SAYS_CLASSIFY || said.says == HANDOVER_SAYS_OFFER;
                struct err why = {0};
                if (!is_first || admit(m, in, &said, &why))
                        answer_unknown(m, in->vm, &said, &why);
                return 0;
        }
        struct handover_event ev = {.kind = HANDOVER_EV_MESSAGE, .message = &said};
        take_along(ho, in, said.says);
        handing_follow(ho, &said);
        int done = step(ho, &ev, err);
        return done < 0 ? done : 0;
}

void handovers_hear(struct meted *m, struct http_request *req, const json_t *body)
{
        struct api_handover_message *in = g_new0(struct api_handover_message, 1);
        struct err err = {0};
        int bad = 0;
        if (!m->config.is_managed || !*m->config.processor)
                bad = err_set(&err, REASON_UNSUPPORTED, EOPNOTSUPP,
                              "this meted is under no service processor: there is no handover");
        else if (req->caller || req->peer.uid != 0)
                bad = err_set(&err, REASON_DENIED, EACCES, "this is for mete-sp alone: see 'mete handover'");
        bad = bad ? bad : api_handover_message_parse(body, in, &err);
        bad = bad ? bad : hear(m, in, &err);
        g_free(in);
        if (bad)
                api_refuse(req, &err);
        else
                http_reply_text(req, 200, "application/json", "{\"taken\": true}");
        meted_changed(m);
}

const char *handovers_leaving(const struct meted *m, const char *id)
{
        const struct handing *ho = handing_find(m, id);
        enum handover_record is = RECORD_NONE;
        struct err err = {0};
        if (!ho || !handing_is_source(ho))
                return NULL;
        (void)handing_read(ho, &is, &err); /* not known: not yet */
        return handover_is_targets(&ho->core.row, is) ? ho->vm : NULL;
}

/* ---- what happens to a VM ---- */

struct undone {
        const char *vm;
        const struct handing *found;
};

static void look_for_undone(struct handing *ho, void *arg)
{
        struct undone *of = arg;
        if (strcmp(ho->vm, of->vm) == 0 && handing_may_be_undone(ho))
                of->found = ho;
}

int handovers_check(const struct meted *m, const struct machine *v, struct err *err)
{
        struct undone of = {.vm = v->definition.name, .found = handing_of_vm(m, v->definition.name)};
        if (!of.found)
                handing_each(m, look_for_undone, &of);
        const struct handing *ho = of.found;
        return ho ? err_set(err, REASON_BUSY, EBUSY,
                            "the VM %s is being handed over to another hypervisor: %s", v->definition.name,
                            ho->core.row.id)
                  : 0;
}

/* One of the same name that was here before is offered in vain, and goes on as if it were not. */
bool handovers_is_arriving(const struct machine *v)
{
        const struct handing *ho = handing_of_vm(v->m, v->definition.name);
        return ho && !handing_is_source(ho) && ho->is_defined && ho->core.row.state != TARGET_RUNNING;
}

bool handovers_is_fixed(const struct machine *v, struct err *err)
{
        const struct handing *ho = handing_of_vm(v->m, v->definition.name);
        if (!ho || (handing_is_source(ho) ? ho->core.row.state < SOURCE_QUIESCING
                                          : !ho->is_defined || ho->core.row.state == TARGET_RUNNING))
                return false;
        (void)err_set(err, REASON_BUSY, EBUSY,
                      "this VM is being handed over to another hypervisor; ask again in a while");
        return true;
}

bool handovers_is_standing(const struct machine *v)
{
        struct err err = {0};
        return handovers_is_fixed(v, &err);
}

/* ---- start and end ---- */

static int load(const char *id, const char *text, void *arg, struct err *err)
{
        struct meted *m = arg;
        struct handing *ho = handing_new(m);
        struct err bad = {0};
        (void)err;
        if (handing_record_read(ho, id, text, &bad)) { /* the others, and all VMs, do not wait for it */
                log_error("%s: it is left out", bad.sentence);
                handing_free(ho);
                return 0;
        }
        ho->durable = ho->written = ho->core.row;
        ho->is_durable = ho->is_loaded = true;
        const struct machine *v = machine_find(m, ho->vm);
        /* One that died here was adopted, and is still to be let go of. */
        ho->is_defined = v && ho->guest && (v->epoch == 0 || ho->core.row.end == TARGET_LOST) &&
                         strcmp(v->definition.uuid, ho->guest->vm.definition.uuid) == 0;
        g_hash_table_insert(m->handovers->by_id, ho->core.row.id, ho);
        return 0;
}

int handovers_start(struct meted *m, struct err *err)
{
        m->handovers = g_new0(struct handovers, 1);
        m->handovers->by_id = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, handing_free);
        m->handovers->calls = http_calls_new(err);
        if (!m->handovers->calls)
                return -ENOMEM;
        int bad = store_load_documents(m->store, STORE_HANDOVER, load, m, err);
        if (!bad)
                handovers_bring(m);
        return bad;
}

bool handovers_adopt(struct meted *m)
{
        bool do_wait = false;
        g_autoptr(GList) all = g_hash_table_get_values(m->handovers->by_id);
        for (GList *l = all; l; l = l->next) {
                struct handing *ho = l->data;
                const struct machine *v = machine_find(m, ho->vm);
                /* To one that is dead nobody will be attached, and its end may wait for the handover. */
                bool waits = ho->is_loaded && v && machine_is_awaited(v) && !v->is_dead;
                do_wait = do_wait || waits;
                if (!ho->is_loaded || waits)
                        continue;
                ho->is_loaded = false;
                restore(ho);
                if (ho->core.row.state == TARGET_SETTLED && handing_is_latest(ho))
                        taker_settle(ho); /* it may not have come to that */
        }
        return do_wait;
}

void handovers_stop(struct meted *m)
{
        GHashTableIter i;
        gpointer p;
        if (!m->handovers)
                return;
        m->handovers->is_stopping = true;
        g_hash_table_iter_init(&i, m->handovers->by_id);
        while (g_hash_table_iter_next(&i, NULL, &p))
                transfer_free(g_steal_pointer(&((struct handing *)p)->transfer)); /* before its VM */
}

void handovers_free(struct meted *m)
{
        if (!m->handovers)
                return;
        g_hash_table_destroy(m->handovers->by_id);
        http_calls_free(m->handovers->calls);
        g_free(m->handovers);
        m->handovers = NULL;
}
