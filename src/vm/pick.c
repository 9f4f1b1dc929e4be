/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/pick.h"

#include <string.h>

#include "base/str.h"

bool pick_integer(const json_t *object, const char *key, int64_t minimum, int64_t maximum, int64_t *ret)
{
        const json_t *v = json_object_get(object, key);
        if (!json_is_integer(v) || json_integer_value(v) < minimum || json_integer_value(v) > maximum)
                return false;
        *ret = json_integer_value(v);
        return true;
}

bool pick_boolean(const json_t *object, const char *key, bool *ret)
{
        const json_t *v = json_object_get(object, key);
        if (!json_is_boolean(v))
                return false;
        *ret = json_is_true(v);
        return true;
}

static bool is_control(char c)
{
        return (unsigned char)c < 0x20 || c == 0x7f;
}

bool pick_string(const json_t *object, const char *key, char *ret, size_t size)
{
        const json_t *v = json_object_get(object, key);
        const char *s = json_string_value(v);
        if (s == NULL || strlen(s) != json_string_length(v))
                return false;
        for (const char *c = s; *c != '\0'; c++)
                if (is_control(*c))
                        return false;
        return str_copy(ret, size, s);
}

bool pick_words(const json_t *object, const char *key, char *ret, size_t size)
{
        const char *s = json_string_value(json_object_get(object, key));
        if (s == NULL)
                return false;
        size_t n = 0;
        for (; s[n] != '\0' && n + 1 < size; n++)
                ret[n] = is_control(s[n]) ? '?' : s[n];
        ret[n] = '\0';
        return true;
}

const char *pick_text(const json_t *object, const char *key)
{
        const char *s = json_string_value(json_object_get(object, key));
        return s != NULL ? s : "";
}
