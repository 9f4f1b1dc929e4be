/* SPDX-License-Identifier: Apache-2.0 */
#include "etcd/etcd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <glib.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "etcd/message.h"
#include "json/read.h"
#include "wire/http-call.h"

struct etcd {
        struct http_calls *calls;
        struct etcd_places places;
        const struct cert_files *files;
        size_t at; /* of places: whom the next call goes to */
        int64_t timeout_ms;
};

struct etcd_call {
        struct etcd *e;
        struct http_call *http;
        size_t at; /* of places: whom it went to */
        char where[TCP_TEXT];
        etcd_done_fn *done;
        void *arg;
};

/* ---- places ---- */

/* "localhost" is whatever somebody's resolver says. */
static bool is_own(const char *host)
{
        struct in_addr v4;
        struct in6_addr v6;
        return (inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET) ||
               (inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6));
}

static int parse_one(const char *text, struct etcd_places *p, struct err *err)
{
        bool is_plain = g_str_has_prefix(text, "http://");
        struct tcp_address a = {0};
        if (p->n == ETCD_PLACES_MAX)
                return err_set(err, REASON_INVALID, E2BIG, "at most %d addresses", ETCD_PLACES_MAX);
        if (!is_plain && !g_str_has_prefix(text, "https://"))
                return err_set(err, REASON_INVALID, EINVAL, "\"%.100s\" is not like https://10.0.0.5:2379",
                               text);
        text += strlen(is_plain ? "http://" : "https://");
        const char *colon = strrchr(text, ':'), *bracket = strrchr(text, ']');
        int bad = tcp_address_parse(text, &a, err);
        if (bad)
                return bad;
        if (!colon || (bracket ? colon < bracket : strchr(text, ':') != colon))
                a.port = ETCD_PORT;
        if (is_plain && !is_own(a.host))
                return err_set(err, REASON_INVALID, EINVAL,
                               "http:// is for addresses such as 127.0.0.1; %.100s takes https://", a.host);
        p->at[p->n].is_plain = is_plain;
        p->at[p->n++].address = a;
        return 0;
}

int etcd_places_parse(const char *text, struct etcd_places *ret, struct err *err)
{
        struct etcd_places p = {0};
        char **parts = g_strsplit(text, ",", -1);
        int bad = 0;
        for (char **one = parts; *one && !bad; one++)
                bad = parse_one(g_strstrip(*one), &p, err);
        g_strfreev(parts);
        if (!bad && p.n == 0)
                bad = err_set(err, REASON_INVALID, EINVAL, "no address");
        if (!bad)
                *ret = p;
        return bad;
}

/* ---- calls ---- */

struct etcd *etcd_new(const struct etcd_places *places, const struct cert_files *files, int64_t timeout_ms,
                      struct err *err)
{
        struct http_calls *calls = http_calls_new(err);
        if (!calls)
                return NULL;
        struct etcd *e = g_new0(struct etcd, 1);
        e->calls = calls;
        e->places = *places;
        e->files = files;
        e->timeout_ms = timeout_ms;
        return e;
}

void etcd_free(struct etcd *e)
{
        if (!e)
                return;
        http_calls_free(e->calls);
        g_free(e);
}

static json_t *read_answer(const struct etcd_call *call, const struct http_answer *answer, struct err *err)
{
        char said[160];
        json_t *v = json_read(answer->body, answer->body_n, err);
        if (answer->status == 200) {
                if (!v)
                        (void)err_note(err, "etcd at %s", call->where);
                return v;
        }
        etcd_refusal_read(v, said, sizeof(said));
        json_decref(v);
        (void)err_set(err, REASON_INTERNAL, EREMOTEIO, "etcd at %s: %s (HTTP %d)", call->where,
                      *said ? said : "it does not say why", answer->status);
        return NULL;
}

/* The same again for all calls whose answer is lost; only who does not answer is passed over. */
static void on_answer(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                      const struct err *err)
{
        struct etcd_call *call = arg;
        struct err bad = {0};
        json_t *v = NULL;
        (void)peer;
        if (err) {
                bad = *err;
                (void)err_note(&bad, "etcd");
        } else {
                v = read_answer(call, answer, &bad);
        }
        /* Calls go side by side: two that fail at one place are not to pass over the next as well. */
        if (!v && bad.code != EMSGSIZE && call->e->at == call->at)
                call->e->at = (call->at + 1) % call->e->places.n;
        call->done(call->arg, v, v ? NULL : &bad);
        json_decref(v);
        g_free(call);
}

struct etcd_call *etcd_call(struct etcd *e, const char *path, json_t *body, etcd_done_fn *done, void *arg,
                            struct err *err)
{
        size_t n = 0;
        char *text = body ? json_write(body, &n) : NULL;
        struct http_target to = {.address = e->places.at[e->at].address,
                                 .is_plain = e->places.at[e->at].is_plain,
                                 .is_named = true,
                                 .files = e->files};
        json_decref(body);
        if (!text) {
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                return NULL;
        }
        struct etcd_call *call = g_new0(struct etcd_call, 1);
        call->e = e;
        call->at = e->at;
        call->done = done;
        call->arg = arg;
        (void)tcp_address_text(&to.address, call->where);
        call->http = http_call(e->calls, &to, "POST", path, text, n, e->timeout_ms, on_answer, call, err);
        free(text);
        if (!call->http) {
                g_free(call);
                return NULL;
        }
        return call;
}

void etcd_call_cancel(struct etcd_call *call)
{
        http_call_cancel(call->http);
        g_free(call);
}
