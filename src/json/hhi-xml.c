/* SPDX-License-Identifier: Apache-2.0 */
/* A document says where things are; hwloc's XML says which CPUs and nodes each object has. So those are made
 * here, as hwloc makes them itself: a CPU belongs to all that it is in; a node to all that it is in, and to
 * what is below the object at which it is. A CPU that is off line has no object, only its bit in
 * complete_cpuset, and what has nothing left is not written; nor is what refers to it. */
#include "json/hhi-internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 10 }; /* numbers in one element of a matrix, as hwloc writes them */

struct writer {
        FILE *f;
        const struct hhi_tree *t;
        size_t words;                      /* of a set */
        uint64_t *cpus, *complete, *nodes; /* a set for each object */
        uint64_t *at;                      /* nodes that are at this very object */
        bool *is_written;
        uint32_t *order, *first, *n; /* children: order[first] to order[first + n - 1] */
};

static uint64_t *set_of(const struct writer *w, uint64_t *sets, uint32_t i)
{
        return sets + i * w->words;
}

static void set_add(const struct writer *w, uint64_t *sets, uint32_t i, uint32_t number)
{
        set_of(w, sets, i)[number / 64] |= UINT64_C(1) << (number % 64);
}

static bool set_has(const uint64_t *set, size_t words, uint32_t number)
{
        return number / 64 < words && (set[number / 64] >> (number % 64) & 1);
}

static uint32_t set_first(const struct writer *w, uint64_t *sets, uint32_t i)
{
        const uint64_t *set = set_of(w, sets, i);
        for (size_t k = 0; k < w->words; k++)
                if (set[k])
                        return (uint32_t)(k * 64) + (uint32_t)__builtin_ctzll(set[k]);
        return UINT32_MAX;
}

static bool set_is_empty(const uint64_t *set, size_t words)
{
        for (size_t k = 0; k < words; k++)
                if (set[k])
                        return false;
        return true;
}

static void set_join(const struct writer *w, uint64_t *to, const uint64_t *from)
{
        for (size_t k = 0; k < w->words; k++)
                to[k] |= from[k];
}

/* Those of the ranges that are in `of`. */
static void set_ranges(const struct writer *w, const json_t *ranges, const uint64_t *of, uint64_t *ret)
{
        const json_t *range;
        size_t i;
        memset(ret, 0, w->words * sizeof(*ret));
        json_array_foreach((json_t *)ranges, i,
                           range) for (json_int_t c = json_integer_value(json_array_get(range, 0));
                                       c <= json_integer_value(json_array_get(range, 1));
                                       c++) if (set_has(of, w->words, (uint32_t)c)) ret[c / 64] |=
                UINT64_C(1) << (c % 64);
}

static void put_set(const struct writer *w, const char *key, const uint64_t *set)
{
        size_t k = w->words * 2;
        bool is_first = true;
        fprintf(w->f, " %s=\"", key);
        while (k-- > 0) {
                uint32_t half = (uint32_t)(set[k / 2] >> (k % 2 * 32));
                if (is_first && half == 0 && k > 0)
                        continue;
                fprintf(w->f, is_first ? "0x%" PRIx32 : ",0x%" PRIx32, half);
                is_first = false;
        }
        (void)fputc('"', w->f);
}

/* Every XML parser takes plain ASCII, hwloc's own does not know more. */
static void put_text(FILE *f, const char *s)
{
        for (; *s; s++)
                switch (*s) {
                case '<':
                        (void)fputs("&lt;", f);
                        break;
                case '>':
                        (void)fputs("&gt;", f);
                        break;
                case '&':
                        (void)fputs("&amp;", f);
                        break;
                case '"':
                        (void)fputs("&quot;", f);
                        break;
                default:
                        (void)fputc(*s >= ' ' && *s <= '~' ? *s : '?', f);
                }
}

static void put_attribute(const struct writer *w, const char *key, const char *value)
{
        fprintf(w->f, " %s=\"", key);
        put_text(w->f, value);
        (void)fputc('"', w->f);
}

static void put_integer(const struct writer *w, const json_t *object, const char *key, const char *attribute)
{
        fprintf(w->f, " %s=\"%" PRId64 "\"", attribute, hhi_integer(object, key, 0));
}

static void put_info(const struct writer *w, const char *name, const char *value)
{
        (void)fputs("<info", w->f);
        put_attribute(w, "name", name);
        put_attribute(w, "value", value);
        (void)fputs("/>\n", w->f);
}

static void put_infos(const struct writer *w, const json_t *infos)
{
        const char *name;
        json_t *value;
        json_object_foreach((json_t *)infos, name, value) put_info(w, name, json_string_value(value));
}

static void put_marks(const struct writer *w, const json_t *o)
{
        static const char *const amounts[][2] = {
                {"capacity", "MeteCapacity"},
                {"free",     "MeteFree"    },
                {"yours",    "MeteYours"   }
        };
        static const char *const lists[][2] = {
                {"vcpus", "MeteVcpu"},
                {"slots", "MeteSlot"}
        };
        const json_t *v, *number;
        size_t i;
        if ((v = json_object_get(o, "mark")))
                put_info(w, "MeteMark", json_string_value(v));
        for (size_t k = 0; k < 3; k++)
                if ((v = json_object_get(o, amounts[k][0])))
                        fprintf(w->f, "<info name=\"%s\" value=\"%" JSON_INTEGER_FORMAT "\"/>\n",
                                amounts[k][1], json_integer_value(v));
        for (size_t k = 0; k < 2; k++) {
                if (json_array_size(v = json_object_get(o, lists[k][0])) == 0)
                        continue;
                fprintf(w->f, "<info name=\"%s\" value=\"", lists[k][1]);
                json_array_foreach((json_t *)v, i, number)
                        fprintf(w->f, i ? ",%" JSON_INTEGER_FORMAT : "%" JSON_INTEGER_FORMAT,
                                json_integer_value(number));
                (void)fputs("\"/>\n", w->f);
        }
}

static void put_cache(const struct writer *w, const struct hhi_node *node)
{
        int level = node->kind->cache_level;
        put_integer(w, node->object, "bytes", "cache_size");
        put_integer(w, node->object, "line", "cache_linesize");
        put_integer(w, node->object, "ways", "cache_associativity");
        fprintf(w->f, " depth=\"%" PRId64 "\" cache_type=\"%d\"",
                level ? level : hhi_integer(node->object, "depth", 1),
                json_is_true(json_object_get(node->object, "data")) ? 1 : node->kind->cache_type);
}

static void put_pci(const struct writer *w, const struct hhi_node *node)
{
        const json_t *o = node->object;
        int64_t speed = (hhi_integer(o, "link_bytes_per_s", 0) + 500) / 1000; /* in millionths of GB/s */
        const char *address = strchr(node->id, ':') + 1;
        fprintf(w->f, " pci_busid=\"%.*s\"", (int)hhi_name_length(address), address);
        fprintf(w->f, " pci_type=\"%04x [%04x:%04x] [%04x:%04x] %02x\"", (unsigned)hhi_integer(o, "class", 0),
                (unsigned)hhi_integer(o, "vendor", 0), (unsigned)hhi_integer(o, "device", 0),
                (unsigned)hhi_integer(o, "subvendor", 0), (unsigned)hhi_integer(o, "subdevice", 0),
                (unsigned)hhi_integer(o, "revision", 0));
        fprintf(w->f, " pci_link_speed=\"%" PRId64 ".%06" PRId64 "\"", speed / 1000000, speed % 1000000);
}

static void put_bridge(const struct writer *w, const struct hhi_node *node)
{
        const json_t *buses = json_object_get(node->object, "buses");
        unsigned address[4];
        bool is_host = hhi_address(strchr(node->id, ':') + 1, address) == 2;
        fprintf(w->f, " bridge_type=\"%d-1\" depth=\"0\" bridge_pci=\"%04x:[%02x-%02x]\"", is_host ? 0 : 1,
                address[0], (unsigned)json_integer_value(json_array_get(buses, 0)),
                (unsigned)json_integer_value(json_array_get(buses, 1)));
        if (!is_host)
                put_pci(w, node);
}

static void put_sets(const struct writer *w, uint32_t i)
{
        put_set(w, "cpuset", set_of(w, w->cpus, i));
        put_set(w, "complete_cpuset", set_of(w, w->complete, i));
        put_set(w, "nodeset", set_of(w, w->nodes, i));
        put_set(w, "complete_nodeset", set_of(w, w->nodes, i));
        if (i == w->t->root) {
                put_set(w, "allowed_cpuset", set_of(w, w->cpus, i));
                put_set(w, "allowed_nodeset", set_of(w, w->nodes, i));
        }
}

static void put_attributes(const struct writer *w, uint32_t i)
{
        const struct hhi_node *node = &w->t->nodes[i];
        const json_t *subtype = json_object_get(node->object, "subtype");
        if (json_object_get(node->object, "os"))
                put_integer(w, node->object, "os", "os_index");
        if (node->kind->class != HHI_IO)
                put_sets(w, i);
        fprintf(w->f, " gp_index=\"%" PRIu32 "\"", i + 1);
        if (subtype)
                put_attribute(w, "subtype", json_string_value(subtype));
        if (node->kind->cache_level || hhi_node_is(node, "memcache"))
                put_cache(w, node);
        else if (hhi_node_is(node, "memory"))
                put_integer(w, node->object, "bytes", "local_memory");
        else if (hhi_node_is(node, "group")) {
                put_integer(w, node->object, "group_kind", "kind");
                put_integer(w, node->object, "group_subkind", "subkind");
        } else if (hhi_node_is(node, "bridge"))
                put_bridge(w, node);
        else if (hhi_node_is(node, "pci"))
                put_pci(w, node);
        else if (node->kind->osdev_type >= 0) {
                const char *name = strchr(node->id, ':') + 1; /* is_suffix() keeps out what XML would mind */
                fprintf(w->f, " name=\"%.*s\" osdev_type=\"%d\"", (int)hhi_name_length(name), name,
                        node->kind->osdev_type);
        }
}

static void put_object(const struct writer *w, uint32_t i)
{
        const struct hhi_node *node = &w->t->nodes[i];
        const json_t *page;
        size_t k;
        if (!w->is_written[i])
                return;
        fprintf(w->f, "<object type=\"%s\"", node->kind->type);
        put_attributes(w, i);
        (void)fputs(">\n", w->f);
        if (hhi_node_is(node, "memory"))
                json_array_foreach(json_object_get(node->object, "pages"), k, page)
                {
                        (void)fputs("<page_type", w->f);
                        put_integer(w, page, "bytes", "size");
                        put_integer(w, page, "count", "count");
                        (void)fputs("/>\n", w->f);
                }
        put_infos(w, json_object_get(node->object, "infos"));
        put_marks(w, node->object);
        for (uint32_t c = 0; c < w->n[i]; c++)
                put_object(w, w->order[w->first[i] + c]);
        (void)fputs("</object>\n", w->f);
}

/* Numbers as hwloc takes them: in pieces, each with its length in bytes. */
struct pieces {
        FILE *f;
        const char *tag;
        char text[CHUNK * 32];
        size_t length;
        int n;
};

static void pieces_end(struct pieces *p)
{
        if (p->n > 0)
                fprintf(p->f, "<%s length=\"%zu\">%s</%s>\n", p->tag, p->length, p->text, p->tag);
        p->n = 0;
        p->length = 0;
}

static void pieces_put(struct pieces *p, const char *prefix, uint64_t number)
{
        int w = snprintf(p->text + p->length, sizeof(p->text) - p->length, "%s%s%" PRIu64 " ", prefix,
                         *prefix ? ":" : "", number);
        p->length += (size_t)w;
        if (++p->n == CHUNK)
                pieces_end(p);
}

/* hwloc finds CPUs and nodes by the kernel's number, all others by the one that we gave them. */
static uint64_t index_of(const struct writer *w, uint32_t i, bool by_os)
{
        return by_os ? w->t->nodes[i].os : (uint64_t)i + 1;
}

static uint32_t written(const struct writer *w, const json_t *id)
{
        uint32_t i = hhi_tree_find(w->t, json_string_value(id));
        return w->is_written[i] ? i : w->t->n;
}

static void put_matrix(const struct writer *w, const json_t *matrix)
{
        const json_t *of = json_object_get(matrix, "of"), *values = json_object_get(matrix, "values"),
                     *name = json_object_get(matrix, "name");
        uint32_t object[HHI_MATRIX_MAX], n_written = 0;
        const char *type = NULL;
        bool is_mixed = false;
        size_t n = json_array_size(of);
        for (size_t i = 0; i < n; i++) {
                object[i] = written(w, json_array_get(of, i));
                if (object[i] == w->t->n)
                        continue;
                n_written++;
                is_mixed |= type && strcmp(type, w->t->nodes[object[i]].kind->type) != 0;
                type = w->t->nodes[object[i]].kind->type;
        }
        if (n_written < 2)
                return;
        bool by_os = !is_mixed && (strcmp(type, "PU") == 0 || strcmp(type, "NUMANode") == 0);
        int64_t kind = hhi_integer(matrix, "kind", 0);
        kind = is_mixed ? kind | 16 : kind == 16 ? 2 : kind & 15;
        fprintf(w->f, is_mixed ? "<distances2hetero" : "<distances2 type=\"%s\"", type);
        fprintf(w->f, " nbobjs=\"%" PRIu32 "\" kind=\"%" PRId64 "\"", n_written, kind);
        if (name)
                put_attribute(w, "name", json_string_value(name));
        fprintf(w->f, is_mixed ? ">\n" : " indexing=\"%s\">\n", by_os ? "os" : "gp");
        struct pieces p = {.f = w->f, .tag = "indexes"};
        for (size_t i = 0; i < n; i++)
                if (object[i] != w->t->n)
                        pieces_put(&p, is_mixed ? w->t->nodes[object[i]].kind->type : "",
                                   index_of(w, object[i], by_os));
        pieces_end(&p);
        p.tag = "u64values";
        for (size_t i = 0; i < n * n; i++)
                if (object[i / n] != w->t->n && object[i % n] != w->t->n)
                        pieces_put(&p, "", (uint64_t)json_integer_value(json_array_get(values, i)));
        pieces_end(&p);
        fprintf(w->f, "</distances2%s>\n", is_mixed ? "hetero" : "");
}

static void put_reference(const struct writer *w, const char *whose, uint32_t i)
{
        fprintf(w->f, " %s_obj_type=\"%s\" %s_obj_gp_index=\"%" PRIu32 "\"", whose, w->t->nodes[i].kind->type,
                whose, i + 1);
}

static void put_memattr(const struct writer *w, const json_t *attribute)
{
        uint64_t cpus[HHI_INDEX_MAX / 64];
        const json_t *value;
        size_t k;
        (void)fputs("<memattr", w->f);
        put_attribute(w, "name", json_string_value(json_object_get(attribute, "name")));
        put_integer(w, attribute, "flags", "flags");
        (void)fputs(">\n", w->f);
        json_array_foreach(json_object_get(attribute, "values"), k, value)
        {
                const json_t *from = json_object_get(value, "from");
                uint32_t of = written(w, json_object_get(value, "of")),
                         by = json_is_string(from) ? written(w, from) : of;
                set_ranges(w, from, set_of(w, w->cpus, w->t->root), cpus);
                if (of == w->t->n || by == w->t->n || (json_is_array(from) && set_is_empty(cpus, w->words)))
                        continue;
                (void)fputs("<memattr_value", w->f);
                put_reference(w, "target", of);
                put_integer(w, value, "value", "value");
                if (json_is_string(from))
                        put_reference(w, "initiator", by);
                else if (from)
                        put_set(w, "initiator_cpuset", cpus);
                (void)fputs("/>\n", w->f);
        }
        (void)fputs("</memattr>\n", w->f);
}

static void put_cpukind(const struct writer *w, const json_t *kind)
{
        uint64_t cpus[HHI_INDEX_MAX / 64];
        set_ranges(w, json_object_get(kind, "cpus"), set_of(w, w->cpus, w->t->root), cpus);
        if (set_is_empty(cpus, w->words))
                return;
        (void)fputs("<cpukind", w->f);
        put_set(w, "cpuset", cpus);
        if (json_object_get(kind, "efficiency"))
                put_integer(w, kind, "efficiency", "forced_efficiency");
        (void)fputs(">\n", w->f);
        put_infos(w, json_object_get(kind, "infos"));
        (void)fputs("</cpukind>\n", w->f);
}

static void make_cpus(struct writer *w)
{
        const struct hhi_tree *t = w->t;
        for (uint32_t i = 0; i < t->n; i++) {
                const struct hhi_node *node = &t->nodes[i];
                if (!hhi_node_is(node, "cpu"))
                        continue;
                for (uint32_t up = i;; up = t->nodes[up].in) {
                        set_add(w, w->complete, up, node->os);
                        if (!node->is_offline) {
                                set_add(w, w->cpus, up, node->os);
                                w->is_written[up] = true;
                        }
                        if (up == t->root)
                                break;
                }
        }
}

/* Memory and devices are written, and whatever they are in; but for what is at a CPU that is off line. */
static void make_rest_written(struct writer *w)
{
        const struct hhi_tree *t = w->t;
        for (uint32_t i = 0; i < t->n; i++) {
                bool is_away = t->nodes[i].kind->class == HHI_NORMAL || t->nodes[i].kind->class == HHI_SHARE;
                for (uint32_t up = i; up != t->root; up = t->nodes[up].in)
                        is_away |= hhi_node_is(&t->nodes[up], "cpu") && t->nodes[up].is_offline;
                for (uint32_t up = i; !is_away && up != t->root; up = t->nodes[up].in)
                        w->is_written[up] = true;
        }
}

/* The object with CPUs at which it is; of such an object: itself. */
static uint32_t place_of(const struct hhi_tree *t, uint32_t i)
{
        while (t->nodes[i].kind->class == HHI_MEMORY)
                i = t->nodes[i].in;
        return i;
}

static void make_nodes(struct writer *w)
{
        const struct hhi_tree *t = w->t;
        for (uint32_t i = 0; i < t->n; i++) {
                if (!hhi_node_is(&t->nodes[i], "memory"))
                        continue;
                set_add(w, w->at, place_of(t, i), t->nodes[i].os);
                for (uint32_t up = i;; up = t->nodes[up].in) {
                        set_add(w, w->nodes, up, t->nodes[i].os);
                        if (up == t->root)
                                break;
                }
        }
        for (uint32_t i = 0; i < t->n; i++)
                for (uint32_t up = i; t->nodes[i].kind->class == HHI_NORMAL && up != t->root;
                     up = t->nodes[up].in)
                        set_join(w, set_of(w, w->nodes, i), set_of(w, w->at, t->nodes[up].in));
}

static void make_near(struct writer *w)
{
        const struct hhi_tree *t = w->t;
        for (uint32_t i = 0; i < t->n; i++) {
                const json_t *near = json_object_get(t->nodes[i].object, "near");
                uint32_t place = place_of(t, i);
                if (t->nodes[i].kind->class != HHI_MEMORY)
                        continue;
                if (near) {
                        set_ranges(w, near, set_of(w, w->cpus, t->root), set_of(w, w->cpus, i));
                        set_ranges(w, near, set_of(w, w->complete, t->root), set_of(w, w->complete, i));
                } else {
                        set_join(w, set_of(w, w->cpus, i), set_of(w, w->cpus, place));
                        set_join(w, set_of(w, w->complete, i), set_of(w, w->complete, place));
                }
        }
}

/* hwloc wants memory first, and what has CPUs in the order of their first; devices by address and name. */
static int by_place(const void *a, const void *b, void *context)
{
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
        const struct writer *w = context;
        const struct hhi_node *n = &w->t->nodes[x], *m = &w->t->nodes[y];
        if (n->in != m->in)
                return n->in < m->in ? -1 : 1;
        if (n->kind->class != m->kind->class) {
                static const int rank[] = {[HHI_MEMORY] = 0, [HHI_NORMAL] = 1, [HHI_IO] = 2, [HHI_SHARE] = 3};
                return rank[n->kind->class] - rank[m->kind->class];
        }
        if (n->kind->class == HHI_NORMAL || n->kind->class == HHI_MEMORY) {
                uint64_t *sets = n->kind->class == HHI_MEMORY ? w->nodes : w->complete;
                uint32_t p = set_first(w, sets, x), q = set_first(w, sets, y);
                if (p != q)
                        return p < q ? -1 : 1;
        }
        const char *s = strchr(n->id, ':'), *t = strchr(m->id, ':');
        int r = s && t ? strcmp(s, t) : 0;
        return r ? r : (x > y) - (x < y);
}

static void make_children(struct writer *w)
{
        uint32_t n = 0;
        for (uint32_t i = 0; i < w->t->n; i++)
                if (i != w->t->root)
                        w->order[n++] = i;
        qsort_r(w->order, n, sizeof(*w->order), by_place, w);
        for (uint32_t k = 0; k < n; k++) {
                uint32_t in = w->t->nodes[w->order[k]].in;
                if (w->n[in]++ == 0)
                        w->first[in] = k;
        }
}

static bool writer_make(struct writer *w, const struct hhi_tree *t, FILE *f)
{
        uint32_t most = 0;
        assert(t->n > 0);
        for (uint32_t i = 0; i < t->n; i++)
                if ((hhi_node_is(&t->nodes[i], "cpu") || hhi_node_is(&t->nodes[i], "memory")) &&
                    t->nodes[i].os > most)
                        most = t->nodes[i].os;
        *w = (struct writer){.f = f, .t = t, .words = most / 64 + 1};
        w->cpus = calloc(t->n * w->words, sizeof(uint64_t));
        w->complete = calloc(t->n * w->words, sizeof(uint64_t));
        w->nodes = calloc(t->n * w->words, sizeof(uint64_t));
        w->at = calloc(t->n * w->words, sizeof(uint64_t));
        w->is_written = calloc(t->n, sizeof(bool));
        w->order = calloc(t->n, sizeof(uint32_t));
        w->first = calloc(t->n, sizeof(uint32_t));
        w->n = calloc(t->n, sizeof(uint32_t));
        if (!w->cpus || !w->complete || !w->nodes || !w->at || !w->is_written || !w->order || !w->first ||
            !w->n)
                return false;
        make_cpus(w);
        make_rest_written(w);
        make_nodes(w);
        make_near(w);
        make_children(w);
        return true;
}

static void writer_done(struct writer *w)
{
        free(w->cpus);
        free(w->complete);
        free(w->nodes);
        free(w->at);
        free(w->is_written);
        free(w->order);
        free(w->first);
        free(w->n);
}

static void put_document(const struct writer *w, const json_t *hhi)
{
        const json_t *v;
        size_t i;
        (void)fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                    "<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n"
                    "<topology version=\"2.0\">\n",
                    w->f);
        put_object(w, w->t->root);
        json_array_foreach(json_object_get(hhi, "distances"), i, v) put_matrix(w, v);
        json_array_foreach(json_object_get(hhi, "memattrs"), i, v) put_memattr(w, v);
        json_array_foreach(json_object_get(hhi, "cpukinds"), i, v) put_cpukind(w, v);
        (void)fputs("</topology>\n", w->f);
}

int hhi_write_xml(const json_t *hhi, FILE *f, struct err *err)
{
        struct hhi_tree t;
        struct writer w;
        int r = hhi_tree_make(hhi, &t, err);
        if (r < 0)
                return r;
        if (!writer_make(&w, &t, f))
                r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        else
                put_document(&w, hhi);
        writer_done(&w);
        hhi_tree_done(&t);
        if (r == 0 && (fflush(f) != 0 || ferror(f)))
                r = err_set(err, REASON_INTERNAL, EIO, "the HHI could not be written as XML");
        return r;
}
