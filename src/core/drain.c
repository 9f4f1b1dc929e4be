/* SPDX-License-Identifier: Apache-2.0 */
/* Best fit, largest first; and where that fails, back and on from there, for a bounded number of steps. The
 * first way down is plain best fit, so the search costs nothing where that works. */
#include "core/drain.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS_MAX = 20000 };

struct search {
        struct drain_item *items;
        size_t n;
        struct drain_room rooms[DRAIN_ROOMS_MAX];
        size_t n_rooms;
        unsigned steps;
};

static int by_size(const void *a, const void *b)
{
        const struct drain_item *x = a, *y = b;
        if (x->memory_bytes != y->memory_bytes)
                return x->memory_bytes > y->memory_bytes ? -1 : 1;
        if (x->cpu_milli != y->cpu_milli)
                return x->cpu_milli > y->cpu_milli ? -1 : 1;
        return x->vm < y->vm ? -1 : x->vm > y->vm;
}

static int by_time(const void *a, const void *b)
{
        const struct drain_item *x = a, *y = b;
        if (x->predicted_ms != y->predicted_ms)
                return x->predicted_ms < y->predicted_ms ? -1 : 1;
        return x->vm < y->vm ? -1 : x->vm > y->vm;
}

static bool fits(const struct drain_item *i, const struct drain_room *rooms, size_t r)
{
        return (i->may >> r & 1) && i->memory_bytes <= rooms[r].memory_bytes &&
               i->cpu_milli <= rooms[r].cpu_milli;
}

static void put(struct search *s, struct drain_item *i, int room, int sign)
{
        s->rooms[room].memory_bytes -= sign * i->memory_bytes;
        s->rooms[room].cpu_milli -= sign * i->cpu_milli;
        i->room = sign > 0 ? room : -1;
}

/* The tightest room for it that is not among tried; -1: none. */
static int best(const struct search *s, const struct drain_item *i, uint64_t tried)
{
        int found = -1;
        for (size_t r = 0; r < s->n_rooms; r++)
                if (!(tried >> r & 1) && fits(i, s->rooms, r) &&
                    (found < 0 || s->rooms[r].memory_bytes < s->rooms[found].memory_bytes))
                        found = (int)r;
        return found;
}

static bool place_from(struct search *s, size_t at)
{
        if (at == s->n)
                return true;
        uint64_t tried = 0;
        for (int r; s->steps < STEPS_MAX && (r = best(s, &s->items[at], tried)) >= 0;) {
                s->steps++;
                tried |= UINT64_C(1) << r;
                put(s, &s->items[at], r, 1);
                if (place_from(s, at + 1))
                        return true;
                put(s, &s->items[at], r, -1);
        }
        return false;
}

static enum drain_limit limit_of(const struct drain_item *i, const struct drain_room *rooms, size_t n_rooms)
{
        enum drain_limit limit = DRAIN_NOWHERE;
        for (size_t r = 0; r < n_rooms; r++) {
                if (!(i->may >> r & 1))
                        continue;
                if (i->memory_bytes <= rooms[r].memory_bytes && i->cpu_milli > rooms[r].cpu_milli)
                        return DRAIN_CPU;
                limit = DRAIN_MEMORY;
        }
        return limit;
}

bool drain_assign(struct drain_item *items, size_t n, const struct drain_room *rooms, size_t n_rooms)
{
        struct search s = {.items = items, .n = n, .n_rooms = n_rooms};
        assert(n <= DRAIN_VMS_MAX && n_rooms <= DRAIN_ROOMS_MAX);
        memcpy(s.rooms, rooms, n_rooms * sizeof(*rooms));
        if (n > 1)
                qsort(items, n, sizeof(*items), by_size);
        for (size_t i = 0; i < n; i++) {
                items[i].room = -1;
                items[i].limit = DRAIN_FITS;
        }
        if (place_from(&s, 0))
                return true;
        memcpy(s.rooms, rooms, n_rooms * sizeof(*rooms));
        bool is_all = true;
        for (size_t i = 0; i < n; i++) {
                int r = best(&s, &items[i], 0);
                if (r >= 0) {
                        put(&s, &items[i], r, 1);
                } else {
                        items[i].limit = limit_of(&items[i], s.rooms, n_rooms);
                        is_all = false;
                }
        }
        return is_all; /* the search gave up before it came to this */
}

bool drain_schedule(struct drain_item *items, size_t n, int64_t within_ms, int64_t *ret_total_ms)
{
        int64_t total = 0;
        assert(n <= DRAIN_VMS_MAX);
        if (n > 1)
                qsort(items, n, sizeof(*items), by_time);
        for (size_t i = 0; i < n; i++) {
                int64_t ms = items[i].predicted_ms > 0 ? items[i].predicted_ms : 0;
                total = ms < DRAIN_MS_MAX - total ? total + ms : DRAIN_MS_MAX;
                items[i].ends_ms = total;
        }
        *ret_total_ms = total;
        return total <= within_ms;
}
