/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a request. Order within a turn of the loop: rows change, then their files are written
 * (LOOP_COMMIT), then messages leave (LOOP_SEND): neither the host nor an application hears what a restart
 * could forget. A row that is new is written at once, so that it can be refused where the disk is full.
 *
 * An application gets one answer for each time that it asks; asking again with the same id gives the same. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "agent/agent.h"
#include "base/log.h"
#include "base/str.h"
#include "lib/id.h"
#include "lib/need-text.h"

enum {
        TIMEOUT_DEFAULT_MS = 60000,
        OFFER_GRACE_MS = 1000,
        RELEASE_ANSWER_MS = 30000, /* the host answers a release once it is recorded */
        RELEASE_FIRST_MS = 100,
        RELEASE_MAX_MS = 10000,
        JOIN_AFTER_MS = 5
};

/* A call whose answer is for a row, which may be gone by then. */
struct asked {
        struct agent *agent;
        uint64_t serial;
};

void desk_changed(struct agent *a)
{
        loop_turn_request(&a->commit);
}

static struct row *row_of_answer(struct asked *asked)
{
        const struct table *t = &asked->agent->table;
        struct row *row = NULL;

        for (size_t i = 0; i < t->n && row == NULL; i++)
                if (t->rows[i]->serial == asked->serial)
                        row = t->rows[i];
        free(asked);
        return row;
}

/* ---- answers ---- */

static json_t *verdict_json(const struct row *row)
{
        struct api_verdict v = row->verdict;

        if (v.has_valid_ms && row->state == ROW_OFFERED) { /* what is left of it */
                int64_t left = row->due_mono_ms - loop_mono_ms() - OFFER_GRACE_MS;
                v.valid_ms = left > 0 ? left : 0;
        }
        return api_verdict_emit(&v);
}

static void answer_asked(struct row *row)
{
        struct rpc_call *call;

        while ((call = waiters_take(&row->ask)) != NULL)
                rpc_reply(call, verdict_json(row));
}

static void answer_done(struct row *row)
{
        struct rpc_call *call;

        while ((call = waiters_take(&row->done)) != NULL)
                rpc_reply(call, NULL);
}

void desk_refuse(struct rpc_call *call, const struct err *err)
{
        rpc_refuse(call, err->reason == REASON_INVALID ? RPC_WRONG_PARAMS : RPC_REFUSED, err);
}

/* An asker too many: the one that waits longest has probably gone. */
static void wait_with(struct waiters *w, struct rpc_call *call)
{
        struct err why = {0};

        if (w->n == ROW_WAITERS_MAX) {
                (void)err_set(&why, REASON_BUSY, EBUSY, "%d others wait for the same answer",
                              ROW_WAITERS_MAX);
                rpc_refuse(waiters_take(w), RPC_REFUSED, &why);
        }
        (void)waiters_add(w, call);
}

static void set_verdict(struct row *row, enum api_outcome outcome, enum reason reason, const char *sentence)
{
        row->verdict = (struct api_verdict){.outcome = outcome, .has_reason = true, .reason = reason};
        (void)STR_COPY(row->verdict.request, row->id);
        (void)STR_COPY(row->verdict.sentence, sentence);
        row->has_verdict = true;
        row->is_dirty = true;
}

/* ---- the end of a row ---- */

void desk_row_end(struct row *row)
{
        loop_timer_cancel(&row->timer);
        loop_timer_cancel(&row->join);
        proc_hold_drop(&row->process);
}

/* It is no longer being asked for, or no longer granted. */
static void let_go(struct row *row, bool was_granted)
{
        loop_timer_cancel(&row->join);
        if (was_granted || row->is_joined)
                rows_unhold(row);
}

static void finished(struct row *row)
{
        if (row_is_open(row))
                return;
        desk_row_end(row);
        answer_done(row);
}

/* Only these two say that the host holds nothing for it any more. After every other error it may, so the row
 * stays and the release is sent again: a lease that nobody knows of is never given back. */
static bool is_over(const struct err *err)
{
        return err == NULL || err->reason == REASON_NOT_FOUND || err->reason == REASON_STALE;
}

static void release_later(struct row *row)
{
        row->wait_ms = row->wait_ms == 0                   ? RELEASE_FIRST_MS
                       : row->wait_ms * 2 < RELEASE_MAX_MS ? row->wait_ms * 2
                                                           : RELEASE_MAX_MS;
        row->is_waiting = true;
        loop_timer_in(&row->timer, row->wait_ms);
        answer_done(row); /* it is recorded here, and will be sent again */
}

static void on_released(void *arg, const json_t *result, const struct err *err)
{
        struct asked *asked = arg;
        struct agent *a = asked->agent;
        struct row *row = row_of_answer(asked);

        if (row == NULL)
                return;
        row->is_releasing = false;
        if (channel_is_lost(a->channel)) {
                answer_done(row); /* it is recorded here, and will be sent again */
                return;
        }
        if (err != NULL && row->wait_ms == 0) /* once, however often it is tried */
                log_note("request %s: the host answers its release with: %s (%s)", row->id, err->sentence,
                         reason_name(err->reason));
        if (!is_over(err) && row->state == ROW_RELEASING) {
                (void)STR_COPY(row->problem, err->sentence);
                release_later(row);
                return;
        }
        (void)row_step(row, ROW_EV_RELEASED, NULL);
        finished(row);
        desk_changed(a);
}

void desk_give_back(struct row *row, enum api_release_cause cause, enum reason reason, const char *sentence)
{
        bool was_asking = row->state == ROW_UNSENT || row->state == ROW_SENT || row->state == ROW_ACCEPTING;
        bool was_granted = row->state == ROW_GRANTED;

        if (row_step(row, ROW_EV_GIVE_BACK, NULL) != 1)
                return;
        let_go(row, was_granted);
        row->cause = cause;
        if (row_is_own(row))
                (void)STR_COPY(row->why, sentence);
        if (was_asking)
                set_verdict(row, API_OUTCOME_NOT_NOW, reason, sentence);
        answer_asked(row);
        loop_timer_cancel(&row->timer);
        finished(row);
        desk_pursue(row);
        desk_changed(row->agent);
}

static void tell_ended(struct row *row, enum reason reason, const char *sentence)
{
        struct api_app_ended ended = {.reason = reason};

        (void)STR_COPY(ended.id, row->id);
        (void)STR_COPY(ended.sentence, sentence);
        json_t *params = api_app_ended_emit(&ended);
        apps_notify(row->agent->apps, row->pid, row->start_ticks, api_app_methods[API_APP_ENDED].name,
                    params);
        json_decref(params);
}

void desk_taken(struct row *row, enum reason reason, const char *sentence)
{
        bool was_granted = row->state == ROW_GRANTED, was_had = was_granted || row->state == ROW_OFFERED;

        if (row_step(row, ROW_EV_TAKEN, NULL) != 1)
                return;
        let_go(row, was_granted);
        set_verdict(row, API_OUTCOME_NOT_NOW, reason, sentence);
        answer_asked(row);
        if (was_had && !row_is_own(row))
                tell_ended(row, reason, sentence);
        finished(row);
        desk_changed(row->agent);
}

/* ---- timers and watches ---- */

static void on_due(void *arg)
{
        struct row *row = arg;
        bool is_away = !channel_is_ready(row->agent->channel);

        if (row->state == ROW_RELEASING)
                desk_pursue_now(row);
        else if (row->state == ROW_OFFERED)
                desk_give_back(row, API_RELEASE_CAUSE_DECLINED, REASON_TIMEOUT, "the offer has lapsed");
        else if (row->state == ROW_UNSENT || row->state == ROW_SENT || row->state == ROW_ACCEPTING)
                desk_give_back(row, API_RELEASE_CAUSE_WITHDRAWN, is_away ? REASON_PEER_LOST : REASON_TIMEOUT,
                               is_away ? "the host could not be reached in time"
                                       : "there was no decision in time");
}

/* A refusal comes sooner; what takes longer is being made. */
static void on_join(void *arg)
{
        struct row *row = arg;

        if (row->is_asking)
                rows_join(row);
}

static void on_exit_of(void *arg)
{
        desk_give_back(arg, API_RELEASE_CAUSE_EXITED, REASON_CANCELLED, "the application has ended");
}

static void set_due(struct row *row, int64_t ms)
{
        row->due_mono_ms = loop_mono_ms() + ms;
        row->is_dirty = true;
        loop_timer_at(&row->timer, row->due_mono_ms);
}

void desk_row_begin(struct agent *a, struct row *row)
{
        struct err why = {0};

        row->agent = a;
        row->serial = ++a->last_serial;
        loop_timer_init(&row->timer, on_due, row);
        loop_timer_init(&row->join, on_join, row);
        if (!row_is_open(row) || row->state == ROW_RELEASING)
                return;
        if (row->state != ROW_GRANTED)
                loop_timer_at(&row->timer, row->due_mono_ms);
        if (row_is_own(row) ||
            proc_hold_new(&row->process, row->pid, row->start_ticks, on_exit_of, row, &why) == 0)
                return;
        log_note("request %s: %s", row->id, why.sentence);
        desk_give_back(row, API_RELEASE_CAUSE_EXITED, REASON_CANCELLED, "the application has ended");
}

/* ---- to the host ---- */

static enum api_outcome outcome_of(enum reason reason)
{
        switch (reason) {
        case REASON_INVALID:
        case REASON_NOT_FOUND:
        case REASON_DENIED:
        case REASON_UNSUPPORTED:
        case REASON_POLICY:
        case REASON_INCOMPATIBLE:
        case REASON_UNREASSIGNABLE:
                return API_OUTCOME_NEVER;
        case REASON_NO_CAPACITY:
        case REASON_NO_OFFERS:
        case REASON_COST:
        case REASON_STALE:
        case REASON_BUSY:
        case REASON_TIMEOUT:
        case REASON_CANCELLED:
        case REASON_PEER_LOST:
        case REASON_INTERNAL:
        case REASON_N:
                break;
        }
        return API_OUTCOME_NOT_NOW;
}

static enum row_event event_of(enum api_outcome outcome)
{
        switch (outcome) {
        case API_OUTCOME_GRANTED:
                return ROW_EV_GRANT;
        case API_OUTCOME_COUNTER_OFFERED:
                return ROW_EV_OFFER;
        case API_OUTCOME_NOT_NOW:
        case API_OUTCOME_NEVER:
        case API_OUTCOME_N:
                break;
        }
        return ROW_EV_REFUSE;
}

static void take_verdict(struct row *row, const json_t *result, const struct err *err)
{
        struct api_verdict v = {0};
        struct err why = {0};
        bool was_asking = row->state == ROW_SENT || row->state == ROW_ACCEPTING;

        if (err != NULL) {
                v.outcome = outcome_of(err->reason);
                why = *err;
        } else if (api_verdict_parse(result, &v, &why) < 0 || strcmp(v.request, row->id) != 0) {
                struct err detail = why;
                (void)err_set(&why, REASON_INTERNAL, EPROTO, "the host's verdict is none of ours%s%s",
                              detail.reason ? ": " : "", detail.sentence);
                log_warn("request %s: %s", row->id, why.sentence);
                if (was_asking) /* it may be a grant: what nobody here can use must not stay held there */
                        desk_give_back(row, API_RELEASE_CAUSE_WITHDRAWN, REASON_INTERNAL, why.sentence);
                return;
        }
        if (row_step(row, event_of(v.outcome), NULL) != 1 || !was_asking)
                return; /* withdrawn meanwhile: its release is on the way */
        loop_timer_cancel(&row->timer);
        if (why.reason != 0) {
                set_verdict(row, v.outcome, why.reason, why.sentence);
        } else {
                row->verdict = v;
                row->has_verdict = true;
        }
        row->problem[0] = '\0';
        if (row->state == ROW_GRANTED)
                rows_hold(row);
        if (row->state == ROW_OFFERED)
                set_due(row, (v.has_valid_ms ? v.valid_ms : 0) + OFFER_GRACE_MS);
        answer_asked(row);
        if (row->state != ROW_GRANTED)
                let_go(row, false);
        finished(row);
}

static void on_verdict(void *arg, const json_t *result, const struct err *err)
{
        struct asked *asked = arg;
        struct agent *a = asked->agent;
        struct row *row = row_of_answer(asked);

        if (row == NULL)
                return;
        row->is_asking = false;
        if (channel_is_lost(a->channel))
                return; /* asked again once the host is back */
        take_verdict(row, result, err);
        desk_changed(a);
}

static json_t *reserve_json(const struct row *row)
{
        struct api_guest_reserve q = {.n_needs = row->n_needs,
                                      .has_counter = row->counter != API_COUNTER_POLICY_NONE,
                                      .counter = row->counter,
                                      .has_why = row->why[0] != '\0',
                                      .has_host_generation = row->host_generation > 0,
                                      .host_generation = row->host_generation};

        (void)STR_COPY(q.request, row->id);
        (void)STR_COPY(q.application, row->application);
        (void)STR_COPY(q.why, row->why);
        for (size_t i = 0; i < row->n_needs; i++)
                if (need_text_parse(row->needs[i], &q.needs[i], NULL) < 0)
                        return NULL; /* a file that somebody changed */
        return api_guest_reserve_emit(&q);
}

static json_t *id_json(const struct row *row)
{
        struct api_guest_request_id q = {0};

        (void)STR_COPY(q.request, row->id);
        return api_guest_request_id_emit(&q);
}

static json_t *release_json(const struct row *row)
{
        struct api_guest_release q = {.cause = row->cause,
                                      .has_why = row->why[0] != '\0' && channel_has_hhi(row->agent->channel)};

        (void)STR_COPY(q.request, row->id);
        (void)STR_COPY(q.why, row->why);
        return api_guest_release_emit(&q);
}

static bool call_host(struct row *row, enum api_guest_method method, json_t *params, int64_t timeout_ms,
                      rpc_done_fn *cb)
{
        struct asked *asked = calloc(1, sizeof(*asked));
        struct err why = {0};

        if (asked == NULL || params == NULL) {
                free(asked);
                json_decref(params);
                (void)STR_COPY(row->problem, "no memory for the message");
                return false;
        }
        asked->agent = row->agent;
        asked->serial = row->serial;
        if (channel_call(row->agent->channel, method, params, timeout_ms, cb, asked, &why) < 0) {
                free(asked);
                (void)STR_COPY(row->problem, why.sentence);
                return false;
        }
        row->problem[0] = '\0';
        return true;
}

static void send_release(struct row *row)
{
        row->is_releasing =
                call_host(row, API_GUEST_RELEASE, release_json(row), RELEASE_ANSWER_MS, on_released);
        if (!row->is_releasing)
                release_later(row);
}

static void ask_host(struct row *row)
{
        if (row->state == ROW_SENT && row->host_generation > 0 && !channel_has_hhi(row->agent->channel)) {
                desk_give_back(row, API_RELEASE_CAUSE_WITHDRAWN, REASON_STALE,
                               "decided on host hardware information, of which this host tells nothing");
                return;
        }
        row->is_asking = row->state == ROW_SENT
                                 ? call_host(row, API_GUEST_RESERVE, reserve_json(row), 0, on_verdict)
                                 : call_host(row, API_GUEST_ACCEPT, id_json(row), 0, on_verdict);
        if (row->is_asking)
                loop_timer_in(&row->join, JOIN_AFTER_MS);
}

void desk_pursue(struct row *row)
{
        if (!row_is_open(row))
                return;
        if (!channel_is_ready(row->agent->channel)) {
                if (row->state == ROW_UNSENT || row->state == ROW_RELEASING)
                        (void)STR_COPY(row->problem, channel_problem(row->agent->channel));
                if (row->state == ROW_RELEASING)
                        answer_done(row);
                return;
        }
        if (row->state == ROW_UNSENT) {
                (void)row_step(row, ROW_EV_SEND, NULL);
                desk_changed(row->agent);
        }
        if ((row->state == ROW_SENT || row->state == ROW_ACCEPTING) && !row->is_asking)
                ask_host(row);
        else if (row->state == ROW_RELEASING && !row->is_releasing && !row->is_waiting)
                send_release(row);
}

void desk_pursue_now(struct row *row)
{
        if (row->is_waiting)
                loop_timer_cancel(&row->timer);
        row->is_waiting = false;
        desk_pursue(row);
}

/* ---- from applications ---- */

static int row_make(struct agent *a, const struct app *app, const struct api_app_request *q, struct row **ret,
                    struct err *err)
{
        struct api_need need;
        char id[64];

        for (size_t i = 0; i < q->n_needs; i++)
                if (need_text_parse(q->needs[i], &need, err) < 0)
                        return err_note(err, "needs[%zu]", i);
        if (q->has_id)
                (void)STR_COPY(id, q->id);
        else
                id_make(id);
        struct row *row = calloc(1, sizeof(*row));
        if (row == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a request");
        *row = (struct row){.state = ROW_UNSENT,
                            .uid = app->uid,
                            .pid = app->proc.pid,
                            .start_ticks = app->proc.start_ticks,
                            .n_needs = q->n_needs,
                            .counter = q->has_counter ? q->counter : API_COUNTER_POLICY_NONE,
                            .host_generation = q->has_host_generation ? q->host_generation : 0,
                            .since_ms = loop_now_ms(),
                            .timeout_ms = q->has_timeout_ms ? q->timeout_ms : TIMEOUT_DEFAULT_MS,
                            .agent = a,
                            .serial = ++a->last_serial};
        (void)STR_COPY(row->id, id);
        (void)snprintf(row->application, sizeof(row->application), "%.24s/%ld/%" PRIu64,
                       q->has_name && q->name[0] != '\0' ? q->name : app->proc.name, (long)app->proc.pid,
                       app->proc.start_ticks);
        memcpy(row->needs, q->needs, sizeof(row->needs));
        loop_timer_init(&row->timer, on_due, row);
        loop_timer_init(&row->join, on_join, row);
        *ret = row;
        return 0;
}

static int row_open(struct agent *a, const struct app *app, const struct api_app_request *q, struct row **ret,
                    struct err *err)
{
        struct row *row = NULL;

        if (table_open_rows(&a->table, app->uid) >= TABLE_OPEN_PER_USER_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "%d requests of this user are open; release some",
                               TABLE_OPEN_PER_USER_MAX);
        int r = row_make(a, app, q, &row, err);
        if (r < 0)
                return r;
        r = row_is_own(row) ? 0 : proc_hold_share(&row->process, &app->life, on_exit_of, row, err);
        if (r == 0) {
                set_due(row, row->timeout_ms);
                /* Written down as sent before it is, so that it is written once. */
                if (channel_is_ready(a->channel))
                        (void)row_step(row, ROW_EV_SEND, NULL);
                else
                        (void)STR_COPY(row->problem, channel_problem(a->channel));
                r = table_add(&a->table, row, err);
        }
        if (r < 0) {
                desk_row_end(row);
                free(row);
                return r;
        }
        *ret = row;
        return 0;
}

const struct row *desk_ask(struct agent *a, const char *need, const char *why, struct err *err)
{
        const struct app self = {.proc = {.name = "mete-agent"}, .uid = geteuid()};
        struct api_app_request q = {.n_needs = 1,
                                    .has_host_generation = a->picture.generation > 0,
                                    .host_generation = (int64_t)a->picture.generation};
        struct row *row;

        (void)STR_COPY(q.needs[0], need);
        if (row_open(a, &self, &q, &row, err) < 0)
                return NULL;
        (void)STR_COPY(row->why, why);
        row->is_dirty = true;
        desk_pursue(row);
        desk_changed(a);
        return row;
}

/* The same question again? */
static int check_same(const struct row *row, const struct app *app, const struct api_app_request *q,
                      struct err *err)
{
        enum api_counter_policy counter = q->has_counter ? q->counter : API_COUNTER_POLICY_NONE;
        bool is_same = row->n_needs == q->n_needs && row->counter == counter;

        if (row->uid != app->uid)
                return err_set(err, REASON_DENIED, EPERM, "request %s belongs to another user", row->id);
        for (size_t i = 0; is_same && i < row->n_needs; i++)
                is_same = strcmp(row->needs[i], q->needs[i]) == 0;
        if (!is_same)
                return err_set(err, REASON_INVALID, EEXIST, "id %s was used for another request", row->id);
        if (row->state == ROW_RELEASING || row->state == ROW_ENDED)
                if (!row->has_verdict || row->verdict.outcome != API_OUTCOME_NOT_NOW)
                        return err_set(err, REASON_STALE, ESTALE, "request %s has ended; use another id",
                                       row->id);
        return 0;
}

static void on_app_request(struct agent *a, const struct app *app, struct rpc_call *call,
                           const json_t *params)
{
        struct api_app_request q;
        struct err why = {0};
        int r = api_app_request_parse(params, &q, &why);
        struct row *row = r == 0 && q.has_id ? table_find(&a->table, q.id) : NULL;

        if (r == 0 && !apps_take_token(a->apps, app->uid))
                r = err_set(&why, REASON_BUSY, EBUSY, "slow down: too many requests of this user");
        if (r == 0 && row != NULL)
                r = check_same(row, app, &q, &why);
        else if (r == 0)
                r = row_open(a, app, &q, &row, &why);
        if (r < 0) {
                desk_refuse(call, &why);
                return;
        }
        if (row->state == ROW_UNSENT || row->state == ROW_SENT || row->state == ROW_ACCEPTING)
                wait_with(&row->ask, call);
        else
                rpc_reply(call, verdict_json(row));
        desk_pursue(row);
}

static struct row *row_of(struct agent *a, const struct app *app, const json_t *params, struct err *err)
{
        struct api_app_id q;

        if (api_app_id_parse(params, &q, err) < 0)
                return NULL;
        if (!apps_take_token(a->apps, app->uid)) {
                (void)err_set(err, REASON_BUSY, EBUSY, "slow down: too many requests of this user");
                return NULL;
        }
        struct row *row = table_find(&a->table, q.id);
        if (row == NULL)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "there is no request %s", q.id);
        else if (row->uid != app->uid && app->uid != 0)
                (void)err_set(err, REASON_DENIED, EPERM, "request %s belongs to another user", q.id);
        else
                return row;
        return NULL;
}

static void on_app_accept(struct agent *a, const struct app *app, struct rpc_call *call, const json_t *params)
{
        struct err why = {0};
        struct row *row = row_of(a, app, params, &why);

        if (row == NULL || row_step(row, ROW_EV_ACCEPT, &why) < 0) {
                desk_refuse(call, &why);
                return;
        }
        if (row->state == ROW_GRANTED) {
                rpc_reply(call, verdict_json(row));
                return;
        }
        if (!row->is_asking)
                set_due(row, row->timeout_ms);
        wait_with(&row->ask, call);
        desk_pursue(row);
        desk_changed(a);
}

static void on_app_decline(struct agent *a, const struct app *app, struct rpc_call *call,
                           const json_t *params)
{
        struct err why = {0};
        struct row *row = row_of(a, app, params, &why);

        if (row != NULL && (row->state == ROW_UNSENT || row->state == ROW_SENT ||
                            row->state == ROW_ACCEPTING || row->state == ROW_GRANTED)) {
                (void)err_set(&why, REASON_STALE, EPROTO,
                              "request %s: there is no offer to decline, it is %s", row->id,
                              row_state_name(row->state));
                row = NULL;
        }
        if (row == NULL) {
                desk_refuse(call, &why);
                return;
        }
        desk_give_back(row, API_RELEASE_CAUSE_DECLINED, REASON_CANCELLED, "declined");
        rpc_reply(call, NULL);
}

static void on_app_release(struct agent *a, const struct app *app, struct rpc_call *call,
                           const json_t *params)
{
        struct err why = {0};
        struct row *row = row_of(a, app, params, &why);

        if (row == NULL) {
                desk_refuse(call, &why);
                return;
        }
        bool is_wanted = row->state == ROW_GRANTED || row->state == ROW_OFFERED;
        desk_give_back(row, is_wanted ? API_RELEASE_CAUSE_RELEASED : API_RELEASE_CAUSE_WITHDRAWN,
                       REASON_CANCELLED, "withdrawn by its user");
        if (is_wanted && (app->proc.pid != row->pid || app->proc.start_ticks != row->start_ticks)) {
                (void)err_set(&why, REASON_CANCELLED, ECANCELED, "released by %s/%ld of user %lu",
                              app->proc.name, (long)app->proc.pid, (unsigned long)app->uid);
                tell_ended(row, why.reason, why.sentence);
        }
        if (!row->is_releasing) { /* finished, or the host is not reached: it is recorded */
                rpc_reply(call, NULL);
                return;
        }
        wait_with(&row->done, call);
}

static void on_app_list(struct agent *a, const struct app *app, struct rpc_call *call)
{
        struct err why = {0};

        if (!apps_take_token(a->apps, app->uid)) {
                (void)err_set(&why, REASON_BUSY, EBUSY, "slow down: too many requests of this user");
                desk_refuse(call, &why);
                return;
        }
        json_t *rows = json_array(), *result = json_object();
        for (size_t i = 0; i < a->table.n; i++) {
                struct api_app_row shown;
                const struct row *row = a->table.rows[i];
                if (row->uid != app->uid && app->uid != 0)
                        continue;
                row_show(row, &shown);
                (void)json_array_append_new(rows, api_app_row_emit(&shown));
        }
        (void)json_object_set_new(result, "rows", rows);
        rpc_reply(call, result);
}

static void on_app_hello(struct agent *a, struct rpc_call *call, const json_t *params)
{
        struct api_app_hello hello;
        struct api_app_welcome welcome = {.version = 1,
                                          .connected = channel_is_ready(a->channel),
                                          .has_project_ms = a->project.agent != NULL,
                                          .project_ms = a->project.step_ms};
        struct err why = {0};

        if (api_app_hello_parse(params, &hello, &why) < 0) {
                desk_refuse(call, &why);
                return;
        }
        (void)STR_COPY(welcome.agent, METE_VERSION);
        welcome.has_vm = channel_vm(a->channel)[0] != '\0' && STR_COPY(welcome.vm, channel_vm(a->channel));
        rpc_reply(call, api_app_welcome_emit(&welcome));
}

static void on_app_host(struct agent *a, const struct app *app, struct rpc_call *call, const json_t *params)
{
        struct api_app_host_ask ask;
        struct api_app_host host;
        struct err why = {0};

        if (api_app_host_ask_parse(params, &ask, &why) < 0) {
                desk_refuse(call, &why);
                return;
        }
        if (ask.has_watch && ask.watch)
                apps_watch(app);
        agent_say_host(a, &host);
        rpc_reply(call, api_app_host_emit(&host));
}

static bool is_empty(const json_t *params, struct rpc_call *call)
{
        struct api_empty empty;
        struct err why = {0};

        if (api_empty_parse(params, &empty, &why) == 0)
                return true;
        desk_refuse(call, &why);
        return false;
}

void desk_request(void *arg, const struct app *app, struct rpc_call *call, const char *method,
                  const json_t *params)
{
        struct agent *a = arg;

        switch (api_app_method_find(method)) {
        case API_APP_REQUEST:
                on_app_request(a, app, call, params);
                return;
        case API_APP_ACCEPT:
                on_app_accept(a, app, call, params);
                return;
        case API_APP_DECLINE:
                on_app_decline(a, app, call, params);
                return;
        case API_APP_RELEASE:
                on_app_release(a, app, call, params);
                return;
        case API_APP_LIST:
                if (is_empty(params, call))
                        on_app_list(a, app, call);
                return;
        case API_APP_HELLO:
                on_app_hello(a, call, params);
                return;
        case API_APP_HOST:
                on_app_host(a, app, call, params);
                return;
        case API_APP_DECLARE:
                desk_declare(a, app, call, params);
                return;
        case API_APP_DECLARED:
                if (is_empty(params, call))
                        desk_declared(a, app, call);
                return;
        case API_APP_DECLARE_DROP:
                desk_declare_drop(a, app, call, params);
                return;
        case API_APP_ENDED:
        case API_APP_HOST_CHANGED:
        case API_APP_METHOD_N:
                break;
        }
        rpc_refuse_unknown(call, method);
}
