/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/choose.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "core/component.h"

/* Of nodes of which the host gives no distance; more than any that it gives for near ones. */
enum { FAR = 255, OWN = 10 };

static const json_t *objects_of(const json_t *hhi)
{
        return json_object_get(hhi, "objects");
}

static const char *text_of(const json_t *object, const char *name)
{
        const char *text = json_string_value(json_object_get(object, name));
        return text ? text : "";
}

static int64_t number_of(const json_t *object, const char *name)
{
        return json_integer_value(json_object_get(object, name));
}

static bool is_kind(const json_t *object, enum component_kind kind)
{
        return strcmp(text_of(object, "kind"), component_kinds[kind].name) == 0;
}

static int64_t sum(const json_t *hhi, enum component_kind kind, const char *name)
{
        const char *id;
        json_t *object;
        int64_t n = 0;

        json_object_foreach((json_t *)objects_of(hhi), id, object) n +=
                is_kind(object, kind) ? number_of(object, name) : 0;
        return n;
}

int64_t choose_has(const json_t *hhi, enum component_kind kind)
{
        return sum(hhi, kind, "yours");
}

int64_t choose_capacity(const json_t *hhi, enum component_kind kind)
{
        return sum(hhi, kind, "capacity");
}

/* ---- where things are ---- */

enum { DEPTH_MAX = 64 };

/* What has a node's memory in it, with the node's id. Looked at once, as a host has many CPUs. */
static json_t *nodes_of(const json_t *hhi)
{
        json_t *nodes = json_object(), *memory;
        const char *id;

        json_object_foreach((json_t *)objects_of(hhi), id, memory)
        {
                if (is_kind(memory, COMPONENT_MEMORY))
                        (void)json_object_set_new(nodes, text_of(memory, "in"), json_string(id));
        }
        return nodes;
}

/* The node of a CPU: the memory within whatever it is in, too, the innermost; NULL where there is none. */
static const char *node_of(const json_t *hhi, const json_t *nodes, const char *id, const json_t *object)
{
        if (is_kind(object, COMPONENT_MEMORY))
                return id;
        for (int depth = 0; *id && depth < DEPTH_MAX;
             depth++) { /* a document that was checked has no circles */
                const char *node = json_string_value(json_object_get(nodes, id));
                if (node)
                        return node;
                id = text_of(json_object_get(objects_of(hhi), id), "in");
        }
        return NULL;
}

/* By the host's latencies; a node is OWN from itself. */
static int64_t distance(const json_t *hhi, const char *from, const char *to)
{
        const json_t *all = json_object_get(hhi, "distances"), *matrix;
        size_t at;

        if (strcmp(from, to) == 0)
                return OWN;
        json_array_foreach(all, at, matrix)
        {
                const json_t *of = json_object_get(matrix, "of");
                size_t n = json_array_size(of), a = n, b = n;
                for (size_t i = 0; i < n; i++) {
                        const char *id = json_string_value(json_array_get(of, i));
                        a = id && strcmp(id, from) == 0 ? i : a;
                        b = id && strcmp(id, to) == 0 ? i : b;
                }
                if (a < n && b < n && strcmp(text_of(matrix, "name"), "NUMALatency") == 0)
                        return json_integer_value(
                                json_array_get(json_object_get(matrix, "values"), a * n + b));
        }
        return FAR;
}

/* The node where this guest has most memory; without memory, that of its first CPU. NULL: it has nothing. */
static const char *home_of(const json_t *hhi, const json_t *nodes)
{
        const char *id, *home = NULL, *cpu_node = NULL;
        json_t *object;
        int64_t most = 0;

        json_object_foreach((json_t *)objects_of(hhi), id, object)
        {
                int64_t yours = number_of(object, "yours");
                if (is_kind(object, COMPONENT_MEMORY) && yours > most) {
                        most = yours;
                        home = id;
                } else if (is_kind(object, COMPONENT_CPU) && yours > 0 && !cpu_node) {
                        cpu_node = node_of(hhi, nodes, id, object);
                }
        }
        return home ? home : cpu_node;
}

/* ---- choosing ---- */

struct wanted {
        enum component_kind kind;
        int64_t amount, step;
        int64_t least; /* that is of use */
        bool is_part;  /* of a CPU */
};

struct candidate {
        const char *id, *node;
        int64_t os, free, distance;
};

static bool is_better(const struct candidate *a, const struct candidate *b, const struct wanted *w)
{
        bool a_fits = a->free >= w->amount, b_fits = b->free >= w->amount;
        if (!b->id || a_fits != b_fits)
                return !b->id || a_fits;
        if (w->is_part && !a_fits && a->free != b->free)
                return a->free > b->free;
        if (a->distance != b->distance)
                return a->distance < b->distance;
        return a->os < b->os;
}

/* "128M..1G"; "1G" where that is the least. */
static const char *print_range(const struct wanted *w, int64_t amount, char buf[2 * UNITS_TEXT])
{
        char least[UNITS_TEXT], most[UNITS_TEXT];
        units_print_bytes(w->least, least);
        units_print_bytes(amount, most);
        (void)snprintf(buf, (size_t)2 * UNITS_TEXT, "%s%s%s", w->least < amount ? least : "",
                       w->least < amount ? ".." : "", most);
        return buf;
}

static void print(const struct wanted *w, const struct candidate *c, int64_t amount, struct choice *ret)
{
        char text[2 * UNITS_TEXT];
        ret->amount = amount;
        (void)snprintf(ret->where, sizeof(ret->where), "%.48s, %sfree, at distance %" PRId64, c->id,
                       w->is_part ? "in part " : "", c->distance);
        if (w->is_part)
                (void)snprintf(ret->need, sizeof(ret->need), "cpu:1,id=%" PRId64 ",share>=%s", c->os,
                               units_print_milli(amount, text));
        else if (w->kind == COMPONENT_CPU)
                (void)snprintf(ret->need, sizeof(ret->need), "cpu:1,id=%" PRId64, c->os);
        else
                (void)snprintf(ret->need, sizeof(ret->need), "memory:%s,node=%" PRId64,
                               print_range(w, amount, text), c->os);
}

/* Of a document that does not say what is free. */
static bool choose_node(const json_t *hhi, const char *home, const struct wanted *w, struct choice *ret)
{
        char text[2 * UNITS_TEXT];
        if (!home)
                return false;
        int64_t os = number_of(json_object_get(objects_of(hhi), home), "os");
        ret->amount = w->amount;
        (void)snprintf(ret->where, sizeof(ret->where), "%.48s, where this VM is; what is free is not told",
                       home);
        (void)snprintf(ret->need, sizeof(ret->need), "%s:%s,node=%" PRId64, component_kinds[w->kind].name,
                       w->kind == COMPONENT_CPU ? "1" : print_range(w, w->amount, text), os);
        return true;
}

/* Two of ours on one CPU are no gain, but as far as they are parts of it. */
static int64_t free_of(const json_t *object, const struct wanted *w)
{
        int64_t free = number_of(object, "free"), yours = number_of(object, "yours");
        if (w->kind != COMPONENT_CPU || yours == 0)
                return free;
        if (!w->is_part)
                return 0;
        return free < CPU_WHOLE_MILLI - yours ? free : CPU_WHOLE_MILLI - yours;
}

static bool choose_among(const json_t *hhi, const json_t *nodes, const struct wanted *w, struct choice *ret)
{
        const char *id, *home = home_of(hhi, nodes);
        struct candidate best = {0};
        json_t *object;

        if (json_is_true(json_object_get(hhi, "partial")))
                return choose_node(hhi, home, w, ret);
        json_object_foreach((json_t *)objects_of(hhi), id, object)
        {
                if (!is_kind(object, w->kind) || strcmp(text_of(object, "mark"), "offline") == 0)
                        continue;
                struct candidate c = {.id = id, .os = number_of(object, "os"), .free = free_of(object, w)};
                if (c.free < w->step || c.free < w->least)
                        continue;
                c.node = node_of(hhi, nodes, id, object);
                c.distance = home && c.node ? distance(hhi, home, c.node) : FAR;
                if (is_better(&c, &best, w))
                        best = c;
        }
        if (!best.id)
                return false;
        print(w, &best, w->amount < best.free ? w->amount : best.free / w->step * w->step, ret);
        return true;
}

static int64_t round_up(int64_t amount, int64_t step)
{
        return (amount + step - 1) / step * step;
}

static bool choose_part(const json_t *hhi, const json_t *nodes, int64_t amount, struct choice *ret)
{
        struct wanted w = {.kind = COMPONENT_CPU, .step = 10, .least = CHOOSE_PART_MILLI, .is_part = true};
        w.amount = amount > CPU_WHOLE_MILLI ? CPU_WHOLE_MILLI : amount > w.least ? amount : w.least;
        w.amount = round_up(w.amount, w.step);
        return choose_among(hhi, nodes, &w, ret);
}

bool choose(const json_t *hhi, enum component_kind kind, int64_t amount, int64_t step, int64_t least,
            struct choice *ret)
{
        struct wanted w = {.kind = kind,
                           .amount = kind == COMPONENT_CPU ? step : round_up(amount, step),
                           .step = step,
                           .least = least};
        json_t *nodes = nodes_of(hhi);
        bool is_chosen = choose_among(hhi, nodes, &w, ret) ||
                         (kind == COMPONENT_CPU && choose_part(hhi, nodes, amount, ret));
        json_decref(nodes);
        return is_chosen;
}
