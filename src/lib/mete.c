/* SPDX-License-Identifier: Apache-2.0 */
/* The two faces over lib/handle.h. Arguments are checked before anything is begun, so that a misuse costs
 * nothing and says what it is. */
#include "mete.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <unistd.h>
#include "base/str.h"
#include "lib/handle.h"
#include "lib/id.h"
#include "lib/need-text.h"

#define HOST_GENERATION_MAX ((uint64_t)1 << 53) /* of an integer that every reader of JSON keeps */
#define SOCKET_DEFAULT      "/run/mete/agent.sock"

/* ---- opening ---- */

static int make_handle(const char *path, struct mete **ret, struct err *err)
{
        struct mete *m = calloc(1, sizeof(*m));

        if (m == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a handle");
        m->owner = getpid();
        m->fd = -1;
        m->patience_ms = HANDLE_PATIENCE_MS;
        m->notes_end = &m->notes;
        atomic_flag_clear(&m->is_used);
        line_init(&m->in, HANDLE_LINE_MAX);
        int r = STR_COPY(m->path, path) ? handle_connect(m, err)
                                        : err_set(err, REASON_INVALID, EINVAL,
                                                  "%.40s...: too long for a socket's path", path);
        if (r < 0) {
                mete_close(m);
                return r;
        }
        *ret = m;
        return 0;
}

int mete_open(const char *socket_path, struct mete **ret, struct mete_error *err)
{
        struct err why = {0};
        const char *path = socket_path != NULL ? socket_path : getenv("METE_SOCKET");
        int r;

        if (path == NULL || *path == '\0')
                path = SOCKET_DEFAULT;
        if (ret == NULL)
                r = err_set(&why, REASON_INVALID, EINVAL, "ret is NULL");
        else
                r = make_handle(path, ret, &why);
        if (r < 0)
                (void)error_copy(err, &why);
        return r;
}

void mete_close(struct mete *m)
{
        if (m == NULL)
                return;
        if (m->fd >= 0)
                (void)close(m->fd);
        for (size_t i = 0; i < ARRAY_N(m->ops); i++)
                json_decref(m->ops[i].params);
        while (m->notes != NULL)
                note_free(handle_take(m, 0));
        line_done(&m->in);
        free(m->out);
        free(m);
}

int mete_reopen(struct mete *m, struct mete_error *err)
{
        struct err why = {0};
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        if (m->fd < 0)
                r = handle_connect(m, &why);
        return handle_leave(m, r, &why, err);
}

/* ---- arguments ---- */

static int check_id(const char *id, struct err *err)
{
        size_t n = id != NULL
                           ? strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
                           : 0;

        if (id == NULL)
                return err_set(err, REASON_INVALID, EINVAL, "the id is NULL");
        if (n < 1 || n > METE_ID_MAX || id[n] != '\0')
                return err_set(err, REASON_INVALID, EINVAL, "an id has 1 to %d letters, digits and ._:-",
                               METE_ID_MAX);
        return 0;
}

static int check_name(const char *name, struct err *err)
{
        size_t n = strnlen(name, METE_NAME_MAX + 1);

        if (n < 1 || n > METE_NAME_MAX)
                return err_set(err, REASON_INVALID, EINVAL, "a name has 1 to %d bytes", METE_NAME_MAX);
        for (size_t i = 0; i < n; i++)
                if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
                        return err_set(err, REASON_INVALID, EINVAL, "a name has no control characters");
        return 0;
}

/* Members that this version does not know must be zero: a program built with a later header that uses none
 * of its additions works. */
static int take_options(const struct mete_options *from, struct mete_options *to, struct err *err)
{
        static const struct mete_options defaults = METE_OPTIONS_INIT;

        *to = defaults;
        if (from == NULL)
                return 0;
        if (from->size < sizeof(*to) || from->size > 1024)
                return err_set(err, REASON_INVALID, EINVAL, "options: start from METE_OPTIONS_INIT");
        for (size_t i = sizeof(*to); i < from->size; i++)
                if (((const unsigned char *)from)[i] != 0)
                        return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                                       "options: libmete " METE_VERSION " does not know all of them");
        *to = *from;
        if (to->timeout_ms < 0 || to->timeout_ms > METE_TIMEOUT_MAX_MS)
                return err_set(err, REASON_INVALID, EINVAL,
                               "timeout_ms must be from 1 to %d, or 0 for a minute", METE_TIMEOUT_MAX_MS);
        if (to->host_generation >= HOST_GENERATION_MAX)
                return err_set(err, REASON_INVALID, EINVAL, "host_generation: no host has had so many");
        int r = to->id != NULL ? check_id(to->id, err) : 0;
        return r == 0 && to->name != NULL ? check_name(to->name, err) : r;
}

static int take_needs(const char *const *needs, size_t n, struct api_app_request *request, struct err *err)
{
        if (needs == NULL || n < 1 || n > METE_NEEDS_MAX)
                return err_set(err, REASON_INVALID, EINVAL, "a request has 1 to %d needs", METE_NEEDS_MAX);
        for (size_t i = 0; i < n; i++) {
                struct api_need need;
                int r = needs[i] != NULL ? need_text_parse(needs[i], &need, err)
                                         : err_set(err, REASON_INVALID, EINVAL, "is NULL");
                if (r < 0)
                        return err_note(err, "need %zu", i + 1);
                (void)STR_COPY(request->needs[i], needs[i]);
        }
        request->n_needs = n;
        return 0;
}

static int take_request(const char *const *needs, size_t n, const struct mete_options *options,
                        struct api_app_request *ret, struct err *err)
{
        struct mete_options o;
        struct api_app_request q = {.has_id = true};

        int r = take_options(options, &o, err);
        if (r == 0)
                r = take_needs(needs, n, &q, err);
        if (r < 0)
                return r;
        if (o.id != NULL)
                (void)STR_COPY(q.id, o.id);
        else
                id_make(q.id); /* always: asking again after a loss needs one */
        if (o.name != NULL)
                q.has_name = STR_COPY(q.name, o.name);
        if (o.or_less) {
                q.has_counter = true;
                q.counter = API_COUNTER_POLICY_LESS;
        }
        if (o.timeout_ms > 0) {
                q.has_timeout_ms = true;
                q.timeout_ms = o.timeout_ms;
        }
        if (o.host_generation > 0) {
                q.has_host_generation = true;
                q.host_generation = (int64_t)o.host_generation;
        }
        *ret = q;
        return 0;
}

/* ---- beginning ---- */

static int begin_request(struct mete *m, const char *const *needs, size_t n,
                         const struct mete_options *options, uint64_t *ret_ticket, struct err *err)
{
        struct api_app_request q;
        int r = take_request(needs, n, options, &q, err);

        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_N(m->ops); i++)
                if (m->ops[i].ticket != 0 && strcmp(m->ops[i].method, "request") == 0 &&
                    strcmp(m->ops[i].id, q.id) == 0)
                        return err_set(err, REASON_INVALID, EINVAL, "the answer to request %s is outstanding",
                                       q.id);
        return handle_start(m, OP_VERDICT, "request", api_app_request_emit(&q), q.id, ret_ticket, err);
}

static int begin_id(struct mete *m, enum op_kind kind, const char *method, const char *id,
                    uint64_t *ret_ticket, struct err *err)
{
        struct api_app_id q = {0};
        int r = check_id(id, err);

        if (r < 0)
                return r;
        (void)STR_COPY(q.id, id);
        return handle_start(m, kind, method, api_app_id_emit(&q), id, ret_ticket, err);
}

int mete_request_start(struct mete *m, const char *const *needs, size_t n_needs,
                       const struct mete_options *options, uint64_t *ret_ticket, struct mete_error *err)
{
        struct err why = {0};
        uint64_t ticket = 0;
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        r = begin_request(m, needs, n_needs, options, &ticket, &why);
        if (r == 0 && ret_ticket != NULL)
                *ret_ticket = ticket;
        return handle_leave(m, r, &why, err);
}

static int start_id(struct mete *m, enum op_kind kind, const char *method, const char *id,
                    uint64_t *ret_ticket, struct mete_error *err)
{
        struct err why = {0};
        uint64_t ticket = 0;
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        r = begin_id(m, kind, method, id, &ticket, &why);
        if (r == 0 && ret_ticket != NULL)
                *ret_ticket = ticket;
        return handle_leave(m, r, &why, err);
}

int mete_accept_start(struct mete *m, const char *id, uint64_t *ret_ticket, struct mete_error *err)
{
        return start_id(m, OP_VERDICT, "accept", id, ret_ticket, err);
}

int mete_decline_start(struct mete *m, const char *id, uint64_t *ret_ticket, struct mete_error *err)
{
        return start_id(m, OP_DONE, "decline", id, ret_ticket, err);
}

int mete_release_start(struct mete *m, const char *id, uint64_t *ret_ticket, struct mete_error *err)
{
        return start_id(m, OP_DONE, "release", id, ret_ticket, err);
}

/* ---- the blocking face ---- */

/* Waits for the ticket's note, which says what the result is. */
static int finish(struct mete *m, uint64_t ticket, int64_t answer_ms, struct mete_verdict **ret_verdict,
                  json_t **ret_raw, struct err *err)
{
        struct note *n = NULL;
        int r = handle_await(m, ticket, answer_ms, &n, err);

        if (r < 0)
                return r;
        if (n->event.kind == METE_EVENT_FAILED) {
                r = err_set(err, (enum reason)n->event.error.reason,
                            n->event.error.code > 0 ? n->event.error.code : EIO, "%s",
                            n->event.error.sentence);
        } else {
                r = n->verdict != NULL ? (int)n->verdict->outcome : 0;
                if (ret_verdict != NULL) {
                        *ret_verdict = n->verdict;
                        n->verdict = NULL;
                }
                if (ret_raw != NULL) {
                        *ret_raw = n->raw;
                        n->raw = NULL;
                }
        }
        note_free(n);
        return r;
}

int mete_request(struct mete *m, const char *const *needs, size_t n_needs, const struct mete_options *options,
                 struct mete_verdict **ret_verdict, struct mete_error *err)
{
        struct err why = {0};
        uint64_t ticket = 0;
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        r = begin_request(m, needs, n_needs, options, &ticket, &why);
        int64_t answer_ms = (r == 0 && options != NULL && options->timeout_ms > 0 ? options->timeout_ms
                                                                                  : HANDLE_TIMEOUT_MS) +
                            m->patience_ms / 2;
        if (r == 0)
                r = finish(m, ticket, answer_ms, ret_verdict, NULL, &why);
        return handle_leave(m, r, &why, err);
}

static int call_id(struct mete *m, enum op_kind kind, const char *method, const char *id,
                   struct mete_verdict **ret_verdict, struct mete_error *err)
{
        struct err why = {0};
        uint64_t ticket = 0;
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        r = begin_id(m, kind, method, id, &ticket, &why);
        if (r == 0)
                r = finish(m, ticket, 0, ret_verdict, NULL, &why);
        return handle_leave(m, r, &why, err);
}

int mete_accept(struct mete *m, const char *id, struct mete_verdict **ret_verdict, struct mete_error *err)
{
        return call_id(m, OP_VERDICT, "accept", id, ret_verdict, err);
}

int mete_decline(struct mete *m, const char *id, struct mete_error *err)
{
        return call_id(m, OP_DONE, "decline", id, NULL, err);
}

int mete_release(struct mete *m, const char *id, struct mete_error *err)
{
        return call_id(m, OP_DONE, "release", id, NULL, err);
}

int mete_call_raw(struct mete *m, const char *method, json_t *params, json_t **ret, struct mete_error *err)
{
        struct err why = {0};
        uint64_t ticket = 0;
        int r = handle_enter(m, err);

        if (r < 0) {
                json_decref(params);
                return r;
        }
        r = handle_start(m, OP_RAW, method, params, "", &ticket, &why);
        if (r == 0)
                r = finish(m, ticket, m->patience_ms / 2, NULL, ret, &why);
        return handle_leave(m, r, &why, err);
}

int mete_host(struct mete *m, int watch, struct mete_host *ret, struct mete_error *err)
{
        struct err why = {0};
        struct api_app_host host;
        bool was_watching = false;
        json_t *raw = NULL;
        uint64_t ticket = 0;
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        if (ret == NULL)
                r = err_set(&why, REASON_INVALID, EINVAL, "ret is NULL");
        else
                r = handle_start(m, OP_RAW, "host", json_pack("{s:b}", "watch", watch), "", &ticket, &why);
        if (r == 0) { /* from now on: a change can stand right behind the answer */
                was_watching = m->is_watching;
                m->is_watching = watch != 0;
        }
        if (r == 0)
                r = finish(m, ticket, m->patience_ms / 2, NULL, &raw, &why);
        if (r == 0)
                r = api_app_host_parse(raw, &host, &why);
        if (r == 0) {
                host_from(&host, ret);
                if (m->host_generation < ret->generation)
                        m->host_generation = ret->generation;
        } else if (ticket != 0) {
                m->is_watching = was_watching;
        }
        json_decref(raw);
        return handle_leave(m, r, &why, err);
}

/* ---- the non-blocking face ---- */

int mete_fd(struct mete *m, struct mete_error *err)
{
        struct err why = {0};
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        r = m->fd >= 0 ? m->fd
                       : err_set(&why, REASON_PEER_LOST, ENOTCONN, "%s; mete_reopen()", m->loss.sentence);
        return handle_leave(m, r, &why, err);
}

int mete_events(struct mete *m, struct mete_error *err)
{
        struct err why = {0};
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        if (m->fd < 0)
                r = err_set(&why, REASON_PEER_LOST, ENOTCONN, "%s; mete_reopen()", m->loss.sentence);
        else
                r = POLLIN | (m->out_sent < m->out_n ? POLLOUT : 0);
        return handle_leave(m, r, &why, err);
}

int mete_process(struct mete *m, struct mete_error *err)
{
        struct err why = {0};
        int r = handle_enter(m, err);

        return r < 0 ? r : handle_leave(m, handle_process(m, &why), &why, err);
}

int mete_next_event(struct mete *m, struct mete_event **ret, struct mete_error *err)
{
        struct err why = {0};
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        if (ret == NULL) {
                r = err_set(&why, REASON_INVALID, EINVAL, "ret is NULL");
        } else {
                struct note *n = handle_take(m, 0);
                r = n != NULL;
                if (n != NULL)
                        *ret = &n->event;
        }
        return handle_leave(m, r, &why, err);
}

void mete_event_free(struct mete_event *event)
{
        note_free((struct note *)event);
}

int mete_wait(struct mete *m, int timeout_ms, struct mete_error *err)
{
        struct err why = {0};
        int r = handle_enter(m, err);

        if (r < 0)
                return r;
        int64_t deadline = handle_mono_ms() + timeout_ms;
        while (r >= 0 && m->notes == NULL) {
                int64_t left = timeout_ms < 0 ? -1 : deadline - handle_mono_ms();
                if (timeout_ms >= 0 && left <= 0 && timeout_ms > 0)
                        break;
                r = handle_poll(m, timeout_ms == 0 ? 0 : (int)left, &why);
                if (timeout_ms == 0)
                        break;
        }
        if (m->notes != NULL)
                r = 1; /* METE_EVENT_LOST among them */
        return handle_leave(m, r, &why, err);
}
