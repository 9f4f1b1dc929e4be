/* SPDX-License-Identifier: Apache-2.0 */
#include "json/query.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int hex(char c)
{
        return c >= '0' && c <= '9'   ? c - '0'
               : c >= 'a' && c <= 'f' ? c - 'a' + 10
               : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                      : -1;
}

int query_unescape(const char *text, size_t n, int plus_is_blank, char *dst, size_t size)
{
        size_t used = 0;
        for (size_t i = 0; i < n; i++) {
                int c = (unsigned char)text[i];
                if (c == '%') {
                        if (n - i < 3 || hex(text[i + 1]) < 0 || hex(text[i + 2]) < 0)
                                return -EINVAL;
                        c = hex(text[i + 1]) * 16 + hex(text[i + 2]);
                        i += 2;
                } else if (c == '+' && plus_is_blank) {
                        c = ' ';
                }
                if (c == 0 || used + 1 >= size)
                        return -EINVAL;
                dst[used++] = (char)c;
        }
        if (used >= size)
                return -EINVAL;
        dst[used] = '\0';
        return (int)used;
}

/* As in JSON: digits, a minus before them, no zero in front of others. */
static json_t *integer_read(const char *s)
{
        const char *digits = *s == '-' ? s + 1 : s;
        size_t n = strspn(digits, "0123456789");
        if (n == 0 || n > 18 || digits[n] != '\0' || (digits[0] == '0' && n > 1))
                return json_string(s);
        return json_integer(strtoll(s, NULL, 10));
}

static json_t *value_read(enum query_kind kind, const char *s)
{
        if (kind == QUERY_INTEGER)
                return integer_read(s);
        if (kind == QUERY_BOOLEAN && (strcmp(s, "true") == 0 || strcmp(s, "false") == 0))
                return json_boolean(s[0] == 't');
        return json_string(s);
}

static enum query_kind kind_of(const struct query_name *names, size_t n, const char *name)
{
        for (size_t i = 0; i < n; i++)
                if (strcmp(names[i].name, name) == 0)
                        return names[i].kind;
        return QUERY_STRING;
}

/* One "name=value" of n bytes. */
static int pair_read(json_t *object, const char *text, size_t n, const struct query_name *names,
                     size_t n_names, struct err *err)
{
        char name[QUERY_BYTES_MAX + 1], value[QUERY_BYTES_MAX + 1];
        const char *equals = memchr(text, '=', n);
        size_t n_name = equals ? (size_t)(equals - text) : n;
        size_t n_value = equals ? n - n_name - 1 : 0;
        if (query_unescape(text, n_name, 1, name, sizeof(name)) < 0 ||
            query_unescape(text + n - n_value, n_value, 1, value, sizeof(value)) < 0)
                return err_set(err, REASON_INVALID, EINVAL, "bad %%-escape");
        json_t *had = json_object_get(object, name);
        if (had)
                return err_set(err, REASON_INVALID, EINVAL, "a field stands there twice");
        json_t *v = value_read(kind_of(names, n_names, name), value);
        /* Without the memory check of its own: a string that is no UTF-8 is by far the likelier cause. */
        if (!v || json_object_set_new(object, name, v) < 0)
                return err_set(err, REASON_INVALID, EINVAL, "not UTF-8");
        return 0;
}

json_t *query_read(const char *text, const struct query_name *names, size_t n, struct err *err)
{
        if (text && strnlen(text, QUERY_BYTES_MAX + 1) > QUERY_BYTES_MAX) {
                err_set(err, REASON_INVALID, EINVAL, "more than %d bytes", QUERY_BYTES_MAX);
                return NULL;
        }
        json_t *object = json_object();
        if (!object) {
                err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                return NULL;
        }
        for (const char *p = text ? text : ""; *p;) {
                size_t part = strcspn(p, "&");
                if (part > 0 && pair_read(object, p, part, names, n, err) < 0) {
                        json_decref(object);
                        return NULL;
                }
                p += part + (p[part] == '&');
        }
        return object;
}
