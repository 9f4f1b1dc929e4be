/* SPDX-License-Identifier: Apache-2.0 */
/* manager/drains-ask.c - drains, as they are asked for, shown, and found again in the store. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "manager/drains-internal.h"

/* ---- what is asked for ---- */

size_t drains_live(const struct manager *m)
{
        size_t n = 0;
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p))
                n += !emptying_is_over(p);
        return n;
}

bool drains_is_live(const struct manager *m, const char *id)
{
        const struct emptying *e = emptying_find(m, id);
        return e && !emptying_is_over(e);
}

/* What is on its way already the host has reserved, and says so itself. */
void drains_take_room(const struct manager *m, const char *id, const char *host, struct drain_room *room)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                const struct emptying *e = p;
                if (emptying_is_over(e) || (e->d.has_dry_run && e->d.dry_run) || strcmp(e->d.id, id) == 0)
                        continue;
                for (size_t k = 0; k < e->d.n_vms; k++) {
                        const struct api_drain_vm *v = &e->d.vms[k];
                        if ((v->state == API_DRAIN_VM_STATE_PLANNED ||
                             v->state == API_DRAIN_VM_STATE_PLANNING) &&
                            v->has_to && strcmp(v->to, host) == 0) {
                                room->memory_bytes -= v->memory_bytes;
                                room->cpu_milli -= v->cpu_milli;
                        }
                }
        }
}

bool drains_has(const struct manager *m, const char *host)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                const struct emptying *e = p;
                if (!emptying_is_over(e) && !(e->d.has_dry_run && e->d.dry_run) &&
                    strcmp(e->d.host, host) == 0)
                        return true;
        }
        return false;
}

static struct emptying *oldest_over(const struct manager *m, size_t *ret_n)
{
        struct emptying *oldest = NULL;
        GHashTableIter i;
        gpointer p;
        *ret_n = 0;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                struct emptying *e = p;
                if (!emptying_is_over(e) || e->askers || e->is_dirty || e->is_writing)
                        continue;
                ++*ret_n;
                if (!oldest || e->d.ended_ms < oldest->d.ended_ms)
                        oldest = e;
        }
        return oldest;
}

static void trim(struct manager *m)
{
        size_t n;
        for (struct emptying *e; (e = oldest_over(m, &n)) != NULL && n > MANAGER_DRAINS_KEPT;) {
                used_add(m, STORE_DRAIN, e->d.id, e->d.words, e->d.ended_ms);
                g_hash_table_remove(m->drains, e->d.id);
        }
}

static int check(struct manager *m, const char *host, const struct api_drain_ask *in, struct err *err)
{
        const struct fleet_host *h = fleet_find(m, host);
        const struct level l = {.total_ms = in->within_ms,
                                .downtime_ms = in->has_downtime_ms ? in->downtime_ms : 0};
        int bad = level_check(&l, err);
        if (!bad && in->has_floor_downtime_ms && in->floor_downtime_ms > in->within_ms)
                bad = err_set(err, REASON_INVALID, EINVAL,
                              "the floor of the downtime is a part of the time and cannot be longer");
        if (bad)
                return bad;
        if (!h)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no host is called %s (mete host list)", host);
        if (!h->entry->has_address || (h->was_asked && !h->is_reachable))
                return err_set(err, REASON_PEER_LOST, EHOSTUNREACH, "%s: %.200s", host, h->problem.sentence);
        if (drains_has(m, host))
                return err_set(err, REASON_BUSY, EBUSY, "%s is being drained already", host);
        trim(m);
        if (drains_live(m) >= MANAGER_DRAINS_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "%d drains are under way, more are not",
                               MANAGER_DRAINS_MAX);
        return 0;
}

static struct emptying *begin(struct manager *m, const char *host, const struct api_drain_ask *in,
                              const char *id, const char *words)
{
        struct emptying *e = emptying_new(m);
        (void)STR_COPY(e->d.id, id);
        (void)STR_COPY(e->d.host, host);
        e->d.has_words = STR_COPY(e->d.words, words);
        e->d.asked_ms = loop_now_ms();
        e->d.until_ms = e->d.asked_ms + in->within_ms;
        e->d.has_downtime_ms = in->has_downtime_ms;
        e->d.downtime_ms = in->downtime_ms;
        e->d.has_floor_downtime_ms = in->has_floor_downtime_ms || m->config.floor_downtime_ms > 0;
        e->d.floor_downtime_ms =
                in->has_floor_downtime_ms ? in->floor_downtime_ms : m->config.floor_downtime_ms;
        e->d.has_dry_run = in->has_dry_run;
        e->d.dry_run = in->dry_run;
        g_hash_table_insert(m->drains, e->d.id, e);
        emptying_settle(e, API_DRAIN_STATE_PLANNING, 0, "its VMs are asked what moving them takes");
        loop_timer_in(&e->tick, 0);
        return e;
}

void drains_ask(struct manager *m, struct http_request *req, const char *host, const json_t *body)
{
        struct api_drain_ask in = {0};
        struct err err = {0};
        char drawn[33], words[MANAGER_WORDS];
        int bad = api_drain_ask_parse(body, &in, &err);
        do
                (void)snprintf(drawn, sizeof(drawn), "d%08x%08x", g_random_int(), g_random_int());
        while (emptying_find(m, drawn) || used_words(m, STORE_DRAIN, drawn));
        const char *id = in.has_id ? in.id : drawn;
        struct emptying *e = bad ? NULL : emptying_find(m, id);
        in.has_id = false; /* nothing of what is asked for; id has it still */
        api_words(host, bad ? NULL : api_drain_ask_emit(&in), words);
        if (e && strcmp(e->d.words, words) != 0)
                bad = err_set(&err, REASON_INVALID, EEXIST,
                              "the id %s was used before, for %s and with other words", id, e->d.host);
        bad = bad || e ? bad : used_check(m, STORE_DRAIN, id, words, &err);
        bad = bad || e ? bad : check(m, host, &in, &err);
        if (bad) {
                api_refuse(req, &err);
                return;
        }
        e = e ? e : begin(m, host, &in, id, words);
        e->askers = g_list_prepend(e->askers, req);
        manager_changed(m);
}

void drains_cancel(struct manager *m, struct http_request *req, const char *id)
{
        struct emptying *e = emptying_find(m, id);
        struct err err = {0};
        if (!e) {
                (void)err_set(&err, REASON_NOT_FOUND, ENOENT, "no drain is called %s", id);
                api_refuse(req, &err);
                return;
        }
        e->askers = g_list_prepend(e->askers, req);
        manager_changed(m);
        if (e->d.state == API_DRAIN_STATE_PLANNING) {
                emptying_drop_dry(e);
                emptying_settle(e, API_DRAIN_STATE_CANCELLED, REASON_CANCELLED,
                                "it was cancelled; nothing was begun");
        } else if (e->d.state == API_DRAIN_STATE_MOVING) {
                const struct api_drain_vm *v = emptying_vm_in(e, API_DRAIN_VM_STATE_MOVING);
                emptying_settle(e, API_DRAIN_STATE_CANCELLING, REASON_CANCELLED, "it is being cancelled");
                if (v)
                        orders_break(m, v->order);
                loop_timer_in(&e->tick, 0);
        }
}

/* What is not recorded is not so yet. */
static json_t *shown(const struct emptying *e)
{
        if (!e->is_dirty && !e->is_writing)
                return api_drain_emit(&e->d);
        return e->recorded ? json_read(e->recorded, strlen(e->recorded), NULL) : NULL;
}

json_t *drains_show(const struct manager *m, const char *id, struct err *err)
{
        const struct emptying *e = emptying_find(m, id);
        json_t *v = e ? shown(e) : NULL;
        if (!v)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "no drain is called %s", id);
        return v;
}

static int by_name(gconstpointer a, gconstpointer b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

json_t *drains_list(const struct manager *m, const char *query, struct err *err)
{
        struct api_fleet_query q = {0};
        if (api_fleet_query_read(query, &q, err))
                return NULL;
        guint n = 0;
        gpointer *ids = g_hash_table_get_keys_as_array(m->drains, &n);
        if (n > 1)
                qsort(ids, n, sizeof(*ids), by_name);
        json_t *list = json_array(), *page = json_object();
        for (guint i = 0; i < n; i++) { /* there are few */
                json_t *v =
                        !q.has_after || strcmp(ids[i], q.after) > 0 ? shown(emptying_find(m, ids[i])) : NULL;
                if (v)
                        (void)json_array_append_new(list, v);
        }
        g_free(ids);
        (void)json_object_set_new(page, "drains", list);
        return page;
}

/* ---- coming and going ---- */

static int load_one(const char *id, const char *text, void *arg, struct err *err)
{
        struct manager *m = arg;
        struct emptying *e = emptying_new(m);
        json_t *v = json_read(text, strlen(text), err);
        int bad = v ? api_drain_parse(v, &e->d, err) : -EPROTO;
        json_decref(v);
        if (bad) {
                emptying_free(e);
                return err_note(err, "the drain %s in the store", id);
        }
        e->recorded = strdup(text);
        g_hash_table_insert(m->drains, e->d.id, e);
        return 0;
}

int drains_start(struct manager *m, struct err *err)
{
        m->drains = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, emptying_free);
        return store_load_documents(m->store, STORE_DRAIN, load_one, m, err);
}

void drains_adopt(struct manager *m)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                struct emptying *e = p;
                if (!emptying_is_over(e))
                        loop_timer_in(&e->tick, 0);
        }
}

void drains_stop(struct manager *m)
{
        if (m->drains)
                g_hash_table_destroy(m->drains);
        m->drains = NULL;
}
