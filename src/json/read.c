/* SPDX-License-Identifier: Apache-2.0 */
#include "json/read.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* jansson would follow 2048 levels, each on our stack. Looks at brackets outside of strings only; whether
 * they match is the parser's matter. */
static bool is_too_deep(const char *text, size_t n)
{
        int depth = 0;
        for (size_t i = 0; i < n; i++) {
                switch (text[i]) {
                case '{':
                case '[':
                        if (++depth > JSON_DEPTH_MAX)
                                return true;
                        break;
                case '}':
                case ']':
                        depth--;
                        break;
                case '"':
                        for (i++; i < n && text[i] != '"'; i++)
                                if (text[i] == '\\')
                                        i++;
                        break;
                }
        }
        return false;
}

static bool is_blank(const char *text, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (!strchr(" \t\r\n", text[i]) || text[i] == '\0')
                        return false;
        return true;
}

/* jansson quotes the text near the fault, which is the peer's: only printable ASCII may go on. */
static void make_plain(char *s)
{
        for (; *s; s++)
                if (*s < 0x20 || *s > 0x7e)
                        *s = '?';
}

json_t *json_read(const char *text, size_t n, struct err *err)
{
        json_error_t fault;
        if (is_blank(text, n)) {
                err_set(err, REASON_INVALID, EINVAL, "JSON: the text is empty");
                return NULL;
        }
        if (is_too_deep(text, n)) {
                err_set(err, REASON_INVALID, EINVAL, "JSON: nested deeper than %d", JSON_DEPTH_MAX);
                return NULL;
        }
        json_t *v = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &fault);
        if (v)
                return v;
        if (json_error_code(&fault) == json_error_out_of_memory) {
                err_set(err, REASON_INTERNAL, ENOMEM, "JSON: no memory");
                return NULL;
        }
        make_plain(fault.text);
        err_set(err, REASON_INVALID, EINVAL, "JSON: line %d, column %d: %s", fault.line, fault.column,
                fault.text);
        return NULL;
}

char *json_write(const json_t *v, size_t *ret_n)
{
        char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
        if (text && ret_n)
                *ret_n = strlen(text);
        return text;
}
