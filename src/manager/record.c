/* SPDX-License-Identifier: Apache-2.0 */
/* manager/record.c - what is gathered, and a file as the store. */
#include "manager/record-internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "manager/carried.h"

static void clear_op(void *arg)
{
        struct op *op = arg;
        g_free(op->name);
        g_free(op->text);
        g_free(op->event);
}

static struct record *record_new(int64_t keep, const struct record_told *told)
{
        struct record *r = g_new0(struct record, 1);
        r->told = *told;
        r->keep = keep;
        r->ops = g_array_new(FALSE, TRUE, sizeof(struct op));
        g_array_set_clear_func(r->ops, clear_op);
        return r;
}

static int open_store(const char *path, int64_t keep, const struct record_told *told, struct record **ret,
                      struct err *err)
{
        struct record *r = record_new(keep, told);
        int bad = store_open(path, NULL, 0, &r->store, err);
        if (bad)
                record_close(r);
        else
                *ret = r;
        return bad;
}

int record_open_file(const char *path, int64_t keep, const struct record_told *told, struct record **ret,
                     struct err *err)
{
        struct record *r = NULL;
        assert(path);
        int bad = open_store(path, keep, told, &r, err);
        bad = bad ? bad : carried_check(r->store, path, err);
        if (bad)
                record_close(r);
        else
                *ret = r;
        return bad;
}

int record_open_etcd(const struct record_etcd *etcd, int64_t keep, const struct record_told *told,
                     struct record **ret, struct err *err)
{
        struct record *r = NULL;
        int bad = open_store(NULL, keep, told, &r, err);
        if (!bad && !(r->cluster = cluster_new(r, etcd, err)))
                bad = -ENOMEM;
        if (bad)
                record_close(r);
        else
                *ret = r;
        return bad;
}

void record_begin(struct record *r)
{
        if (r->cluster)
                cluster_begin(r->cluster);
        else
                r->told.ready(r->told.arg);
}

void record_close(struct record *r)
{
        if (!r)
                return;
        cluster_free(r->cluster);
        g_array_free(r->ops, TRUE);
        store_close(r->store);
        g_free(r);
}

struct store *record_store(const struct record *r)
{
        return r->store;
}

bool record_is_ready(const struct record *r, struct err *err)
{
        return !r->cluster || cluster_is_ready(r->cluster, err);
}

/* ---- gathering ---- */

bool record_has_room(const struct record *r)
{
        return r->ops->len < RECORD_OPS_MAX && r->bytes < RECORD_BYTES_MAX;
}

static void gather(struct record *r, struct op op)
{
        assert(!r->is_busy);
        for (guint i = 0; i < r->ops->len && op.name; i++) { /* the last word on it counts */
                const struct op *o = &g_array_index(r->ops, struct op, i);
                if (o->name && o->kind == op.kind && strcmp(o->name, op.name) == 0) {
                        g_array_remove_index(r->ops, i);
                        break;
                }
        }
        r->bytes += (op.name ? strlen(op.name) : 0) + (op.text ? strlen(op.text) : 0) +
                    (op.event ? sizeof(*op.event) : 0);
        g_array_append_val(r->ops, op);
}

void record_put(struct record *r, enum store_document kind, const char *name, const char *text)
{
        gather(r, (struct op){.kind = kind, .name = g_strdup(name), .text = g_strdup(text)});
}

void record_delete(struct record *r, enum store_document kind, const char *name)
{
        gather(r, (struct op){.kind = kind, .name = g_strdup(name)});
}

void record_say(struct record *r, const struct store_event *e)
{
        struct store_event *said = g_memdup2(e, sizeof(*e));
        said->seq = 0;
        gather(r, (struct op){.event = said});
}

void record_copy(struct record *r, const struct store_event *e)
{
        assert(e->seq > 0);
        gather(r, (struct op){.event = g_memdup2(e, sizeof(*e))});
}

size_t record_events(const struct record *r)
{
        size_t n = 0;
        for (guint i = 0; i < r->ops->len; i++)
                n += g_array_index(r->ops, struct op, i).event != NULL;
        return n;
}

/* ---- committing ---- */

static int apply_op(struct store *s, const struct op *op, struct err *err)
{
        if (op->event && op->event->seq)
                return store_copy_event(s, op->event, err);
        if (op->event)
                return store_add_event(s, op->event, NULL, err);
        return op->text ? store_put_document(s, op->kind, op->name, op->text, err)
                        : store_delete_document(s, op->kind, op->name, err);
}

int record_apply(struct record *r, struct err *err)
{
        int bad = 0;
        for (guint i = 0; i < r->ops->len && !bad; i++)
                bad = apply_op(r->store, &g_array_index(r->ops, struct op, i), err);
        if (!bad && record_events(r) > 0)
                bad = store_trim_events(r->store, r->keep, err);
        bad = bad ? bad : store_commit(r->store, err);
        if (bad)
                store_rollback(r->store);
        return bad;
}

void record_drop(struct record *r)
{
        g_array_set_size(r->ops, 0);
        r->bytes = 0;
}

void record_finish(struct record *r, const struct err *err)
{
        r->is_busy = false;
        record_drop(r);
        r->told.done(r->told.arg, err);
}

void record_commit(struct record *r)
{
        struct err err = {0};
        assert(!r->is_busy);
        r->is_busy = true;
        if (r->cluster) {
                cluster_commit(r->cluster);
                return;
        }
        int bad = record_apply(r, &err);
        record_finish(r, bad ? &err : NULL);
}

void record_carried(struct record *r)
{
        assert(!r->is_busy && r->cluster && r->ops->len == 0);
        r->is_busy = true;
        cluster_carried(r->cluster);
}
