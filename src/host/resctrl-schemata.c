/* SPDX-License-Identifier: Apache-2.0 */
#include "host/resctrl-schemata.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"

static bool is_name(const char *text, size_t n, const char *name)
{
        return strlen(name) == n && strncmp(text, name, n) == 0;
}

static enum resctrl_line_kind kind_of(const char *name, size_t n, int level)
{
        static const struct {
                const char *name;
                int level; /* 0: no cache */
                enum resctrl_line_kind kind;
        } rows[] = {
                {"L3",     3, RESCTRL_OTHER_WAYS},
                {"L3CODE", 3, RESCTRL_OTHER_WAYS},
                {"L3DATA", 3, RESCTRL_OTHER_WAYS},
                {"L2",     2, RESCTRL_OTHER_WAYS},
                {"L2CODE", 2, RESCTRL_OTHER_WAYS},
                {"L2DATA", 2, RESCTRL_OTHER_WAYS},
                {"MB",     0, RESCTRL_MEMBW     },
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++)
                if (is_name(name, n, rows[i].name))
                        return rows[i].level && rows[i].level == level ? RESCTRL_WAYS : rows[i].kind;
        return RESCTRL_OTHER;
}

static bool is_mask(enum resctrl_line_kind kind)
{
        return kind == RESCTRL_WAYS || kind == RESCTRL_OTHER_WAYS;
}

static const char *number(const char *at, int base, uint32_t *ret)
{
        char *end;
        while (*at == ' ') /* the kernel aligns its columns */
                at++;
        errno = 0;
        if (*at == '-' || *at == '+')
                return NULL;
        unsigned long value = strtoul(at, &end, base);
        if (end == at || errno != 0 || value > UINT32_MAX)
                return NULL;
        *ret = (uint32_t)value;
        return end;
}

/* Of "0=fff;1=fff". NULL: not so. */
static const char *parse_values(const char *at, struct resctrl_line *line)
{
        for (;;) {
                if (line->n == RESCTRL_IDS)
                        return NULL;
                struct resctrl_value *v = &line->at[line->n++];
                if (!(at = number(at, 10, &v->id)) || v->id >= CPULIST_MAX || *at++ != '=' ||
                    !(at = number(at, is_mask(line->kind) ? 16 : 10, &v->value)))
                        return NULL;
                for (size_t i = 0; i + 1 < line->n; i++)
                        if (line->at[i].id == v->id)
                                return NULL;
                while (*at == ' ')
                        at++;
                if (*at != ';')
                        return at;
                at++;
        }
}

int resctrl_schemata_parse(const char *text, int level, struct resctrl_schemata *ret, struct err *err)
{
        struct resctrl_schemata *s = calloc(1, sizeof(*s));
        if (!s)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        int r = 0;
        for (const char *at = text; r == 0 && *at;) {
                at += strspn(at, " \n");
                size_t n = strcspn(at, "\n"), name = strcspn(at, ":\n");
                enum resctrl_line_kind kind = kind_of(at, name, level);
                if (n == 0)
                        break;
                /* Unknown, or "uninitialized". */
                if (at[name] == ':' && (kind == RESCTRL_OTHER || !memchr(at, '=', n))) {
                        at += n;
                        continue;
                }
                struct resctrl_line *line = s->n < RESCTRL_LINES ? &s->line[s->n++] : NULL;
                const char *end = NULL;
                if (line && at[name] == ':') {
                        line->kind = kind;
                        memcpy(line->name, at, name);
                        end = parse_values(at + name + 1, line);
                }
                if (!end || (*end != '\n' && *end != '\0'))
                        r = err_set(err, REASON_INTERNAL, EPROTO, "\"%.*s\" is no line of a schemata file",
                                    n < 60 ? (int)n : 60, at);
                at += n;
        }
        if (r == 0)
                *ret = *s;
        free(s);
        return r;
}

const char *resctrl_schemata_print(const struct resctrl_schemata *s, char buf[RESCTRL_TEXT])
{
        _Static_assert(RESCTRL_LINES * (RESCTRL_IDS * sizeof("4095=ffffffff") + 20) < RESCTRL_TEXT,
                       "nothing is cut");
        size_t at = 0;
        buf[0] = '\0';
        for (size_t i = 0; i < s->n; i++) {
                const struct resctrl_line *line = &s->line[i];
                at += (size_t)snprintf(buf + at, RESCTRL_TEXT - at, "%s:", line->name);
                for (size_t j = 0; j < line->n; j++) {
                        const struct resctrl_value *v = &line->at[j];
                        const char *between = j ? ";" : "";
                        at += (size_t)(is_mask(line->kind) ? snprintf(buf + at, RESCTRL_TEXT - at, "%s%u=%x",
                                                                      between, v->id, v->value)
                                                           : snprintf(buf + at, RESCTRL_TEXT - at, "%s%u=%u",
                                                                      between, v->id, v->value));
                }
                at += (size_t)snprintf(buf + at, RESCTRL_TEXT - at, "\n");
        }
        return buf;
}

bool resctrl_schemata_is_equal(const struct resctrl_schemata *a, const struct resctrl_schemata *b)
{
        if (a->n != b->n)
                return false;
        for (size_t i = 0; i < a->n; i++) {
                const struct resctrl_line *x = &a->line[i], *y = &b->line[i];
                if (strcmp(x->name, y->name) != 0 || x->n != y->n)
                        return false;
                for (size_t j = 0; j < x->n; j++)
                        if (x->at[j].id != y->at[j].id || x->at[j].value != y->at[j].value)
                                return false;
        }
        return true;
}

uint32_t resctrl_ways_of(const struct resctrl_schemata *s, uint32_t id)
{
        uint32_t mask = 0;
        for (size_t i = 0; i < s->n; i++)
                for (size_t j = 0; s->line[i].kind == RESCTRL_WAYS && j < s->line[i].n; j++)
                        if (s->line[i].at[j].id == id)
                                mask |= s->line[i].at[j].value;
        return mask;
}

bool resctrl_set(struct resctrl_schemata *s, enum resctrl_line_kind kind, uint32_t id, uint32_t value)
{
        bool is_there = false;
        for (size_t i = 0; i < s->n; i++)
                for (size_t j = 0; s->line[i].kind == kind && j < s->line[i].n; j++)
                        if (s->line[i].at[j].id == id) {
                                s->line[i].at[j].value = value;
                                is_there = true;
                        }
        return is_there;
}

const struct resctrl_line *resctrl_line_of(const struct resctrl_schemata *s, enum resctrl_line_kind kind)
{
        for (size_t i = 0; i < s->n; i++)
                if (s->line[i].kind == kind)
                        return &s->line[i];
        return NULL;
}

static uint32_t low_bits(uint32_t n)
{
        return n >= 32 ? UINT32_MAX : (1U << n) - 1;
}

uint32_t resctrl_run(uint32_t mask)
{
        uint32_t best = 0;
        int longest = 0;
        for (uint32_t at = 0; at < 32; at++) {
                int n = 0;
                while (at + (uint32_t)n < 32 && mask >> at >> n & 1)
                        n++;
                if (n > longest) {
                        longest = n;
                        best = low_bits((uint32_t)n) << at;
                }
                at += (uint32_t)n;
        }
        return best;
}

uint32_t resctrl_pick(uint32_t free, uint32_t rest, uint32_t ways, uint32_t least)
{
        uint32_t best = 0;
        int longest = -1;
        for (uint32_t at = 0; ways > 0 && ways <= 32 && at + ways <= 32; at++) {
                uint32_t mask = low_bits(ways) << at;
                int left = __builtin_popcount(resctrl_run(rest & ~mask));
                if ((mask & free) != mask || left < (int)least || left < longest)
                        continue;
                longest = left;
                best = mask;
        }
        return best;
}
