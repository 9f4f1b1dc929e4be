/* SPDX-License-Identifier: Apache-2.0 */
#include "host/cpulist.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Up to four digits, so that no value can overflow. false: no number there. */
static bool read_number(const char **at, uint32_t *ret)
{
        size_t n = strspn(*at, "0123456789");
        if (n == 0 || n > 4)
                return false;
        uint32_t value = 0;
        for (size_t i = 0; i < n; i++)
                value = value * 10 + (uint32_t)((*at)[i] - '0');
        *at += n;
        *ret = value;
        return value < CPULIST_MAX;
}

int cpulist_parse(const char *text, struct cpulist *ret, struct err *err)
{
        struct cpulist l = {0};
        const char *at = text;
        while (*at && *at != '\n') {
                uint32_t first, last;
                if (!read_number(&at, &first))
                        goto bad;
                last = first;
                if (*at == '-') {
                        at++;
                        if (!read_number(&at, &last) || last < first)
                                goto bad;
                }
                for (uint32_t i = first; i <= last; i++)
                        (void)cpulist_add(&l, i);
                if (*at == ',') {
                        at++;
                        if (*at < '0' || *at > '9')
                                goto bad;
                } else if (*at && *at != '\n') {
                        goto bad;
                }
        }
        if (at[0] == '\n' && at[1])
                goto bad;
        *ret = l;
        return 0;
bad:
        return err_set(err, REASON_INVALID, EINVAL,
                       "\"%.60s\" is not a list of CPUs (such as 0-3,8; at most %d)", text, CPULIST_MAX - 1);
}

const char *cpulist_print(const struct cpulist *l, char buf[CPULIST_TEXT])
{
        size_t n = 0;
        buf[0] = '\0';
        for (int first = cpulist_next(l, 0); first >= 0;) {
                int last = first;
                while (cpulist_has(l, (uint32_t)last + 1))
                        last++;
                int w = snprintf(buf + n, CPULIST_TEXT - n, first == last ? "%s%d" : "%s%d-%d", n ? "," : "",
                                 first, last);
                assert(w > 0 && (size_t)w < CPULIST_TEXT - n);
                n += (size_t)w;
                first = cpulist_next(l, (uint32_t)last + 1);
        }
        return buf;
}

bool cpulist_add(struct cpulist *l, uint32_t number)
{
        if (number >= CPULIST_MAX)
                return false;
        l->bits[number / 64] |= UINT64_C(1) << (number % 64);
        return true;
}

bool cpulist_has(const struct cpulist *l, uint32_t number)
{
        return number < CPULIST_MAX && (l->bits[number / 64] >> (number % 64) & 1);
}

size_t cpulist_count(const struct cpulist *l)
{
        size_t n = 0;
        for (size_t i = 0; i < CPULIST_MAX / 64; i++)
                n += (size_t)__builtin_popcountll(l->bits[i]);
        return n;
}

int cpulist_next(const struct cpulist *l, uint32_t from)
{
        for (uint32_t i = from; i < CPULIST_MAX; i++)
                if (cpulist_has(l, i))
                        return (int)i;
        return -1;
}

bool cpulist_is_equal(const struct cpulist *a, const struct cpulist *b)
{
        return memcmp(a->bits, b->bits, sizeof(a->bits)) == 0;
}

bool cpulist_is_within(const struct cpulist *part, const struct cpulist *whole)
{
        for (size_t i = 0; i < CPULIST_MAX / 64; i++)
                if (part->bits[i] & ~whole->bits[i])
                        return false;
        return true;
}

void cpulist_join(struct cpulist *l, const struct cpulist *from)
{
        for (size_t i = 0; i < CPULIST_MAX / 64; i++)
                l->bits[i] |= from->bits[i];
}

void cpulist_remove(struct cpulist *l, const struct cpulist *from)
{
        for (size_t i = 0; i < CPULIST_MAX / 64; i++)
                l->bits[i] &= ~from->bits[i];
}

bool cpulist_has_common(const struct cpulist *a, const struct cpulist *b)
{
        for (size_t i = 0; i < CPULIST_MAX / 64; i++)
                if (a->bits[i] & b->bits[i])
                        return true;
        return false;
}
