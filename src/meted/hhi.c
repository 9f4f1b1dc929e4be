/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/hhi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "base/str.h"
#include "core/need.h"
#include "core/telling.h"
#include "host/topology.h"
#include "json/hhi.h"
#include "meted/machine.h"

/* A guest and a peer may say any number: behind this nobody counts on. */
#define LATEST (INT64_C(1) << 52)

enum { PART_BYTES = 48 * 1024, PARTS_MAX = 256, ANSWER_MS = 60000, SLOTS = 64 };

_Static_assert((int)HHI_YOURS == (int)TOLD_YOURS && (int)HHI_OFFLINE == (int)TOLD_OFFLINE &&
                       (int)HHI_MARK_N == (int)TOLD_MARK_N,
               "json/hhi.h and core/telling.h have the same marks");

struct listener {
        struct machine *v;
        struct telling telling;
        struct loop_timer pause;
        struct told *now, *known, *sent; /* rows, of m->inventory.n components each */
        char known_digest[HHI_DIGEST_SIZE];
        /* under way */
        uint64_t number; /* of messages to this VM so far: which of them this is */
        char *text, digest[HHI_DIGEST_SIZE];
        size_t length, at;
        uint64_t base; /* 0: all of it */
        int64_t part, parts;
        size_t n_changed;
        bool is_noted; /* in the log, when the guest has it */
};

/* A part that waits for its answer. The listener may be about another message when that comes. */
struct awaited {
        struct machine *v;
        uint64_t number;
        int64_t part;
};

/* Where the L3 cache of that domain is in the document: above a CPU that it serves. The machine where no such
 * CPU has one. */
static const char *cache_of(const struct meted *m, uint32_t domain)
{
        const json_t *objects = json_object_get(m->hhi, "objects");
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *cpu = &m->inventory.components[i];
                const char *at = cpu->kind == COMPONENT_CPU && cpu->domain == domain ? cpu->id : NULL;
                while (at) {
                        const json_t *o = json_object_get(objects, at);
                        if (json_is_string(json_object_get(o, "kind")) &&
                            strcmp(json_string_value(json_object_get(o, "kind")), "l3") == 0)
                                return at;
                        at = json_string_value(json_object_get(o, "in"));
                }
        }
        return "machine";
}

/* What the ledger has and hwloc does not: ways and bandwidth of caches, links and disks that the
 * configuration names. */
static int add(struct meted *m, const struct component *c, struct err *err)
{
        if (component_is_of_class(c->kind))
                return hhi_add(m->hhi, c->id, cache_of(m, c->domain), err);
        if (c->kind == COMPONENT_NET || c->kind == COMPONENT_BLOCK)
                return hhi_add(m->hhi, c->id, "machine", err);
        return 0;
}

static int read_document(struct meted *m, struct err *err)
{
        const char *source = m->config.source, *text = strchr(source, ':');
        enum inventory_source from = strncmp(source, "xml:", 4) == 0          ? INVENTORY_XML
                                     : strncmp(source, "synthetic:", 10) == 0 ? INVENTORY_SYNTHETIC
                                                                              : INVENTORY_LIVE;
        int r = topology_read_hhi(from, text ? text + 1 : NULL, &m->hhi, err);
        for (size_t i = 0; r == 0 && i < m->inventory.n; i++)
                r = add(m, &m->inventory.components[i], err);
        return r;
}

int hhi_init(struct meted *m, struct err *err)
{
        return read_document(m, err);
}

int hhi_rebuild(struct meted *m, struct err *err)
{
        json_t *before = m->hhi;
        m->hhi = NULL;
        if (read_document(m, err)) {
                json_decref(m->hhi);
                m->hhi = before;
                return -EIO;
        }
        json_decref(before);
        for (guint i = 0; i < m->machines->len; i++) {
                const struct machine *v = g_ptr_array_index(m->machines, i);
                if (v->listener)
                        telling_rewritten(&v->listener->telling);
        }
        hhi_changed(m);
        return 0;
}

void hhi_done(struct meted *m)
{
        loop_timer_cancel(&m->hhi_look);
        json_decref(m->hhi);
        m->hhi = NULL;
}

/* ---- what is written ---- */

/* As the guest may see it: what it may not is not compared either, so that nothing is told of it by the time
 * at which it is told. */
static void rows_of(const struct machine *v, struct told *ret)
{
        struct meted *m = v->m;
        hypervisor_told(m->hv, v->definition.name, ret);
        for (size_t i = 0; i < m->inventory.n && !m->config.shows_all; i++) {
                if (ret[i].mark != TOLD_YOURS && ret[i].mark != TOLD_OFFLINE)
                        ret[i] = (struct told){.capacity = -1, .yours = -1};
                ret[i].free = -1;
        }
}

/* Says it of the object of that id in `hhi`, where there is one. */
static void mark(const struct meted *m, json_t *hhi, size_t i, const struct told *row)
{
        const struct component *c = &m->inventory.components[i];
        uint32_t slots[SLOTS];
        struct hhi_state state = {.mark = (enum hhi_mark)row->mark,
                                  .capacity = row->capacity,
                                  .free = row->free,
                                  .yours = row->yours};
        size_t n = 0;
        for (uint32_t k = 0; k < SLOTS; k++)
                if (row->slots & UINT64_C(1) << k)
                        slots[n++] = k;
        if (c->kind == COMPONENT_CPU) {
                state.vcpus = slots;
                state.n_vcpus = n;
        } else if (c->kind == COMPONENT_MEMORY) {
                state.slots = slots;
                state.n_slots = n;
        }
        (void)hhi_mark(hhi, c->id, &state,
                       NULL); /* -ENOENT: the inventory can keep what is gone in its books */
}

static json_t *document_of(const struct listener *l)
{
        struct meted *m = l->v->m;
        json_t *all = json_deep_copy(m->hhi);
        for (size_t i = 0; all && i < m->inventory.n; i++)
                mark(m, all, i, &l->now[i]);
        if (all && !m->config.shows_all)
                json_object_set_new(all, "partial", json_true());
        return all;
}

/* One object as it was, and as it is, through the same function that marks whole documents. */
static json_t *object_of(const struct meted *m, size_t i, const struct told *row)
{
        const char *id = m->inventory.components[i].id;
        if (!json_object_get(json_object_get(m->hhi, "objects"), id))
                return NULL;
        json_t *one = json_pack("{s:{s:{}}}", "objects", id);
        if (one)
                mark(m, one, i, row);
        return one;
}

/* Of what others get and give back all the time the log says nothing; of the guest's own, and of what is gone
 * or back, it does. */
static bool is_noteworthy(const struct told *then, const struct told *now)
{
        return then->yours != now->yours || then->slots != now->slots || then->capacity != now->capacity ||
               (then->mark == TOLD_OFFLINE) != (now->mark == TOLD_OFFLINE);
}

static json_t *patch_of(struct listener *l)
{
        struct meted *m = l->v->m;
        json_t *objects = json_object();
        l->n_changed = 0;
        l->is_noted = false;
        for (size_t i = 0; i < m->inventory.n; i++) {
                if (told_is_equal(&l->known[i], &l->now[i]))
                        continue;
                l->is_noted |= is_noteworthy(&l->known[i], &l->now[i]);
                json_t *old = object_of(m, i, &l->known[i]), *new = object_of(m, i, &l->now[i]);
                json_t *patch = old && new ? hhi_diff(old, new) : NULL;
                const char *id = m->inventory.components[i].id;
                json_t *part = json_object_get(json_object_get(patch, "objects"), id);
                if (part) {
                        json_object_set(objects, id, part);
                        l->n_changed++;
                }
                json_decref(old);
                json_decref(new);
                json_decref(patch);
        }
        return json_pack("{s:o}", "objects", objects);
}

/* Of a patch: of the base's digest and the text. */
static void digest_of(const char *base, const char *text, char ret[HHI_DIGEST_SIZE])
{
        GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
        if (base)
                g_checksum_update(sum, (const guchar *)base, (gssize)strlen(base));
        g_checksum_update(sum, (const guchar *)text, (gssize)strlen(text));
        (void)g_strlcpy(ret, g_checksum_get_string(sum), HHI_DIGEST_SIZE);
        g_checksum_free(sum);
}

/* ---- sending ---- */

static void pursue(struct listener *l);
static void send_part(struct listener *l);

static void put_away(struct listener *l)
{
        free(l->text);
        l->text = NULL;
}

static void try_later(struct listener *l)
{
        put_away(l);
        telling_answered(&l->telling, l->telling.sent, false);
        loop_timer_in(&l->pause, TELLING_PAUSE_MS);
}

static void was_taken(struct listener *l)
{
        struct machine *v = l->v;
        memcpy(l->known, l->sent, v->m->inventory.n * sizeof(*l->known));
        memcpy(l->known_digest, l->digest, sizeof(l->known_digest));
        if (!l->base)
                machine_note(v, v->definition.name, "hhi-told",
                             "generation %llu of host hardware information, all of it, %zu bytes",
                             (unsigned long long)l->telling.sent, l->length);
        else if (l->is_noted)
                machine_note(
                        v, v->definition.name, "hhi-told",
                        "generation %llu of host hardware information, %zu components changed, %zu bytes",
                        (unsigned long long)l->telling.sent, l->n_changed, l->length);
        v->m->counters.hhi_told++;
        v->m->counters.hhi_told_bytes += l->length;
        put_away(l);
        telling_answered(&l->telling, l->telling.sent, true);
        pursue(l);
}

static void on_answer(void *arg, const json_t *result, const struct err *err)
{
        g_autofree struct awaited *about = arg;
        struct listener *l = about->v->listener;
        struct api_guest_hhi_done done = {0};
        struct err why = {0};
        if (!l || !l->text || l->number != about->number || l->part != about->part ||
            (err && err->reason == REASON_CANCELLED))
                return;
        if (!err && api_guest_hhi_done_parse(result, &done, &why) == 0 && done.applied) {
                if (l->part < l->parts)
                        send_part(l);
                else
                        was_taken(l);
                return;
        }
        log_warn("VM %s: its agent does not take generation %llu: %s", l->v->definition.name,
                 (unsigned long long)l->telling.sent,
                 err             ? err->sentence
                 : *why.sentence ? why.sentence
                                 : "it wants all of it");
        try_later(l);
}

static void send_part(struct listener *l)
{
        struct api_guest_hhi *p = g_new0(struct api_guest_hhi, 1);
        struct err err = {0};
        size_t left = l->length - l->at, n = left < PART_BYTES ? left : PART_BYTES;
        *p = (struct api_guest_hhi){.generation = (int64_t)l->telling.sent,
                                    .has_base = l->base > 0,
                                    .base = (int64_t)l->base,
                                    .part = ++l->part,
                                    .parts = l->parts};
        memcpy(p->digest, l->digest, sizeof(p->digest));
        memcpy(p->text, l->text + l->at, n);
        l->at += n;
        struct awaited *about = g_new(struct awaited, 1);
        *about = (struct awaited){.v = l->v, .number = l->number, .part = l->part};
        int bad = rpc_call(l->v->agent, api_guest_methods[API_GUEST_HHI].name, api_guest_hhi_emit(p),
                           ANSWER_MS, on_answer, about, &err);
        g_free(p);
        if (bad) {
                g_free(about);
                try_later(l);
        }
}

static void send(struct listener *l, bool is_full)
{
        struct meted *m = l->v->m;
        json_t *what = is_full ? document_of(l) : patch_of(l);
        /* Plain ASCII: it may be cut anywhere. */
        l->text = what ? json_dumps(what, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENSURE_ASCII) : NULL;
        json_decref(what);
        l->length = l->text ? strlen(l->text) : 0;
        l->parts = (int64_t)((l->length + PART_BYTES - 1) / PART_BYTES);
        if (!l->text || l->parts > PARTS_MAX) {
                log_error("VM %s: host hardware information of %zu bytes cannot be told",
                          l->v->definition.name, l->length);
                try_later(l);
                return;
        }
        l->base = is_full ? 0 : l->telling.known;
        l->at = 0;
        l->part = 0;
        l->number++;
        memcpy(l->sent, l->now, m->inventory.n * sizeof(*l->sent));
        digest_of(is_full ? NULL : l->known_digest, l->text, l->digest);
        send_part(l);
}

static void pursue(struct listener *l)
{
        switch (telling_next(&l->telling, loop_now_ms())) {
        case TELL_NOTHING:
                break;
        case TELL_LATER:
                loop_timer_in(&l->pause, l->telling.not_before_ms - loop_now_ms());
                break;
        case TELL_DELTA:
                send(l, false);
                break;
        case TELL_FULL:
                send(l, true);
                break;
        }
}

static void on_pause_over(void *arg)
{
        pursue(arg);
}

/* ---- changes ---- */

/* Whether the view is another one. */
static bool look(struct listener *l)
{
        struct meted *m = l->v->m;
        if (hypervisor_is_moving(m->hv, l->v->definition.name))
                return false; /* what it has is changed first (2.4); the end of that is a change, too */
        struct told *rows = g_new(struct told, m->inventory.n);
        bool is_changed = l->telling.generation == 0;
        rows_of(l->v, rows);
        for (size_t i = 0; i < m->inventory.n && !is_changed; i++)
                is_changed = !told_is_equal(&rows[i], &l->now[i]);
        if (is_changed) {
                g_free(l->now);
                l->now = g_steal_pointer(&rows);
                telling_changed(&l->telling);
        }
        g_free(rows);
        pursue(l);
        return is_changed;
}

/* For each guest it is decided whether what it knows is still so; that is one line for all of them, or the
 * log would have little else. */
static void on_look(void *arg)
{
        struct meted *m = arg;
        char names[120] = "";
        size_t n_changed = 0, n_same = 0;
        for (guint i = 0; i < m->machines->len; i++) {
                struct machine *v = g_ptr_array_index(m->machines, i);
                if (!v->listener || !v->listener->telling.is_connected)
                        continue;
                if (!look(v->listener)) {
                        n_same++;
                        continue;
                }
                n_changed++;
                size_t at = strlen(names), room = sizeof(names) - at;
                if (strlen(v->definition.name) + sizeof(" ...") < room)
                        (void)snprintf(names + at, room, " %s", v->definition.name);
                else if (room > sizeof(" ...") && !g_str_has_suffix(names, "..."))
                        (void)snprintf(names + at, room, " ...");
        }
        m->counters.hhi_needed += n_changed;
        m->counters.hhi_not_needed += n_same;
        if (n_changed > 0)
                hypervisor_note(m->hv, loop_now_ms(), "hhi", "host", "hhi-changed",
                                "the view of %zu of %zu guests has changed, and they are told:%s", n_changed,
                                n_changed + n_same, names);
        if (n_changed > 0)
                meted_changed(m);
}

void hhi_changed(struct meted *m)
{
        if (!m->hhi_look.fn)
                loop_timer_init(&m->hhi_look, on_look, m);
        if (!loop_timer_is_set(&m->hhi_look))
                loop_timer_in(&m->hhi_look, 0);
}

void hhi_watch(struct machine *v, uint64_t generation)
{
        size_t size = v->m->inventory.n * sizeof(struct told);
        struct listener *l = v->listener;
        if (!l) {
                l = v->listener = g_new0(struct listener, 1);
                l->v = v;
                l->now = g_malloc0(size);
                l->known = g_malloc0(size);
                l->sent = g_malloc0(size);
                loop_timer_init(&l->pause, on_pause_over, l);
        }
        put_away(l);
        telling_follows(&l->telling, v->hhi_before);
        telling_connected(&l->telling, generation);
        (void)look(l);
}

void hhi_unwatch(struct machine *v)
{
        if (!v->listener)
                return;
        loop_timer_cancel(&v->listener->pause);
        put_away(v->listener);
        telling_lost(&v->listener->telling);
}

void hhi_forget(struct machine *v)
{
        struct listener *l = v->listener;
        if (!l)
                return;
        hhi_unwatch(v);
        g_free(l->now);
        g_free(l->known);
        g_free(l->sent);
        g_free(l);
        v->listener = NULL;
}

static bool is_named(const struct component *c, const struct need *need)
{
        int64_t id = need_component(need), node = need_node(need);
        return c->kind == need->kind &&
               (id >= 0 ? (int64_t)c->os_index == id : node >= 0 && (int64_t)c->node == node);
}

bool hhi_is_stale(const struct machine *v, uint64_t generation, const struct need *needs, size_t n,
                  struct err *err)
{
        const struct listener *l = v->listener;
        const struct told *then = NULL;
        if (l && l->telling.is_known_here && generation == l->telling.known)
                then = l->known;
        else if (l && l->text && generation == l->telling.sent)
                then = l->sent;
        if (!then) {
                (void)err_set(
                        err, REASON_STALE, ESTALE,
                        "decided on generation %llu of the host's hardware information, and this VM has %llu",
                        (unsigned long long)generation, (unsigned long long)hhi_known(v));
                return true;
        }
        struct meted *m = v->m;
        g_autofree struct told *now = g_new(struct told, m->inventory.n);
        rows_of(v, now);
        for (size_t k = 0; k < n; k++)
                for (size_t i = 0; i < m->inventory.n; i++)
                        if (is_named(&m->inventory.components[i], &needs[k]) &&
                            !told_is_equal(&then[i], &now[i])) {
                                (void)err_set(err, REASON_STALE, ESTALE,
                                              "%s has changed since generation %llu of the host's hardware "
                                              "information",
                                              m->inventory.components[i].id, (unsigned long long)generation);
                                return true;
                        }
        return false;
}

uint64_t hhi_known(const struct machine *v)
{
        return v->listener && v->listener->telling.is_connected ? v->listener->telling.known : 0;
}

void hhi_follow(struct machine *v, int64_t generation)
{
        if (generation > 0 && generation <= LATEST && (uint64_t)generation > v->hhi_before)
                v->hhi_before = (uint64_t)generation;
}

/* Of the view as it is now it may have been told, whatever it said since. */
int64_t hhi_latest(const struct machine *v)
{
        uint64_t latest = v->listener ? v->listener->telling.generation : 0;
        latest = latest > v->hhi_before ? latest : v->hhi_before;
        return latest < (uint64_t)LATEST ? (int64_t)latest : LATEST;
}
