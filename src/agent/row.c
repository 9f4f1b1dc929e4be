/* SPDX-License-Identifier: Apache-2.0 */
/* The model. UNSENT never left this guest, also not before a crash: it is written as SENT before the reserve
 * goes. So UNSENT may be dropped without telling the host, and everything between SENT and RELEASING must be
 * told. What is asked again with the same id has the same answer; so after any interruption SENT, ACCEPTING
 * and RELEASING are simply sent again. */
#include "agent/row.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/str.h"
#include "core/need.h"
#include "lib/need-text.h"

enum { LATE = -1, BAD = -2 };

/* clang-format off */
static const int8_t moves[ROW_STATE_N][ROW_EV_N] = {
        /*                  -  SEND      GRANT        OFFER        REFUSE       ACCEPT         GIVE_BACK      RELEASED   TAKEN */
        [ROW_UNSENT]    = { 0, ROW_SENT, BAD,         BAD,         BAD,         BAD,           ROW_ENDED,     BAD,       LATE      },
        [ROW_SENT]      = { 0, BAD,      ROW_GRANTED, ROW_OFFERED, ROW_REFUSED, BAD,           ROW_RELEASING, BAD,       ROW_ENDED },
        [ROW_OFFERED]   = { 0, BAD,      LATE,        LATE,        LATE,        ROW_ACCEPTING, ROW_RELEASING, BAD,       ROW_ENDED },
        [ROW_ACCEPTING] = { 0, BAD,      ROW_GRANTED, ROW_OFFERED, ROW_REFUSED, LATE,          ROW_RELEASING, BAD,       ROW_ENDED },
        [ROW_GRANTED]   = { 0, BAD,      LATE,        LATE,        LATE,        LATE,          ROW_RELEASING, BAD,       ROW_ENDED },
        [ROW_RELEASING] = { 0, BAD,      LATE,        LATE,        LATE,        BAD,           LATE,          ROW_ENDED, ROW_ENDED },
        [ROW_REFUSED]   = { 0, BAD,      LATE,        LATE,        LATE,        BAD,           LATE,          LATE,      LATE      },
        [ROW_ENDED]     = { 0, BAD,      LATE,        LATE,        LATE,        BAD,           LATE,          LATE,      LATE      },
};
/* clang-format on */

static const char *const state_names[ROW_STATE_N] = {
        NULL, "unsent", "sent", "counter-offered", "accepting", "granted", "releasing", "refused", "ended"};
static const char *const event_names[ROW_EV_N] = {NULL,     "send",      "grant",    "offer",     "refuse",
                                                  "accept", "give back", "released", "taken back"};

int row_step(struct row *row, enum row_event event, struct err *err)
{
        assert(row->state >= ROW_UNSENT && row->state < ROW_STATE_N && event >= ROW_EV_SEND &&
               event < ROW_EV_N);
        int to = moves[row->state][event];

        assert(to != 0);
        if (to == LATE)
                return 0;
        if (to == BAD)
                return err_set(err, REASON_STALE, EPROTO, "request %s: cannot %s, it is %s", row->id,
                               event_names[event], state_names[row->state]);
        row->state = (enum row_state)to;
        row->is_dirty = true;
        return 1;
}

bool row_is_own(const struct row *row)
{
        return row->pid == 0;
}

bool row_is_open(const struct row *row)
{
        return row->state != ROW_REFUSED && row->state != ROW_ENDED;
}

const char *row_state_name(enum row_state s)
{
        return s >= ROW_UNSENT && s < ROW_STATE_N ? state_names[s] : "none";
}

const char *row_event_name(enum row_event e)
{
        return e >= ROW_EV_SEND && e < ROW_EV_N ? event_names[e] : "none";
}

enum api_row_state row_api_state(enum row_state s)
{
        switch (s) {
        case ROW_UNSENT:
                return API_ROW_STATE_UNSENT;
        case ROW_SENT:
        case ROW_ACCEPTING:
                return API_ROW_STATE_SENT;
        case ROW_OFFERED:
                return API_ROW_STATE_COUNTER_OFFERED;
        case ROW_GRANTED:
                return API_ROW_STATE_GRANTED;
        case ROW_RELEASING:
                return API_ROW_STATE_RELEASING;
        case ROW_REFUSED:
                return API_ROW_STATE_REFUSED;
        case ROW_ENDED:
                return API_ROW_STATE_ENDED;
        case ROW_STATE_N:
                break;
        }
        assert(!"a state");
        return API_ROW_STATE_ENDED;
}

static void show_common(const struct row *row, struct api_app_row *ret)
{
        *ret = (struct api_app_row){.uid = row->uid,
                                    .pid = row->pid,
                                    .state = row_api_state(row->state),
                                    .n_needs = row->n_needs,
                                    .since_ms = row->since_ms,
                                    .has_verdict = row->has_verdict,
                                    .has_why = row->why[0] != '\0',
                                    .has_problem = row->problem[0] != '\0'};
        (void)STR_COPY(ret->id, row->id);
        (void)STR_COPY(ret->application, row->application);
        memcpy(ret->needs, row->needs, sizeof(ret->needs));
        if (row->has_verdict)
                ret->verdict = row->verdict;
        if (ret->has_why)
                (void)STR_COPY(ret->why, row->why);
        if (ret->has_problem)
                (void)STR_COPY(ret->problem, row->problem);
}

void row_show(const struct row *row, struct api_app_row *ret)
{
        show_common(row, ret);
        if (row->has_verdict && row->verdict.outcome == API_OUTCOME_GRANTED && row->verdict.n_needs > 0) {
                ret->n_needs = row->verdict.n_needs;
                for (size_t i = 0; i < ret->n_needs; i++)
                        (void)need_text_print(&row->verdict.needs[i], ret->needs[i]);
        }
}

json_t *row_emit(const struct row *row)
{
        struct api_app_row shown;

        show_common(row, &shown); /* with the needs as they were asked for */
        json_t *v = api_app_row_emit(&shown);
        if (v == NULL)
                return NULL;
        json_t *kept = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:o}", "state", state_names[row->state],
                                 "counter", api_counter_policy_name(row->counter), "cause",
                                 row->cause ? api_release_cause_name(row->cause) : "", "start_ticks",
                                 (json_int_t)row->start_ticks, "timeout_ms", (json_int_t)row->timeout_ms,
                                 "due_mono_ms", (json_int_t)row->due_mono_ms, "host_generation",
                                 (json_int_t)row->host_generation, "row", v);
        return kept;
}

static enum row_state state_find(const char *name)
{
        for (int s = ROW_UNSENT; s < ROW_STATE_N; s++)
                if (strcmp(state_names[s], name) == 0)
                        return (enum row_state)s;
        return 0;
}

int row_parse(const json_t *v, struct row *ret, struct err *err)
{
        const char *state, *counter, *cause;
        json_int_t ticks, timeout, due, generation = 0; /* that one is later than the first release */
        json_t *shown_json;
        json_error_t why;
        struct api_app_row shown;

        if (json_unpack_ex((json_t *)v, &why, JSON_STRICT, "{s:s, s:s, s:s, s:I, s:I, s:I, s?I, s:o}",
                           "state", &state, "counter", &counter, "cause", &cause, "start_ticks", &ticks,
                           "timeout_ms", &timeout, "due_mono_ms", &due, "host_generation", &generation, "row",
                           &shown_json) < 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s", why.text);
        int r = api_app_row_parse(shown_json, &shown, err);
        if (r < 0)
                return r;
        ret->state = state_find(state);
        ret->counter = api_counter_policy_find(counter);
        ret->cause = *cause != '\0' ? api_release_cause_find(cause) : 0;
        if (ret->state == 0 || ret->counter == 0 || (ret->state == ROW_RELEASING && ret->cause == 0) ||
            shown.n_needs < 1)
                return err_set(err, REASON_INVALID, EINVAL,
                               "state, counter, cause or needs are none of ours");
        (void)STR_COPY(ret->id, shown.id);
        (void)STR_COPY(ret->application, shown.application);
        ret->uid = (uid_t)shown.uid;
        ret->pid = (pid_t)shown.pid;
        ret->start_ticks = (uint64_t)ticks;
        ret->n_needs = shown.n_needs;
        memcpy(ret->needs, shown.needs, sizeof(ret->needs));
        ret->since_ms = shown.since_ms;
        ret->timeout_ms = timeout;
        ret->due_mono_ms = due;
        ret->host_generation = generation;
        ret->has_verdict = shown.has_verdict;
        ret->verdict = shown.verdict;
        (void)STR_COPY(ret->problem, shown.problem);
        (void)STR_COPY(ret->why, shown.has_why ? shown.why : "");
        return 0;
}

bool waiters_add(struct waiters *w, struct rpc_call *call)
{
        if (w->n == ROW_WAITERS_MAX)
                return false;
        w->call[w->n++] = call;
        return true;
}

struct rpc_call *waiters_take(struct waiters *w)
{
        if (w->n == 0)
                return NULL;
        struct rpc_call *call = w->call[0];
        w->n--;
        memmove(&w->call[0], &w->call[1], w->n * sizeof(w->call[0]));
        return call;
}
