/* SPDX-License-Identifier: Apache-2.0 */
#include "base/str.h"

#include <string.h>

bool str_copy(char *dst, size_t size, const char *src)
{
        size_t n = strlen(src);
        if (n >= size)
                return false;
        memcpy(dst, src, n + 1);
        return true;
}

bool str_is_name(const char *s)
{
        size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
        return n > 0 && n < 64 && s[n] == '\0' && s[0] != '.' && s[0] != '-';
}

bool str_is_id(const char *s)
{
        size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-");
        return n > 0 && n < 64 && s[n] == '\0';
}
