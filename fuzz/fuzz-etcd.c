/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever etcd answers, read as each of the answers that are waited for. What is refused leaves what was
 * there, with a sentence; what is taken is within its bounds, and what was got reads the same once more. */
#include <glib.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "etcd/message.h"
#include "json/read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool is_so)
{
        if (!is_so)
                abort();
}

static bool is_ascii(const char *text)
{
        for (; *text; text++)
                if (*text < ' ' || *text > '~')
                        return false;
        return true;
}

static void check_refusal(int bad, const struct err *err)
{
        check(bad < 0 && err->reason == REASON_INVALID && err->sentence[0] && is_ascii(err->sentence));
}

/* Zeros are left out, as etcd does. */
static void set_int(json_t *o, const char *name, int64_t value)
{
        if (value != 0)
                check(json_object_set_new(o, name, json_sprintf("%" PRId64, value)) == 0);
}

static json_t *answer_of(const struct etcd_range *r)
{
        json_t *kvs = json_array(), *answer = json_object();
        for (size_t i = 0; i < r->n; i++) {
                const struct etcd_kv *kv = &r->kvs[i];
                g_autofree char *key = g_base64_encode((const guchar *)kv->key, strlen(kv->key));
                g_autofree char *value = g_base64_encode((const guchar *)kv->value, strlen(kv->value));
                json_t *o = json_pack("{s:s,s:s}", "key", key, "value", value);
                set_int(o, "create_revision", kv->created);
                set_int(o, "mod_revision", kv->changed);
                set_int(o, "lease", kv->lease);
                check(json_array_append_new(kvs, o) == 0);
        }
        check(json_object_set_new(answer, "kvs", kvs) == 0);
        if (r->is_more)
                check(json_object_set_new(answer, "more", json_true()) == 0);
        return answer;
}

static void check_same(const struct etcd_range *a, const struct etcd_range *b)
{
        check(a->n == b->n && a->is_more == b->is_more);
        for (size_t i = 0; i < a->n; i++) {
                const struct etcd_kv *x = &a->kvs[i], *y = &b->kvs[i];
                check(strcmp(x->key, y->key) == 0 && strcmp(x->value, y->value) == 0);
                check(x->created == y->created && x->changed == y->changed && x->lease == y->lease);
        }
}

/* Takes what it looked at. */
static void check_range(struct etcd_range *r)
{
        struct etcd_range again = {0};
        check(!r->is_more || r->n > 0);
        for (size_t i = 0; i < r->n; i++)
                check(g_utf8_validate(r->kvs[i].key, -1, NULL) && g_utf8_validate(r->kvs[i].value, -1, NULL));
        json_t *answer = answer_of(r);
        check(etcd_range_read(answer, &again, NULL) == 0);
        check_same(r, &again);
        json_decref(answer);
        etcd_range_done(&again);
        etcd_range_done(r);
}

static void read_range(const json_t *v)
{
        struct etcd_kv mark;
        struct etcd_range r = {.kvs = &mark, .n = 7};
        struct err err = {0};
        int bad = etcd_range_read(v, &r, &err);
        if (bad) {
                check_refusal(bad, &err);
                check(r.kvs == &mark && r.n == 7);
        } else {
                check_range(&r);
        }
}

static void read_txn(const json_t *v, size_t n)
{
        struct etcd_range got[2] = {{0}};
        struct err err = {0};
        bool is_done = true;
        int64_t revision = -7;
        int bad = etcd_txn_read(v, &is_done, &revision, got, n, &err);
        if (bad) {
                check_refusal(bad, &err);
                check(is_done && revision == -7);
        } else {
                check(revision > 0);
        }
        for (size_t i = 0; i < G_N_ELEMENTS(got); i++) {
                check((!bad && !is_done && i < n) || !got[i].kvs);
                check_range(&got[i]);
        }
}

static void read_lease(const json_t *v)
{
        struct err err = {0};
        int64_t lease = -7, ttl_s = -7;
        int bad = etcd_grant_read(v, &lease, &ttl_s, &err);
        if (bad)
                check_refusal(bad, &err);
        check(bad ? lease == -7 && ttl_s == -7 : lease != 0 && ttl_s > 0);
        err = (struct err){0};
        ttl_s = -7;
        bad = etcd_keep_read(v, &ttl_s, &err);
        if (bad)
                check_refusal(bad, &err);
        check(bad ? ttl_s == -7 : ttl_s >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct err err = {0};
        json_t *v = json_read((const char *)data, size, &err);
        if (!v)
                return 0;
        read_range(v);
        for (size_t n = 0; n <= 2; n++)
                read_txn(v, n);
        read_lease(v);
        for (size_t room = 1; room <= 160; room = room * 2 + 7) {
                char *said = malloc(room);
                check(said != NULL);
                etcd_refusal_read(v, said, room);
                check(memchr(said, '\0', room) && is_ascii(said));
                free(said);
        }
        json_decref(v);
        return 0;
}
