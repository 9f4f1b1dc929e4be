/* SPDX-License-Identifier: Apache-2.0 */
/* hwloc believes a file. So before hwloc sees one we walk over its tags and attributes, look at what sizes
 * memory and depth, and write it anew, never longer than it was. What version 3 of the format has that
 * version 2 has not: infos, PCI localities and memory tiers beside the root object (left out: hwloc 2 stops
 * reading there), and bits instead of a number for the type of an OS device. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/topology.h"

enum { TAG_MAX = 32768, SET_TEXT_MAX = CPULIST_MAX / 32 * 11 };

struct prepare {
        char *out;
        size_t n_out, objects;
        int depth;                        /* of objects within each other */
        bool is_v3, is_opened, is_closed; /* <topology> */
        char beside[24];                  /* an open element beside the root object */
};

struct piece {
        const char *at;
        size_t n;
};

static int bad(struct err *err, const char *what)
{
        return err_set(err, REASON_INVALID, EINVAL, "no topology that can be used: %s", what);
}

static bool is(struct piece p, const char *word)
{
        return p.n == strlen(word) && memcmp(p.at, word, p.n) == 0;
}

static void put(struct prepare *p, const char *s, size_t n)
{
        memcpy(p->out + p->n_out, s, n);
        p->n_out += n;
}

/* 3's bits: 1 storage, 2 memory, 4 GPU, 8 co-processor, 16 network, 32 OpenFabrics, 64 DMA. 2's numbers, the
 * most telling of them where there are several: 0 block, 1 GPU, 2 network, 3 OpenFabrics, 4 DMA, 5
 * co-processor. */
static char osdev_type_2(unsigned long bits)
{
        return bits & 32 ? '3' : bits & 8 ? '5' : bits & 4 ? '1' : bits & 16 ? '2' : bits & 64 ? '4' : '0';
}

/* The next name="value" from *at on, within the tag. false: no more, or none that we can read. */
static bool next_attribute(const char **at, const char *end, struct piece *name, struct piece *value)
{
        const char *s = *at + strspn(*at, " \t\r\n"), *equals = memchr(s, '=', (size_t)(end - s));
        if (!equals || equals + 1 >= end || equals[1] != '"')
                return false;
        const char *close = memchr(equals + 2, '"', (size_t)(end - equals - 2));
        if (!close)
                return false;
        *name = (struct piece){s, (size_t)(equals - s)};
        *value = (struct piece){equals + 2, (size_t)(close - equals - 2)};
        *at = close + 1;
        return true;
}

static int check_attribute(struct piece name, struct piece value, bool is_numbered, struct err *err)
{
        bool is_set = name.n >= 6 && (memcmp(name.at + name.n - 6, "cpuset", 6) == 0 ||
                                      (name.n >= 7 && memcmp(name.at + name.n - 7, "nodeset", 7) == 0));
        /* "0xf...f" is hwloc's infinite set. */
        if (is_set && (value.n > SET_TEXT_MAX || memmem(value.at, value.n, "...", 3)))
                return bad(err, "a set of more CPUs or nodes than there can be");
        if (is(name, "nbobjs") && strtoul(value.at, NULL, 10) > TOPOLOGY_MATRIX_MAX)
                return bad(err, "distances between too many objects");
        if (is_numbered && is(name, "os_index") && strtoul(value.at, NULL, 10) >= CPULIST_MAX)
                return bad(err, "a CPU or node whose number is too high");
        if (is(name, "version") && strtoul(value.at, NULL, 10) > 3)
                return bad(err, "it is of a hwloc later than 3");
        return 0;
}

/* hwloc follows a set of an object that has none. */
static bool has_sets(struct piece type, int n_sets)
{
        return is(type, "Bridge") || is(type, "PCIDev") || is(type, "OSDev") || is(type, "Misc") ||
               n_sets == 4;
}

/* Copies a tag, attribute by attribute. */
static int copy_tag(struct prepare *p, struct piece tag, struct piece what, struct err *err)
{
        const char *at = what.at + what.n, *copied = tag.at, *end = tag.at + tag.n;
        struct piece name, value, type = {"", 0};
        bool is_object = is(what, "object"), is_topology = is(what, "topology"), is_numbered = false;
        int n_sets = 0;
        while (next_attribute(&at, end, &name, &value)) {
                if (is(name, "type"))
                        type = value;
                is_numbered |= is_object && (is(type, "PU") || is(type, "NUMANode"));
                n_sets += is(name, "cpuset") || is(name, "complete_cpuset") || is(name, "nodeset") ||
                          is(name, "complete_nodeset");
                int r = check_attribute(name, value, is_numbered, err);
                if (r < 0)
                        return r;
                bool is_version = is_topology && is(name, "version");
                p->is_v3 |= is_version && value.at[0] == '3';
                if (!p->is_v3 || !(is_version || (is_object && is(name, "osdev_type"))))
                        continue;
                put(p, copied, (size_t)(value.at - copied));
                char number = osdev_type_2(strtoul(value.at, NULL, 10));
                if (is_version)
                        put(p, "2.0", 3);
                else
                        put(p, &number, 1);
                copied = value.at + value.n;
        }
        put(p, copied, (size_t)(end - copied));
        return !is_object || has_sets(type, n_sets)
                       ? 0
                       : bad(err, "an object without its sets of CPUs and nodes");
}

static int open_object(struct prepare *p, bool is_empty, struct err *err)
{
        if (p->depth == 0 && p->objects > 0)
                return bad(err, "two machines");
        if (++p->objects > TOPOLOGY_OBJECTS_MAX)
                return bad(err, "too many objects");
        if (p->depth + 1 > TOPOLOGY_DEPTH_MAX)
                return bad(err, "objects too deep within each other");
        p->depth += !is_empty;
        return 0;
}

/* Is it one that hwloc 2 does not know there, or knows and does not need? Those are all empty. */
static bool is_left_out(const struct prepare *p, struct piece what)
{
        if (!p->is_opened || p->depth > 0)
                return false;
        if (p->beside[0])
                return is(what, "info") && strncmp(p->beside, "distances", 9) == 0;
        return !is(what, "object") && !is(what, "distances2") && !is(what, "distances2hetero") &&
               !is(what, "memattr") && !is(what, "cpukind");
}

static int open_tag(struct prepare *p, struct piece tag, struct piece what, struct err *err)
{
        bool is_empty = tag.at[tag.n - 2] == '/';
        int r = 0;
        if (!is(what, "topology") && !is(what, "root") && !p->is_opened)
                return bad(err, "it is not of hwloc");
        if (is_left_out(p, what))
                return is_empty ? 0 : bad(err, "an element that we do not know");
        if (is(what, "object"))
                r = open_object(p, is_empty, err);
        else if (!p->is_opened)
                p->is_opened = !is_empty;
        else if (p->depth == 0 && !p->beside[0] && !is_empty)
                (void)snprintf(p->beside, sizeof(p->beside), "%.*s", (int)what.n, what.at);
        return r < 0 ? r : copy_tag(p, tag, what, err);
}

static int close_tag(struct prepare *p, struct piece tag, struct piece what, struct err *err)
{
        if (is(what, "object") && p->depth-- == 0)
                return bad(err, "an object ends that never began");
        if (is(what, "topology") || is(what, "root"))
                p->is_closed = p->is_opened && p->depth == 0;
        if (is(what, p->beside))
                p->beside[0] = '\0';
        put(p, tag.at, tag.n);
        return 0;
}

static int one_tag(struct prepare *p, struct piece tag, struct err *err)
{
        const char *name = tag.at + 1 + (tag.at[1] == '/');
        struct piece what = {name, strcspn(name, " \t\r\n/>")};
        if (tag.n > TAG_MAX || tag.n < 3 || what.n >= sizeof(p->beside))
                return bad(err, "an element that we do not know");
        if (tag.at[1] == '/')
                return close_tag(p, tag, what, err);
        if (tag.at[1] != '?' && tag.at[1] != '!')
                return open_tag(p, tag, what, err);
        if (p->is_opened || (tag.at[1] == '!' && (!is(what, "!DOCTYPE") || memchr(tag.at, '[', tag.n))))
                return bad(err, "an element that we do not know");
        put(p, tag.at, tag.n);
        return 0;
}

/* The '>' that ends a tag, not one within quotes. */
static const char *tag_end(const char *s)
{
        for (; *s && *s != '>'; s++)
                if (*s == '"' && !(s = strchr(s + 1, '"')))
                        return NULL;
        return *s ? s : NULL;
}

char *topology_xml_prepare(const char *text, struct err *err)
{
        struct prepare p = {.out = malloc(strlen(text) + 1)};
        int r = 0;
        if (!p.out) {
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                return NULL;
        }
        while (r == 0 && *text && !p.is_closed) {
                size_t n = strcspn(text, "<");
                put(&p, text, n);
                text += n;
                const char *end = *text ? tag_end(text) : text;
                if (!end)
                        r = bad(err, "it ends in the middle");
                else if (*text)
                        r = one_tag(&p, (struct piece){text, (size_t)(end + 1 - text)}, err);
                if (r == 0 && *text)
                        text = end + 1;
        }
        if (r == 0 && !p.is_closed)
                r = bad(err, p.is_opened ? "it ends in the middle" : "it is not of hwloc");
        if (r < 0) {
                free(p.out);
                return NULL;
        }
        p.out[p.n_out] = '\0';
        return p.out;
}
