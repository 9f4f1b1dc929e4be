/* SPDX-License-Identifier: Apache-2.0 */
/* A document is checked by making a tree of it: all objects into one array, sorted by id; each finds its
 * parent there; then every object must reach the machine within HHI_DEPTH_MAX steps, which leaves no room for
 * a cycle. Nothing here recurses deeper than that. */
#include "json/hhi-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "json/read.h"

const char *const hhi_mark_name[HHI_MARK_N] = {
        [0] = "none",          [HHI_YOURS] = "yours",       [HHI_FREE] = "free",
        [HHI_TAKEN] = "taken", [HHI_RESERVED] = "reserved", [HHI_OFFLINE] = "offline"};

static const struct hhi_kind kinds[] = {
        {"machine",     HHI_NORMAL, "Machine",  0, 0, -1},
        {"package",     HHI_NORMAL, "Package",  0, 0, -1},
        {"die",         HHI_NORMAL, "Die",      0, 0, -1},
        {"group",       HHI_NORMAL, "Group",    0, 0, -1},
        {"l5",          HHI_NORMAL, "L5Cache",  5, 0, -1},
        {"l4",          HHI_NORMAL, "L4Cache",  4, 0, -1},
        {"l3",          HHI_NORMAL, "L3Cache",  3, 0, -1},
        {"l2",          HHI_NORMAL, "L2Cache",  2, 0, -1},
        {"l1",          HHI_NORMAL, "L1Cache",  1, 0, -1},
        {"l3i",         HHI_NORMAL, "L3iCache", 3, 2, -1},
        {"l2i",         HHI_NORMAL, "L2iCache", 2, 2, -1},
        {"l1i",         HHI_NORMAL, "L1iCache", 1, 2, -1},
        {"core",        HHI_NORMAL, "Core",     0, 0, -1},
        {"cpu",         HHI_NORMAL, "PU",       0, 0, -1},
        {"memory",      HHI_MEMORY, "NUMANode", 0, 0, -1},
        {"memcache",    HHI_MEMORY, "MemCache", 0, 0, -1},
        {"cache",       HHI_SHARE,  NULL,       0, 0, -1},
        {"membw",       HHI_SHARE,  NULL,       0, 0, -1},
        {"bridge",      HHI_IO,     "Bridge",   0, 0, -1},
        {"pci",         HHI_IO,     "PCIDev",   0, 0, -1},
        {"block",       HHI_IO,     "OSDev",    0, 0, 0 },
        {"gpu",         HHI_IO,     "OSDev",    0, 0, 1 },
        {"net",         HHI_IO,     "OSDev",    0, 0, 2 },
        {"openfabrics", HHI_IO,     "OSDev",    0, 0, 3 },
        {"dma",         HHI_IO,     "OSDev",    0, 0, 4 },
        {"coproc",      HHI_IO,     "OSDev",    0, 0, 5 },
};

/* The integers that an object may have, and their bounds. */
static const struct {
        const char *key;
        int64_t least, most;
} integers[] = {
        {"os",               0,  UINT32_MAX    },
        {"bytes",            0,  HHI_AMOUNT_MAX},
        {"line",             0,  INT32_MAX     },
        {"ways",             -1, INT32_MAX     },
        {"depth",            0,  INT32_MAX     },
        {"group_kind",       0,  UINT32_MAX    },
        {"group_subkind",    0,  UINT32_MAX    },
        {"class",            0,  0xffff        },
        {"vendor",           0,  0xffff        },
        {"device",           0,  0xffff        },
        {"subvendor",        0,  0xffff        },
        {"subdevice",        0,  0xffff        },
        {"revision",         0,  0xff          },
        {"link_bytes_per_s", 0,  HHI_AMOUNT_MAX},
        {"capacity",         0,  HHI_AMOUNT_MAX},
        {"free",             0,  HHI_AMOUNT_MAX},
        {"yours",            0,  HHI_AMOUNT_MAX},
};

static const char *const harmless[] = {"Architecture",    "CPUFamilyNumber", "CPUModel",  "CPUModelNumber",
                                       "CPUStepping",     "CPUVendor",       "CoreType",  "FrequencyBaseMHz",
                                       "FrequencyMaxMHz", "GPUModel",        "GPUVendor", "LinuxCapacity",
                                       "PCIDevice",       "PCIVendor"};

bool hhi_info_is_harmless(const char *name)
{
        for (size_t i = 0; i < ARRAY_N(harmless); i++)
                if (strcmp(harmless[i], name) == 0)
                        return true;
        return false;
}

/* Ids and names come from the other side: only what is plain goes into a sentence. */
static int bad(struct err *err, const char *id, const char *what)
{
        char plain[HHI_ID_SIZE];
        size_t n = 0;
        for (; n < sizeof(plain) - 1 && id[n]; n++)
                plain[n] = '!' <= id[n] && id[n] <= '~' ? id[n] : '?';
        plain[n] = '\0';
        return err_set(err, REASON_INVALID, EINVAL, "HHI: %s: %s", plain, what);
}

static bool is_integer(const json_t *v, int64_t least, int64_t most)
{
        return json_is_integer(v) && json_integer_value(v) >= least && json_integer_value(v) <= most;
}

static bool is_text(const json_t *v)
{
        return json_is_string(v) && json_string_length(v) <= HHI_TEXT_MAX;
}

int64_t hhi_integer(const json_t *object, const char *key, int64_t none)
{
        const json_t *v = json_object_get(object, key);
        return v ? json_integer_value(v) : none;
}

bool hhi_node_is(const struct hhi_node *node, const char *kind)
{
        return strcmp(node->kind->name, kind) == 0;
}

size_t hhi_name_length(const char *suffix)
{
        return strcspn(suffix, "#");
}

int hhi_address(const char *suffix, unsigned ret[4])
{
        char again[24];
        size_t n = hhi_name_length(suffix);
        memset(ret, 0, 4 * sizeof(*ret));
        int parts = sscanf(suffix, "%4x:%2x:%2x.%1x", /* NOLINT(cert-err34-c): compared below */
                           &ret[0], &ret[1], &ret[2], &ret[3]);
        (void)snprintf(again, sizeof(again), "%04x:%02x:%02x.%x", ret[0], ret[1], ret[2], ret[3]);
        if (ret[2] >= 32 || ret[3] >= 8 || strncmp(again, suffix, n) != 0)
                return 0;
        return (parts == 4 && n == strlen(again)) || (parts == 2 && n == strlen("0000:00")) ? parts : 0;
}

/* No member anywhere is null, and nothing is deep: what walks over a document later need not ask again. */
static bool is_plain(const json_t *v, int depth)
{
        const char *key;
        json_t *inner;
        size_t i;
        if (depth == 0 || json_is_null(v))
                return false;
        json_object_foreach((json_t *)v, key, inner) if (!is_plain(inner, depth - 1)) return false;
        json_array_foreach(v, i, inner) if (!is_plain(inner, depth - 1)) return false;
        return true;
}

static bool are_infos(const json_t *v)
{
        const char *name;
        json_t *value;
        if (!json_is_object(v) || json_object_size(v) > HHI_TABLES_MAX)
                return false;
        json_object_foreach((json_t *)v, name,
                            value) if (!is_text(value) || strlen(name) > HHI_TEXT_MAX) return false;
        return true;
}

static bool are_ranges(const json_t *v)
{
        const json_t *range;
        int64_t last = -1;
        size_t i;
        if (!json_is_array(v) || json_array_size(v) > HHI_INDEX_MAX)
                return false;
        json_array_foreach((json_t *)v, i, range)
        {
                const json_t *first = json_array_get(range, 0), *end = json_array_get(range, 1);
                if (json_array_size(range) != 2 || !is_integer(first, last + 1, HHI_INDEX_MAX - 1) ||
                    !is_integer(end, json_integer_value(first), HHI_INDEX_MAX - 1))
                        return false;
                last = json_integer_value(end);
        }
        return true;
}

static bool are_numbers(const json_t *v, size_t n_max)
{
        const json_t *number;
        size_t i;
        if (!json_is_array(v) || json_array_size(v) > n_max)
                return false;
        json_array_foreach((json_t *)v, i,
                           number) if (!is_integer(number, 0, HHI_INDEX_MAX - 1)) return false;
        return true;
}

static bool are_pages(const json_t *v)
{
        const json_t *page;
        size_t i;
        if (!json_is_array(v) || json_array_size(v) > HHI_TABLES_MAX)
                return false;
        json_array_foreach(
                (json_t *)v, i,
                page) if (!is_integer(json_object_get(page, "bytes"), 1, HHI_AMOUNT_MAX) ||
                          !is_integer(json_object_get(page, "count"), 0, HHI_AMOUNT_MAX)) return false;
        return true;
}

static bool are_buses(const json_t *v)
{
        return json_array_size(v) == 2 && is_integer(json_array_get(v, 0), 0, 255) &&
               is_integer(json_array_get(v, 1), 0, 255);
}

static bool is_mark(const json_t *v)
{
        for (int m = 1; json_is_string(v) && m < HHI_MARK_N; m++)
                if (strcmp(hhi_mark_name[m], json_string_value(v)) == 0)
                        return true;
        return false;
}

static int check_members(const char *id, const json_t *o, struct err *err)
{
        const json_t *v;
        for (size_t i = 0; i < ARRAY_N(integers); i++)
                if ((v = json_object_get(o, integers[i].key)) &&
                    !is_integer(v, integers[i].least, integers[i].most))
                        return bad(err, id, integers[i].key);
        if ((v = json_object_get(o, "mark")) && !is_mark(v))
                return bad(err, id, "no such mark");
        if ((v = json_object_get(o, "subtype")) && !is_text(v))
                return bad(err, id, "subtype is no short text");
        if ((v = json_object_get(o, "infos")) && !are_infos(v))
                return bad(err, id, "infos are no short texts by name");
        if ((v = json_object_get(o, "near")) && !are_ranges(v))
                return bad(err, id, "near is no list of ranges of CPUs, ascending");
        if ((v = json_object_get(o, "vcpus")) && !are_numbers(v, HHI_INDEX_MAX))
                return bad(err, id, "vcpus are no numbers");
        if ((v = json_object_get(o, "slots")) && !are_numbers(v, HHI_INDEX_MAX))
                return bad(err, id, "slots are no numbers");
        if ((v = json_object_get(o, "pages")) && !are_pages(v))
                return bad(err, id, "pages have no bytes and count");
        if ((v = json_object_get(o, "buses")) && !are_buses(v))
                return bad(err, id, "buses are not two numbers");
        return 0;
}

/* May stand behind "kind:"? hwloc's XML, a log line and a shell take it as it is. */
static bool is_suffix(const char *s)
{
        if (!*s)
                return false;
        for (; *s; s++)
                if (*s <= ' ' || *s > '~' || strchr("\"'\\/<>&", *s))
                        return false;
        return true;
}

static bool is_numbered(const struct hhi_node *node)
{
        return hhi_node_is(node, "cpu") || hhi_node_is(node, "memory") || node->kind->class == HHI_SHARE;
}

/* The rest of the id, behind the kind. */
static bool id_matches(const struct hhi_node *node, const json_t *os, const char *suffix)
{
        char again[HHI_ID_SIZE];
        unsigned address[4];
        if (is_numbered(node)) {
                (void)snprintf(again, sizeof(again), "%s%" PRIu32, hhi_node_is(node, "memory") ? "node" : "",
                               node->os);
                return is_integer(os, 0, HHI_INDEX_MAX - 1) && strcmp(again, suffix) == 0;
        }
        if (hhi_node_is(node, "pci"))
                return hhi_address(suffix, address) == 4;
        if (hhi_node_is(node, "bridge"))
                return hhi_address(suffix, address) > 0 && json_object_get(node->object, "buses");
        return is_suffix(suffix);
}

static int read_node(const char *id, const json_t *o, struct hhi_node *ret, struct err *err)
{
        const char *name = json_string_value(json_object_get(o, "kind"));
        const json_t *os = json_object_get(o, "os");
        struct hhi_node node = {.id = id, .object = o};
        if (!name || strlen(id) >= HHI_ID_SIZE)
                return bad(err, id, "an object without a kind, or an id that is too long");
        for (size_t i = 0; i < ARRAY_N(kinds); i++)
                if (strcmp(kinds[i].name, name) == 0)
                        node.kind = &kinds[i];
        if (!node.kind)
                return bad(err, id, "no such kind");
        int r = check_members(id, o, err);
        if (r < 0)
                return r;
        node.os = os ? (uint32_t)json_integer_value(os) : 0;
        size_t n = strlen(name);
        if (hhi_node_is(&node, "machine")
                    ? strcmp(id, name) != 0 || json_object_get(o, "in")
                    : strncmp(id, name, n) != 0 || id[n] != ':' || !id_matches(&node, os, id + n + 1))
                return bad(err, id, "the id does not fit the kind and number");
        const char *mark = json_string_value(json_object_get(o, "mark"));
        node.is_offline = mark && strcmp(mark, hhi_mark_name[HHI_OFFLINE]) == 0;
        *ret = node;
        return 0;
}

static int by_id(const void *a, const void *b)
{
        const struct hhi_node *x = a, *y = b;
        return strcmp(x->id, y->id);
}

uint32_t hhi_tree_find(const struct hhi_tree *t, const char *id)
{
        const struct hhi_node key = {.id = id}, *found = bsearch(&key, t->nodes, t->n, sizeof(key), by_id);
        return found ? (uint32_t)(found - t->nodes) : t->n;
}

/* CPUs hold no CPUs, memory holds none of what has CPUs, devices hold devices only. */
static bool may_be_in(const struct hhi_node *node, const struct hhi_node *in)
{
        switch (node->kind->class) {
        case HHI_NORMAL:
                return in->kind->class == HHI_NORMAL && !hhi_node_is(in, "cpu");
        case HHI_MEMORY:
                return in->kind->class == HHI_NORMAL || hhi_node_is(in, "memcache");
        case HHI_IO:
                return in->kind->class == HHI_NORMAL || in->kind->class == HHI_IO;
        case HHI_SHARE:
                return in->kind->class == HHI_NORMAL;
        }
        return false;
}

static int find_parents(struct hhi_tree *t, struct err *err)
{
        t->root = hhi_tree_find(t, "machine");
        if (t->root == t->n)
                return bad(err, "machine", "is missing");
        for (uint32_t i = 0; i < t->n; i++) {
                struct hhi_node *node = &t->nodes[i];
                const char *in = json_string_value(json_object_get(node->object, "in"));
                node->in = i == t->root ? i : in ? hhi_tree_find(t, in) : t->n;
                if (node->in == t->n)
                        return bad(err, node->id, "is in nothing that is there");
                if (i != t->root && !may_be_in(node, &t->nodes[node->in]))
                        return bad(err, node->id, "cannot be in what it is in");
        }
        return 0;
}

/* hwloc makes a level of each kind, so only groups, and devices, are within their own. */
static bool may_nest(const struct hhi_node *node)
{
        return hhi_node_is(node, "group") || node->kind->class == HHI_IO || hhi_node_is(node, "memcache");
}

static int check_shape(const struct hhi_tree *t, struct err *err)
{
        bool has_cpu = false, has_memory = false;
        for (uint32_t i = 0; i < t->n; i++) {
                const struct hhi_node *node = &t->nodes[i];
                int depth = 0;
                for (uint32_t up = i; up != t->root; up = t->nodes[up].in) {
                        if (++depth > HHI_DEPTH_MAX)
                                return bad(err, node->id, "is too deep, or in itself");
                        if (up != i && t->nodes[up].kind == node->kind && !may_nest(node))
                                return bad(err, node->id, "is in another of its kind");
                }
                has_cpu |= hhi_node_is(node, "cpu") && !node->is_offline;
                has_memory |= hhi_node_is(node, "memory");
        }
        if (!has_cpu || !has_memory)
                return bad(err, "machine", "has no CPU on line, or no memory");
        return 0;
}

static bool are_cpus(const struct hhi_tree *t, const json_t *ranges)
{
        const json_t *range;
        char id[HHI_ID_SIZE];
        size_t i;
        if (!are_ranges(ranges))
                return false;
        json_array_foreach((json_t *)ranges, i,
                           range) for (json_int_t c = json_integer_value(json_array_get(range, 0));
                                       c <= json_integer_value(json_array_get(range, 1)); c++)
        {
                (void)snprintf(id, sizeof(id), "cpu:%" JSON_INTEGER_FORMAT, c);
                if (hhi_tree_find(t, id) == t->n)
                        return false;
        }
        return true;
}

static bool is_known(const struct hhi_tree *t, const json_t *id)
{
        return json_is_string(id) && hhi_tree_find(t, json_string_value(id)) != t->n;
}

static int check_distances(const struct hhi_tree *t, const json_t *all, struct err *err)
{
        const json_t *matrix, *v;
        size_t i, k, total = 0;
        json_array_foreach((json_t *)all, i, matrix)
        {
                const json_t *of = json_object_get(matrix, "of"), *values = json_object_get(matrix, "values");
                size_t n = json_array_size(of);
                if ((v = json_object_get(matrix, "name")) && !is_text(v))
                        return bad(err, "distances", "a name is no short text");
                if (!is_integer(json_object_get(matrix, "kind"), 1, 31))
                        return bad(err, "distances", "kind is not 1 to 31");
                if (n < 2 || n > HHI_MATRIX_MAX || json_array_size(values) != n * n ||
                    (total += n * n) > HHI_VALUES_MAX)
                        return bad(err, "distances", "the values are no square of the objects, or too many");
                json_array_foreach((json_t *)of, k, v) if (!is_known(t, v)) return bad(
                        err, "distances", "of an object that is not there");
                json_array_foreach((json_t *)values, k, v) if (!is_integer(v, 0, HHI_AMOUNT_MAX)) return bad(
                        err, "distances", "a value is no number");
        }
        return 0;
}

static int check_memattrs(const struct hhi_tree *t, const json_t *all, struct err *err)
{
        const json_t *attribute, *v;
        size_t i, k, total = 0;
        json_array_foreach((json_t *)all, i, attribute)
        {
                const json_t *flags = json_object_get(attribute, "flags"),
                             *values = json_object_get(attribute, "values"),
                             *name = json_object_get(attribute, "name");
                if (!is_text(name) || json_string_length(name) == 0)
                        return bad(err, "memattrs", "a name is no short text");
                /* Higher is better, or lower is; 4: a value needs somebody who looks from somewhere. */
                if (!is_integer(flags, 1, 6) || (json_integer_value(flags) & 3) == 3 ||
                    json_integer_value(flags) == 4)
                        return bad(err, "memattrs", "flags are not 1, 2, 5 or 6");
                if (!json_is_array(values) || (total += json_array_size(values)) > HHI_VALUES_MAX)
                        return bad(err, "memattrs", "no values, or too many");
                json_array_foreach((json_t *)values, k, v)
                {
                        const json_t *from = json_object_get(v, "from");
                        if (!is_known(t, json_object_get(v, "of")) ||
                            !is_integer(json_object_get(v, "value"), 0, HHI_AMOUNT_MAX))
                                return bad(err, "memattrs",
                                           "a value is no number, or of an object that is not there");
                        if (json_integer_value(flags) & 4 ? !is_known(t, from) && !are_cpus(t, from)
                                                          : from != NULL)
                                return bad(err, "memattrs",
                                           "from is nothing that is there, or not asked for");
                }
        }
        return 0;
}

static int check_cpukinds(const struct hhi_tree *t, const json_t *all, struct err *err)
{
        const json_t *kind, *v;
        size_t i;
        json_array_foreach((json_t *)all, i, kind)
        {
                if (!are_cpus(t, json_object_get(kind, "cpus")))
                        return bad(err, "cpukinds", "cpus are no list of ranges of CPUs that are there");
                if ((v = json_object_get(kind, "efficiency")) && !is_integer(v, 0, INT32_MAX))
                        return bad(err, "cpukinds", "efficiency is no number");
                if ((v = json_object_get(kind, "infos")) && !are_infos(v))
                        return bad(err, "cpukinds", "infos are no short texts by name");
        }
        return 0;
}

static int check_tables(const struct hhi_tree *t, const json_t *hhi, struct err *err)
{
        static const struct {
                const char *key;
                int (*check)(const struct hhi_tree *, const json_t *, struct err *);
        } tables[] = {
                {"distances", check_distances},
                {"memattrs",  check_memattrs },
                {"cpukinds",  check_cpukinds }
        };
        int r = 0;
        for (size_t i = 0; r == 0 && i < ARRAY_N(tables); i++) {
                const json_t *all = json_object_get(hhi, tables[i].key);
                if (all && (!json_is_array(all) || json_array_size(all) > HHI_TABLES_MAX))
                        r = bad(err, tables[i].key, "no list, or too long");
                else if (all)
                        r = tables[i].check(t, all, err);
        }
        return r;
}

int hhi_tree_make(const json_t *hhi, struct hhi_tree *ret, struct err *err)
{
        json_t *objects = json_object_get(hhi, "objects"), *o;
        size_t n = json_object_size(objects);
        struct hhi_tree t = {0};
        const char *id;
        int r = 0;
        if (n == 0 || n > HHI_OBJECTS_MAX)
                return err_set(err, REASON_INVALID, EINVAL, "HHI: %zu objects (1 to %d)", n, HHI_OBJECTS_MAX);
        if (!is_plain(hhi, JSON_DEPTH_MAX))
                return err_set(err, REASON_INVALID, EINVAL, "HHI: a null, or nested deeper than %d",
                               JSON_DEPTH_MAX);
        if (!(t.nodes = calloc(n, sizeof(*t.nodes))))
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        json_object_foreach(objects, id, o) if ((r = read_node(id, o, &t.nodes[t.n++], err)) < 0) goto out;
        qsort(t.nodes, t.n, sizeof(*t.nodes), by_id);
        if ((r = find_parents(&t, err)) == 0 && (r = check_shape(&t, err)) == 0)
                r = check_tables(&t, hhi, err);
out:
        if (r < 0)
                hhi_tree_done(&t);
        else
                *ret = t;
        return r;
}

void hhi_tree_done(struct hhi_tree *t)
{
        free(t->nodes);
        *t = (struct hhi_tree){0};
}

int hhi_check(const json_t *hhi, struct err *err)
{
        struct hhi_tree t;
        int r = hhi_tree_make(hhi, &t, err);
        if (r == 0)
                hhi_tree_done(&t);
        return r;
}

int hhi_add(json_t *hhi, const char *id, const char *in, struct err *err)
{
        static const char *const kinds_added[] = {"cache", "membw", "net", "block"};
        json_t *objects = json_object_get(hhi, "objects"), *o = NULL;
        size_t n = strcspn(id, ":");
        if (json_object_get(objects, id))
                return 0;
        if (!json_object_get(objects, in))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "HHI: there is no %.60s", in);
        for (size_t i = 0; i < ARRAY_N(kinds_added); i++)
                if (id[n] && strlen(kinds_added[i]) == n && strncmp(id, kinds_added[i], n) == 0)
                        o = json_pack(i < 2 ? "{s:s,s:s,s:I}" : "{s:s,s:s}", "kind", kinds_added[i], "in", in,
                                      "os", (json_int_t)strtol(id + n + 1, NULL, 10));
        if (!o)
                return err_set(err, REASON_INVALID, EINVAL, "HHI: %.60s is none of what may be added", id);
        if (json_object_set_new(objects, id, o) < 0)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        int r = hhi_check(hhi, err);
        if (r < 0)
                (void)json_object_del(objects, id);
        return r;
}

static bool put_numbers(json_t *o, const char *key, const uint32_t *numbers, size_t n)
{
        json_t *list = n ? json_array() : NULL;
        for (size_t i = 0; i < n; i++)
                if (json_array_append_new(list, json_integer(numbers[i])) < 0) {
                        json_decref(list);
                        return false;
                }
        return n ? json_object_set_new(o, key, list) == 0 : json_object_del(o, key) == 0 || true;
}

int hhi_mark(json_t *hhi, const char *id, const struct hhi_state *state, struct err *err)
{
        const struct {
                const char *key;
                int64_t amount;
        } amounts[] = {
                {"capacity", state->capacity},
                {"free",     state->free    },
                {"yours",    state->yours   }
        };
        json_t *o = json_object_get(json_object_get(hhi, "objects"), id);
        bool ok = true;
        if (!o)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "HHI: there is no %.60s", id);
        if (state->mark)
                ok = json_object_set_new(o, "mark", json_string(hhi_mark_name[state->mark])) == 0;
        else
                (void)json_object_del(o, "mark");
        for (size_t i = 0; i < ARRAY_N(amounts); i++)
                if (amounts[i].amount >= 0)
                        ok &= json_object_set_new(o, amounts[i].key, json_integer(amounts[i].amount)) == 0;
                else
                        (void)json_object_del(o, amounts[i].key);
        ok &= put_numbers(o, "vcpus", state->vcpus, state->n_vcpus);
        ok &= put_numbers(o, "slots", state->slots, state->n_slots);
        return ok ? 0 : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
}
