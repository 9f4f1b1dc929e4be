/* SPDX-License-Identifier: Apache-2.0 */
/* core/tables.c - what the hypervisor keeps things in: effects, entries, deadlines.
 *
 * Every request that is kept stands in two hash tables (by key, by serial) and in one list by age. */
#include "core/hypervisor-internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- effects ---- */

struct effect *effect_push(struct hypervisor *h, enum effect_kind kind, const struct request *r,
                           int64_t now_ms)
{
        if (h->effects_n == h->effects_size) {
                size_t size = h->effects_size ? h->effects_size * 2 : 64;
                struct effect *grown = calloc(size, sizeof(*grown));
                assert(grown); /* an effect must not be lost: better to stop and restart from the store */
                for (size_t i = 0; i < h->effects_n; i++)
                        grown[i] = h->effects[(h->effects_first + i) % h->effects_size];
                free(h->effects);
                h->effects = grown;
                h->effects_first = 0;
                h->effects_size = size;
        }
        struct effect *e = &h->effects[(h->effects_first + h->effects_n++) % h->effects_size];
        e->kind = kind;
        e->serial = r ? r->serial : 0;
        e->at_ms = now_ms;
        e->reason = 0;
        e->token = 0;
        e->is_check = false;
        e->checked = (struct checked){0};
        e->trace[0] = e->subject[0] = e->event[0] = e->text[0] = '\0';
        return e;
}

bool hypervisor_has_effects(const struct hypervisor *h)
{
        return h->effects_n > 0;
}

bool hypervisor_next_effect(struct hypervisor *h, struct effect *ret)
{
        if (h->effects_n == 0)
                return false;
        *ret = h->effects[h->effects_first];
        h->effects_first = (h->effects_first + 1) % h->effects_size;
        h->effects_n--;
        return true;
}

void hypervisor_note(struct hypervisor *h, int64_t now_ms, const char *trace, const char *subject,
                     const char *event, const char *fmt, ...)
{
        struct effect *e = effect_push(h, EFFECT_EVENT, NULL, now_ms);
        va_list ap;
        (void)snprintf(e->trace, sizeof(e->trace), "%s", trace);
        (void)snprintf(e->subject, sizeof(e->subject), "%s", subject);
        (void)snprintf(e->event, sizeof(e->event), "%s", event);
        va_start(ap, fmt);
        (void)vsnprintf(e->text, sizeof(e->text), fmt, ap);
        va_end(ap);
}

void moved(struct hypervisor *h, const struct request *r, int64_t now_ms, const char *event, const char *text)
{
        char trace[REQUEST_TRACE];
        request_trace(r, trace);
        effect_push(h, EFFECT_PERSIST, r, now_ms);
        hypervisor_note(h, now_ms, trace, r->key, event, "%s", text);
}

/* ---- tables ---- */

static uint64_t hash_text(const char *s)
{
        uint64_t x = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
        for (; *s; s++)
                x = (x ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
        return x ^ (x >> 32);
}

static uint64_t hash_serial(uint64_t x)
{
        x *= UINT64_C(0x9e3779b97f4a7c15);
        return x ^ (x >> 32);
}

struct entry *find_key(const struct hypervisor *h, const char *key)
{
        struct entry *e = h->by_key[hash_text(key) & (h->buckets - 1)];
        while (e && strcmp(e->r.key, key) != 0)
                e = e->key_next;
        return e;
}

struct entry *find_serial(const struct hypervisor *h, uint64_t serial)
{
        struct entry *e = h->by_serial[hash_serial(serial) & (h->buckets - 1)];
        while (e && e->r.serial != serial)
                e = e->serial_next;
        return e;
}

struct vm_entry *find_vm(const struct hypervisor *h, const char *name)
{
        struct vm_entry *v = h->vms;
        while (v && strcmp(v->shape.name, name) != 0)
                v = v->next;
        return v;
}

struct entry *base_of(const struct hypervisor *h, const char *name)
{
        char key[REQUEST_KEY];
        (void)snprintf(key, sizeof(key), "vm:%s", name);
        return find_key(h, key);
}

static void chain(struct hypervisor *h, struct entry *e)
{
        struct entry **k = &h->by_key[hash_text(e->r.key) & (h->buckets - 1)];
        struct entry **s = &h->by_serial[hash_serial(e->r.serial) & (h->buckets - 1)];
        e->key_next = *k;
        *k = e;
        e->serial_next = *s;
        *s = e;
}

bool tables_grow(struct hypervisor *h)
{
        size_t n = h->buckets ? h->buckets * 2 : 1024;
        struct entry **k = calloc(n, sizeof(*k)), **s = calloc(n, sizeof(*s));
        if (!k || !s) {
                free(k);
                free(s);
                return false;
        }
        free(h->by_key);
        free(h->by_serial);
        h->by_key = k;
        h->by_serial = s;
        h->buckets = n;
        for (struct entry *e = h->oldest; e; e = e->newer)
                chain(h, e);
        return true;
}

bool entry_keep(struct hypervisor *h, struct entry *e)
{
        if (h->entries >= h->buckets && !tables_grow(h))
                return false;
        chain(h, e);
        e->older = h->newest;
        if (h->newest)
                h->newest->newer = e;
        else
                h->oldest = e;
        h->newest = e;
        if (e->vm) {
                e->vm_older = e->vm->newest;
                if (e->vm_older)
                        e->vm_older->vm_newer = e;
                e->vm->newest = e;
        }
        h->entries++;
        return true;
}

static void unchain_key(struct hypervisor *h, struct entry *e)
{
        struct entry **p = &h->by_key[hash_text(e->r.key) & (h->buckets - 1)];
        while (*p != e)
                p = &(*p)->key_next;
        *p = e->key_next;
}

void entry_rename(struct hypervisor *h, struct entry *e, const char *key)
{
        unchain_key(h, e);
        (void)snprintf(e->r.key, sizeof(e->r.key), "%s", key);
        struct entry **k = &h->by_key[hash_text(e->r.key) & (h->buckets - 1)];
        e->key_next = *k;
        *k = e;
}

void entry_unchain(struct hypervisor *h, struct entry *e)
{
        struct entry **p;
        unchain_key(h, e);
        p = &h->by_serial[hash_serial(e->r.serial) & (h->buckets - 1)];
        while (*p != e)
                p = &(*p)->serial_next;
        *p = e->serial_next;
        if (e->older)
                e->older->newer = e->newer;
        else
                h->oldest = e->newer;
        if (e->newer)
                e->newer->older = e->older;
        else
                h->newest = e->older;
        if (e->vm_older)
                e->vm_older->vm_newer = e->vm_newer;
        if (e->vm_newer)
                e->vm_newer->vm_older = e->vm_older;
        else if (e->vm)
                e->vm->newest = e->vm_older;
        h->entries--;
}

void entry_free(struct entry *e)
{
        free(e->r.definitions);
        free(e);
}

/* ---- deadlines ---- */

int64_t deadline_of(const struct request *r)
{
        if (r->state == REQUEST_OFFERED)
                return r->offer_end_ms;
        if (r->state == REQUEST_ACTIVATING || r->state == REQUEST_GRANTED)
                return r->end_ms;
        return LEDGER_OPEN;
}

int64_t next_deadline(const struct entry *e)
{
        int64_t at_ms = deadline_of(&e->r);
        if (e->retry_at_ms && e->retry_at_ms < at_ms)
                at_ms = e->retry_at_ms;
        return e->is_waiting && e->wait_end_ms < at_ms ? e->wait_end_ms : at_ms;
}

static void deadline_put(struct hypervisor *h, struct deadline d)
{
        size_t i = h->heap_n++;
        while (i > 0 && h->heap[(i - 1) / 2].at_ms > d.at_ms) {
                h->heap[i] = h->heap[(i - 1) / 2];
                i = (i - 1) / 2;
        }
        h->heap[i] = d;
}

/* The one that is next is not all: when an activation need not wait any more, its lease's end is next. */
static bool is_awaited(const struct deadline *d, const struct entry *e)
{
        return d->at_ms == deadline_of(&e->r) || d->at_ms == e->retry_at_ms ||
               (e->is_waiting && d->at_ms == e->wait_end_ms);
}

/* What was given back early leaves its deadline behind, which may be years away. */
static void deadlines_compact(struct hypervisor *h)
{
        size_t n = h->heap_n;
        h->heap_n = 0;
        for (size_t i = 0; i < n; i++) {
                struct deadline d = h->heap[i];
                const struct entry *e = find_serial(h, d.serial);
                if (e && is_awaited(&d, e))
                        deadline_put(h, d);
        }
}

void deadline_push(struct hypervisor *h, int64_t at_ms, uint64_t serial)
{
        if (at_ms == LEDGER_OPEN)
                return;
        if (h->heap_n == h->heap_size && h->heap_n > 2 * h->live)
                deadlines_compact(h);
        if (h->heap_n == h->heap_size) {
                size_t size = h->heap_size ? h->heap_size * 2 : 64;
                struct deadline *grown = realloc(h->heap, size * sizeof(*grown));
                assert(grown);
                h->heap = grown;
                h->heap_size = size;
        }
        deadline_put(h, (struct deadline){at_ms, serial});
}

void deadline_pop(struct hypervisor *h)
{
        struct deadline last = h->heap[--h->heap_n];
        size_t i = 0;
        for (size_t child = 1; child < h->heap_n; child = 2 * i + 1) {
                if (child + 1 < h->heap_n && h->heap[child + 1].at_ms < h->heap[child].at_ms)
                        child++;
                if (h->heap[child].at_ms >= last.at_ms)
                        break;
                h->heap[i] = h->heap[child];
                i = child;
        }
        if (h->heap_n)
                h->heap[i] = last;
}

int64_t hypervisor_deadline(const struct hypervisor *h)
{
        return h->heap_n ? h->heap[0].at_ms : LEDGER_OPEN;
}
