/* SPDX-License-Identifier: Apache-2.0 */
#include "etcd/message.h"

#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- asked ---- */

static void set_text(json_t *o, const char *name, const char *text)
{
        g_autofree char *coded = g_base64_encode((const guchar *)text, strlen(text));
        (void)json_object_set_new(o, name, json_string(coded));
}

static void set_int(json_t *o, const char *name, int64_t value)
{
        (void)json_object_set_new(o, name, json_sprintf("%" PRId64, value));
}

static json_t *of_key(const char *key, const char *end)
{
        json_t *o = json_object();
        set_text(o, "key", key);
        if (end)
                set_text(o, "range_end", end);
        return o;
}

json_t *etcd_range_body(const char *key, const char *end, int64_t limit)
{
        json_t *o = of_key(key, end);
        set_int(o, "limit", limit);
        return o;
}

json_t *etcd_grant_body(int64_t ttl_s)
{
        json_t *o = json_object();
        set_int(o, "TTL", ttl_s);
        return o;
}

json_t *etcd_lease_body(int64_t lease)
{
        json_t *o = json_object();
        set_int(o, "ID", lease);
        return o;
}

json_t *etcd_txn_new(void)
{
        return json_pack("{s:[],s:[],s:[]}", "compare", "success", "failure");
}

static void condition(json_t *txn, const char *key, const char *target, const char *name, int64_t revision)
{
        json_t *o = of_key(key, NULL);
        (void)json_object_set_new(o, "target", json_string(target));
        (void)json_object_set_new(o, "result", json_string("EQUAL"));
        set_int(o, name, revision);
        (void)json_array_append_new(json_object_get(txn, "compare"), o);
}

void etcd_txn_if_created(json_t *txn, const char *key, int64_t revision)
{
        condition(txn, key, "CREATE", "create_revision", revision);
}

void etcd_txn_if_changed(json_t *txn, const char *key, int64_t revision)
{
        condition(txn, key, "MOD", "mod_revision", revision);
}

static void operation(json_t *txn, const char *branch, const char *name, json_t *o)
{
        (void)json_array_append_new(json_object_get(txn, branch), json_pack("{s:o}", name, o));
}

void etcd_txn_put(json_t *txn, const char *key, const char *value, int64_t lease)
{
        json_t *o = of_key(key, NULL);
        set_text(o, "value", value);
        if (lease)
                set_int(o, "lease", lease);
        operation(txn, "success", "request_put", o);
}

void etcd_txn_delete(json_t *txn, const char *key, const char *end)
{
        operation(txn, "success", "request_delete_range", of_key(key, end));
}

void etcd_txn_else_get(json_t *txn, const char *key)
{
        operation(txn, "failure", "request_range", of_key(key, NULL));
}

/* ---- answered ---- */

static int strange(const char *what, struct err *err)
{
        return err_set(err, REASON_INVALID, EPROTO, "etcd answers as etcd would not: %s", what);
}

/* Absent: 0. */
static int int_of(const json_t *o, const char *name, int64_t *ret, struct err *err)
{
        const json_t *v = json_object_get(o, name);
        const char *text = json_string_value(v);
        char *end = NULL;
        if (!v) {
                *ret = 0;
                return 0;
        }
        if (json_is_integer(v)) {
                *ret = json_integer_value(v);
                return 0;
        }
        errno = 0;
        int64_t value = text ? strtoll(text, &end, 10) : 0;
        if (!text || end == text || *end || errno)
                return strange(name, err);
        *ret = value;
        return 0;
}

/* Absent: "". */
static int text_of(const json_t *o, const char *name, char **ret, struct err *err)
{
        const json_t *v = json_object_get(o, name);
        gsize n = 0;
        if (v && !json_is_string(v))
                return strange(name, err);
        guchar *text = g_base64_decode(v ? json_string_value(v) : "", &n);
        char *copy = text ? g_strndup((const char *)text, n) : NULL;
        bool is_text = copy && strlen(copy) == n && g_utf8_validate(copy, (gssize)n, NULL);
        g_free(text);
        if (!is_text) {
                g_free(copy);
                return strange(name, err);
        }
        *ret = copy;
        return 0;
}

static int kv_read(const json_t *v, struct etcd_kv *ret, struct err *err)
{
        int bad = json_is_object(v) ? 0 : strange("kvs", err);
        bad = bad ? bad : text_of(v, "key", &ret->key, err);
        bad = bad ? bad : text_of(v, "value", &ret->value, err);
        bad = bad ? bad : int_of(v, "create_revision", &ret->created, err);
        bad = bad ? bad : int_of(v, "mod_revision", &ret->changed, err);
        return bad ? bad : int_of(v, "lease", &ret->lease, err);
}

int etcd_range_read(const json_t *answer, struct etcd_range *ret, struct err *err)
{
        const json_t *list = json_object_get(answer, "kvs"), *more = json_object_get(answer, "more");
        if (!json_is_object(answer) || (list && !json_is_array(list)) || (more && !json_is_boolean(more)))
                return strange("kvs", err);
        struct etcd_range r = {.n = json_array_size(list), .is_more = json_is_true(more)};
        int bad = 0;
        r.kvs = g_new0(struct etcd_kv, r.n + 1);
        for (size_t i = 0; i < r.n && !bad; i++)
                bad = kv_read(json_array_get(list, i), &r.kvs[i], err);
        if (!bad && r.is_more && r.n == 0)
                bad = strange("more of nothing", err);
        if (bad) {
                etcd_range_done(&r);
                return bad;
        }
        *ret = r;
        return 0;
}

void etcd_range_done(struct etcd_range *r)
{
        for (size_t i = 0; i < r->n; i++) {
                g_free(r->kvs[i].key);
                g_free(r->kvs[i].value);
        }
        g_free(r->kvs);
        *r = (struct etcd_range){0};
}

static int read_else(const json_t *answer, struct etcd_range *else_, size_t n, struct err *err)
{
        const json_t *list = json_object_get(answer, "responses");
        int bad = json_array_size(list) == n ? 0 : strange("responses", err);
        size_t got = 0;
        while (got < n && !bad) {
                const json_t *one = json_object_get(json_array_get(list, got), "response_range");
                bad = etcd_range_read(one, &else_[got], err);
                got += !bad;
        }
        for (size_t i = 0; bad && i < got; i++)
                etcd_range_done(&else_[i]);
        return bad;
}

int etcd_txn_read(const json_t *answer, bool *ret_succeeded, int64_t *ret_revision, struct etcd_range *else_,
                  size_t n, struct err *err)
{
        const json_t *succeeded = json_object_get(answer, "succeeded");
        int64_t revision = 0;
        if (!json_is_object(answer) || (succeeded && !json_is_boolean(succeeded)))
                return strange("succeeded", err);
        int bad = int_of(json_object_get(answer, "header"), "revision", &revision, err);
        if (!bad && revision <= 0)
                bad = strange("revision", err);
        if (!bad && !json_is_true(succeeded))
                bad = read_else(answer, else_, n, err);
        if (bad)
                return bad;
        *ret_revision = revision;
        *ret_succeeded = json_is_true(succeeded);
        return 0;
}

enum { TTL_MAX_S = 1 << 30 };

int etcd_grant_read(const json_t *answer, int64_t *ret_lease, int64_t *ret_ttl_s, struct err *err)
{
        int64_t lease = 0, ttl = 0;
        int bad = int_of(answer, "ID", &lease, err);
        bad = bad ? bad : int_of(answer, "TTL", &ttl, err);
        if (!bad && (lease == 0 || ttl <= 0 || ttl > TTL_MAX_S))
                bad = strange("a lease without an end, or none", err);
        if (bad)
                return bad;
        *ret_lease = lease;
        *ret_ttl_s = ttl;
        return 0;
}

/* One line of a stream: {"result": ...}, or {"error": ...}. */
int etcd_keep_read(const json_t *answer, int64_t *ret_ttl_s, struct err *err)
{
        const json_t *result = json_object_get(answer, "result");
        int64_t ttl = 0;
        int bad = json_is_object(result) ? int_of(result, "TTL", &ttl, err) : strange("no result", err);
        if (!bad && (ttl < 0 || ttl > TTL_MAX_S))
                bad = strange("TTL", err);
        if (!bad)
                *ret_ttl_s = ttl;
        return bad;
}

void etcd_refusal_read(const json_t *answer, char *ret, size_t size)
{
        const json_t *e = json_object_get(answer, "error");
        const char *text = json_string_value(e);
        if (!text)
                text = json_string_value(json_object_get(json_is_object(e) ? e : answer, "message"));
        (void)g_strlcpy(ret, text ? text : "", size);
        for (char *p = ret; *p; p++)
                if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
                        *p = '?';
}
