/* SPDX-License-Identifier: Apache-2.0 */
#include "core/component.h"

#include <string.h>

/* `provided` turns true in the change that brings both the inventory and the provider of a kind. */
const struct component_kind_row component_kinds[COMPONENT_KIND_N] = {
        [0] = {"none",   "",                            false},
        [COMPONENT_CPU] = {"cpu",    "thousandths of a CPU",        true },
        [COMPONENT_MEMORY] = {"memory", "bytes",                       true },
        [COMPONENT_CACHE] = {"cache",  "ways of a last-level cache",  true },
        [COMPONENT_MEMBW] = {"membw",  "percent of memory bandwidth", true },
        [COMPONENT_NET] = {"net",    "bits per second",             true },
        [COMPONENT_BLOCK] = {"block",  "bytes per second",            true },
        [COMPONENT_DEVICE] = {"device", "functions",                   false},
};

enum component_kind component_kind_from_name(const char *name)
{
        for (int k = 1; k < COMPONENT_KIND_N; k++)
                if (strcmp(component_kinds[k].name, name) == 0)
                        return (enum component_kind)k;
        return 0;
}

bool component_has_pages(const struct component *c, int64_t page_bytes)
{
        if (page_bytes == 0)
                return true;
        for (size_t i = 0; i < COMPONENT_PAGES; i++)
                if (c->page_bytes[i] == page_bytes)
                        return true;
        return false;
}

bool component_is_of_class(enum component_kind kind)
{
        return kind == COMPONENT_CACHE || kind == COMPONENT_MEMBW;
}

int64_t component_lost(const struct component *c, int64_t by_machine, int64_t by_operator)
{
        int64_t rest = c->capacity - c->owned, lost = by_operator;
        if (by_machine > rest)
                lost += by_machine - rest;
        return lost < c->capacity ? lost : c->capacity;
}

int64_t component_owned(const struct component *c)
{
        if (!c->healthy && !component_is_of_class(c->kind))
                return 0;
        return c->owned > c->lost ? c->owned - c->lost : 0;
}
