/* SPDX-License-Identifier: Apache-2.0 */
#include "json/field.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

enum { PATH_TEXT = 160, QUOTE_BYTES = 40 };

/* "needs[1].amount" for the innermost `at`; a path that does not fit loses its start, which says least. */
static const char *path_print(const struct field_at *at, char buf[PATH_TEXT])
{
        char *end = &buf[PATH_TEXT - 1], *p = end;
        *end = '\0';
        for (; at; at = at->up) {
                char part[80];
                int n = at->name ? snprintf(part, sizeof(part), "%s%s", at->up ? "." : "", at->name)
                                 : snprintf(part, sizeof(part), "[%zu]", at->index);
                size_t length = n < 0 ? 0 : (size_t)n < sizeof(part) ? (size_t)n : sizeof(part) - 1;
                if (length > (size_t)(p - buf))
                        break;
                p -= length;
                memcpy(p, part, length);
        }
        return p;
}

static int fail(const struct field_at *at, struct err *err, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

static int fail(const struct field_at *at, struct err *err, const char *fmt, ...)
{
        char what[200], path[PATH_TEXT];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(what, sizeof(what), fmt, ap);
        va_end(ap);
        if (!at)
                return err_set(err, REASON_INVALID, EINVAL, "%s", what);
        return err_set(err, REASON_INVALID, EINVAL, "%s: %s", path_print(at, path), what);
}

/* Length of the well-formed character at s, 0 where there is none (RFC 3629; s ends in a 0 byte). */
static size_t utf8_length(const unsigned char *s)
{
        unsigned char low = 0x80, high = 0xbf;
        size_t n;
        if (s[0] < 0x80)
                return s[0] != 0;
        if (s[0] < 0xc2 || s[0] > 0xf4)
                return 0;
        n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
        if (s[0] == 0xe0)
                low = 0xa0; /* shorter forms */
        else if (s[0] == 0xed)
                high = 0x9f; /* surrogates */
        else if (s[0] == 0xf0)
                low = 0x90;
        else if (s[0] == 0xf4)
                high = 0x8f; /* beyond U+10FFFF */
        if (s[1] < low || s[1] > high)
                return 0;
        for (size_t i = 2; i < n; i++)
                if (s[i] < 0x80 || s[i] > 0xbf)
                        return 0;
        return n;
}

/* Length of the character at s that may stand in a text; 0: broken, or a control character (C0, DEL, C1). */
static size_t text_length(const unsigned char *s)
{
        if (s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] < 0xa0))
                return 0;
        return utf8_length(s);
}

static bool is_text(const char *s, size_t n)
{
        for (size_t i = 0, step; i < n; i += step) {
                step = text_length((const unsigned char *)s + i);
                if (step == 0)
                        return false;
        }
        return true;
}

/* A copy of at most size - 1 bytes, ending at a whole character, with '?' for what is no text. */
static void text_copy(char *dst, size_t size, const char *src)
{
        size_t n = 0;
        while (*src) {
                size_t step = text_length((const unsigned char *)src);
                size_t width = step ? step : 1;
                if (n + width >= size)
                        break;
                if (step)
                        memcpy(dst + n, src, step);
                else
                        dst[n] = '?';
                n += width;
                src += width;
        }
        dst[n] = '\0';
}

static bool is_id(const char *s, size_t n)
{
        return n > 0 && n < 64 &&
               strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-") == n;
}

static size_t name_index(const struct field_name *names, size_t n, const char *name)
{
        size_t i = 0;
        while (i < n && strcmp(names[i].name, name) != 0)
                i++;
        return i;
}

int field_object(const struct field_at *at, const json_t *v, const struct field_name *names, size_t n,
                 const json_t **ret, struct err *err)
{
        for (size_t i = 0; i < n; i++)
                ret[i] = NULL;
        if (v && !json_is_object(v))
                return fail(at, err, "must be an object");
        /* The iteration only reads; jansson merely lacks the const. */
        json_t *object = (json_t *)v;
        for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
                const char *name = json_object_iter_key(it);
                size_t i = name_index(names, n, name);
                if (i == n) {
                        char quote[QUOTE_BYTES];
                        text_copy(quote, sizeof(quote), name);
                        return fail(at, err, "unknown field \"%s\"", quote);
                }
                ret[i] = json_object_iter_value(it);
        }
        for (size_t i = 0; i < n; i++)
                if (names[i].required && !ret[i])
                        return fail(&(struct field_at){.up = at, .name = names[i].name}, err, "required");
        return 0;
}

int field_text(const struct field_at *at, const char *s, size_t n, size_t min, size_t max,
               enum field_format format, struct err *err)
{
        if (n < min)
                return n == 0 ? fail(at, err, "must not be empty")
                              : fail(at, err, "must have at least %zu bytes", min);
        if (n > max)
                return fail(at, err, "must have at most %zu bytes", max);
        if (!is_text(s, n))
                return fail(at, err, "must not contain control characters");
        switch (format) {
        case FIELD_TEXT:
                break;
        case FIELD_NAME:
                if (!str_is_name(s))
                        return fail(
                                at, err,
                                "must be a name: letters, digits and ._- only, and neither . nor - first");
                break;
        case FIELD_ID:
                if (!is_id(s, n))
                        return fail(at, err, "must be an id: letters, digits and ._:- only");
                break;
        }
        return 0;
}

int field_string(const struct field_at *at, const json_t *v, size_t min, size_t max, enum field_format format,
                 char *ret, struct err *err)
{
        if (!json_is_string(v))
                return fail(at, err, "must be a string");
        const char *s = json_string_value(v);
        size_t n = json_string_length(v);
        int r = field_text(at, s, n, min, max, format, err);
        if (r == 0)
                memcpy(ret, s, n + 1);
        return r;
}

int field_integer(const struct field_at *at, const json_t *v, int64_t min, int64_t max, int64_t *ret,
                  struct err *err)
{
        if (!json_is_integer(v))
                return fail(at, err, "must be an integer");
        int64_t value = json_integer_value(v);
        if (value < min)
                return fail(at, err, "must be at least %" PRId64, min);
        if (value > max)
                return fail(at, err, "must be at most %" PRId64, max);
        *ret = value;
        return 0;
}

int field_boolean(const struct field_at *at, const json_t *v, bool *ret, struct err *err)
{
        if (!json_is_boolean(v))
                return fail(at, err, "must be true or false");
        *ret = json_is_true(v);
        return 0;
}

int field_find(const char *const *words, int n, const char *word)
{
        for (int i = 1; i < n; i++)
                if (strcmp(words[i], word) == 0)
                        return i;
        return 0;
}

int field_word(const struct field_at *at, const json_t *v, const char *const *words, int n, int *ret,
               struct err *err)
{
        if (!json_is_string(v))
                return fail(at, err, "must be a string");
        int found = field_find(words, n, json_string_value(v));
        if (found) {
                *ret = found;
                return 0;
        }
        char list[180] = "";
        for (int i = 1; i < n; i++) {
                size_t used = strlen(list);
                (void)snprintf(list + used, sizeof(list) - used, "%s%s", i > 1 ? ", " : "", words[i]);
        }
        return fail(at, err, "must be one of %s", list);
}

int field_array(const struct field_at *at, const json_t *v, size_t min, size_t max, size_t *ret_n,
                struct err *err)
{
        if (!json_is_array(v))
                return fail(at, err, "must be an array");
        size_t n = json_array_size(v);
        if (n < min)
                return fail(at, err, "must have at least %zu %s", min, min == 1 ? "entry" : "entries");
        if (n > max)
                return fail(at, err, "must have at most %zu %s", max, max == 1 ? "entry" : "entries");
        *ret_n = n;
        return 0;
}

json_t *field_emit_string(const char *s, size_t size)
{
        size_t n = strnlen(s, size);
        assert(n < size);
        if (is_text(s, n))
                return json_stringn_nocheck(s, n);
        char *clean = malloc(size);
        if (!clean)
                return NULL;
        text_copy(clean, size, s);
        json_t *v = json_string_nocheck(clean);
        free(clean);
        return v;
}

json_t *field_emit_word(const char *const *words, int n, int value)
{
        assert(value > 0 && value < n);
        return json_string_nocheck(words[value]);
}

bool field_put(json_t *object, const char *key, json_t *v)
{
        return json_object_set_new_nocheck(object, key, v) == 0;
}

bool field_push(json_t *array, json_t *v)
{
        return json_array_append_new(array, v) == 0;
}

json_t *field_done(json_t *v, bool ok)
{
        if (ok)
                return v;
        json_decref(v);
        return NULL;
}
