/* SPDX-License-Identifier: Apache-2.0 */
/* manager/used.c - ids are written once. What is over is forgotten after a while, but not that its id was
 * used: asked for again it is neither done again nor, as the hosts know the moves of old, said to be done. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "manager/manager.h"

struct used_id {
        char name[64]; /* KIND/ID */
        enum store_document kind;
        struct api_used_id record;
        bool is_dirty;             /* and its order or drain is still in the store */
        bool is_writing, is_going; /* that is being recorded; or that it is gone */
};

struct used {
        GHashTable *by_name; /* borrowed from list */
        GQueue list;         /* struct used_id, the oldest first */
        GQueue gone;         /* those that are to go from the store, too */
};

static const char *kind_name(enum store_document kind)
{
        return kind == STORE_ORDER ? "order" : "drain";
}

static const char *id_of(const struct used_id *u)
{
        return strchr(u->name, '/') + 1;
}

const char *used_words(const struct manager *m, enum store_document kind, const char *id)
{
        char name[64];
        (void)snprintf(name, sizeof(name), "%s/%s", kind_name(kind), id);
        const struct used_id *u = g_hash_table_lookup(m->used->by_name, name);
        return u ? u->record.words : NULL;
}

int used_check(const struct manager *m, enum store_document kind, const char *id, const char *words,
               struct err *err)
{
        const char *then = used_words(m, kind, id);
        if (!then)
                return 0;
        if (strcmp(then, words) != 0)
                return err_set(err, REASON_INVALID, EEXIST, "the id %s was used before, for something else",
                               id);
        return err_set(err, REASON_STALE, ESTALE,
                       "the %s %s was over long ago; what became of it is not remembered", kind_name(kind),
                       id);
}

static void trim(struct used *all)
{
        while (all->list.length > MANAGER_IDS_KEPT) {
                struct used_id *oldest = g_queue_pop_head(&all->list);
                (void)g_hash_table_remove(all->by_name, oldest->name);
                g_queue_push_tail(&all->gone, oldest);
        }
}

static void add(struct used *all, struct used_id *u)
{
        g_queue_push_tail(&all->list, u);
        (void)g_hash_table_insert(all->by_name, u->name, u);
}

void used_add(struct manager *m, enum store_document kind, const char *id, const char *words,
              int64_t ended_ms)
{
        struct used_id *u = g_new0(struct used_id, 1);
        (void)snprintf(u->name, sizeof(u->name), "%s/%s", kind_name(kind), id);
        u->kind = kind;
        u->is_dirty = true;
        u->record.ended_ms = ended_ms;
        (void)STR_COPY(u->record.words, words);
        add(m->used, u);
        trim(m->used);
        manager_changed(m);
}

static int write_one(struct record *r, struct used_id *u, struct err *err)
{
        json_t *v = api_used_id_emit(&u->record);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        if (!text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        record_delete(r, u->kind, id_of(u));
        record_put(r, STORE_USED_ID, u->name, text);
        free(text);
        u->is_dirty = false;
        u->is_writing = true;
        return 0;
}

/* The newest are at the end. */
static GList *first_unwritten(const struct used *all)
{
        GList *first = NULL;
        for (GList *l = all->list.tail; l; l = l->prev) {
                const struct used_id *u = l->data;
                if (!u->is_dirty && !u->is_writing)
                        break;
                first = l;
        }
        return first;
}

int used_write(struct manager *m, struct err *err)
{
        int bad = 0;
        for (GList *l = first_unwritten(m->used); l && !bad && record_has_room(m->record); l = l->next)
                bad = write_one(m->record, l->data, err);
        for (GList *l = m->used->gone.head; l && !bad && record_has_room(m->record); l = l->next) {
                struct used_id *u = l->data;
                if (u->is_dirty)
                        record_delete(m->record, u->kind, id_of(u));
                record_delete(m->record, STORE_USED_ID, u->name);
                u->is_going = true;
        }
        return bad;
}

void used_unwritten(struct manager *m)
{
        GQueue *both[] = {&m->used->list, &m->used->gone};
        for (size_t i = 0; i < ARRAY_N(both); i++)
                for (GList *l = i ? both[i]->head : first_unwritten(m->used); l; l = l->next) {
                        struct used_id *u = l->data;
                        u->is_dirty = u->is_dirty || u->is_writing;
                        u->is_writing = u->is_going = false;
                }
}

void used_written(struct manager *m)
{
        struct used *all = m->used;
        for (GList *l = first_unwritten(all), *next; l; l = next) {
                struct used_id *u = l->data;
                next = l->next;
                u->is_writing = false;
                if (u->is_dirty)
                        manager_changed(m);
        }
        for (GList *l = all->gone.head, *next; l; l = next) {
                struct used_id *u = l->data;
                next = l->next;
                u->is_writing = false;
                if (u->is_going) {
                        g_queue_delete_link(&all->gone, l);
                        g_free(u);
                } else {
                        manager_changed(m);
                }
        }
}

static int load_one(const char *name, const char *text, void *arg, struct err *err)
{
        struct used *all = arg;
        struct used_id *u = g_new0(struct used_id, 1);
        json_t *v = json_read(text, strlen(text), err);
        int bad = v ? api_used_id_parse(v, &u->record, err) : -EPROTO;
        json_decref(v);
        if (!bad && (!strchr(name, '/') || !STR_COPY(u->name, name)))
                bad = err_set(err, REASON_INTERNAL, EBADMSG, "that is no name of an id");
        if (bad) {
                g_free(u);
                return err_note(err, "the used id %s in the store", name);
        }
        u->kind = g_str_has_prefix(name, "order/") ? STORE_ORDER : STORE_DRAIN;
        add(all, u);
        return 0;
}

static gint by_age(gconstpointer a, gconstpointer b, gpointer arg)
{
        const struct used_id *x = a, *y = b;
        (void)arg;
        return x->record.ended_ms < y->record.ended_ms ? -1 : x->record.ended_ms > y->record.ended_ms;
}

int used_start(struct manager *m, struct err *err)
{
        m->used = g_new0(struct used, 1);
        m->used->by_name = g_hash_table_new(g_str_hash, g_str_equal);
        int bad = store_load_documents(m->store, STORE_USED_ID, load_one, m->used, err);
        g_queue_sort(&m->used->list, by_age, NULL);
        return bad;
}

void used_stop(struct manager *m)
{
        if (!m->used)
                return;
        g_hash_table_destroy(m->used->by_name);
        g_queue_clear_full(&m->used->list, g_free);
        g_queue_clear_full(&m->used->gone, g_free);
        g_free(m->used);
        m->used = NULL;
}
