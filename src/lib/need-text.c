/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/need-text.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/str.h"
#include "base/units.h"

static bool is_word(const char *s)
{
        size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-");
        return n > 0 && n < 16 && s[n] == '\0';
}

/* A need that core knows, as the wire has it. */
static void from_known(const struct need *need, struct api_need *ret)
{
        *ret = (struct api_need){.amount = need->amount, .n_parameters = need->n_parameters};
        (void)STR_COPY(ret->kind, component_kinds[need->kind].name);
        if (need->amount_max != need->amount) {
                ret->has_amount_max = true;
                ret->amount_max = need->amount_max;
        }
        for (size_t i = 0; i < need->n_parameters; i++) {
                struct need_part part = need_part_of(&need->parameters[i]);
                struct api_parameter *p = &ret->parameters[i];
                (void)STR_COPY(p->name, part.name);
                p->relation = (enum api_relation)part.relation;
                p->has_value = part.has_value;
                p->value = part.value;
        }
}
_Static_assert((int)API_RELATION_AT_LEAST == (int)RELATION_AT_LEAST &&
                       (int)API_RELATION_AT_MOST == (int)RELATION_AT_MOST &&
                       (int)API_RELATION_EQUAL == (int)RELATION_EQUAL,
               "api/common.json and core/need.h differ");

/* The share of a known kind may come beside a parameter that is unknown: each is read as its own row says. */
static int value_parse(enum component_kind kind, struct api_parameter *p, const char *text, struct err *err)
{
        enum parameter_id id = kind ? parameter_find(kind, p->name) : 0;

        if (id != 0 && !parameter_rows[id].flag) {
                p->has_value = true;
                if (need_value_parse(id, text, &p->value, err) < 0)
                        return err_note(err, "%s", p->name);
                return 0;
        }
        if (*text != '\0' && strspn(text, "0123456789") == strlen(text)) {
                p->has_value = true;
                if (units_parse_count(text, &p->value, err) < 0)
                        return err_note(err, "%s", p->name);
                return 0;
        }
        if (*text == '\0' || !STR_COPY(p->word, text))
                return err_set(err, REASON_INVALID, EINVAL, "%s: a value of 1 to 15 characters is wanted",
                               p->name);
        p->has_word = true;
        return 0;
}

static int parameter_parse(enum component_kind kind, char *text, struct api_parameter *p, struct err *err)
{
        size_t n = strcspn(text, "<>=");
        size_t n_relation = strspn(text + n, "<>=");
        char relation[4] = "=";
        const char *value = text + n + n_relation;

        if (n_relation >= sizeof(relation))
                return err_set(err, REASON_INVALID, EINVAL, "a relation is one of >= <= =");
        if (n_relation > 0) {
                memcpy(relation, text + n, n_relation);
                relation[n_relation] = '\0';
        }
        p->relation = api_relation_find(relation);
        text[n] = '\0';
        if (!is_word(text))
                return err_set(
                        err, REASON_INVALID, EINVAL,
                        "a parameter is a word in small letters, alone or with a relation and a value");
        if (p->relation == 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s: a relation is one of >= <= =", text);
        (void)STR_COPY(p->name, text);
        return n_relation == 0 ? 0 : value_parse(kind, p, value, err);
}

static int amount_parse(enum component_kind kind, char *text, struct api_need *need, struct err *err)
{
        char *dots = strstr(text, "..");

        if (dots != NULL)
                *dots = '\0';
        int r = need_amount_parse(kind, text, &need->amount, err);
        if (r == 0 && dots != NULL) {
                need->has_amount_max = true;
                r = need_amount_parse(kind, dots + 2, &need->amount_max, err);
        }
        if (r < 0)
                return err_note(err, "%s", need->kind);
        if (need->amount < 1 || (need->has_amount_max && need->amount_max < need->amount))
                return err_set(err, REASON_INVALID, ERANGE,
                               "%s: an amount is at least 1, and a range ends at or above its start",
                               need->kind);
        return 0;
}

static int split(char *text, struct api_need *need, struct err *err)
{
        char *amount = strchr(text, ':');

        if (amount == NULL)
                return err_set(err, REASON_INVALID, EINVAL,
                               "a need is KIND:AMOUNT, such as cpu:2 or memory:512M");
        *amount++ = '\0';
        if (!is_word(text))
                return err_set(err, REASON_INVALID, EINVAL,
                               "a kind is a word in small letters, such as cpu or memory");
        (void)STR_COPY(need->kind, text);
        enum component_kind kind = component_kind_from_name(text);
        char *rest = amount;
        (void)strsep(&rest, ",");
        int r = amount_parse(kind, amount, need, err);
        while (r == 0 && rest != NULL) {
                if (need->n_parameters == ARRAY_N(need->parameters))
                        return err_set(err, REASON_INVALID, E2BIG, "%s: more than %zu parameters", need->kind,
                                       ARRAY_N(need->parameters));
                r = parameter_parse(kind, strsep(&rest, ","), &need->parameters[need->n_parameters++], err);
        }
        return r;
}

int need_text_parse(const char *text, struct api_need *ret, struct err *err)
{
        struct need known;
        struct api_need need = {0};
        struct err why = {0};
        char copy[NEED_TEXT];

        if (need_parse(text, &known, &why) == 0) {
                from_known(&known, ret);
                return 0;
        }
        if (why.reason != REASON_UNSUPPORTED) {
                if (err != NULL)
                        *err = why;
                return -why.code;
        }
        (void)STR_COPY(copy, text); /* fits: need_parse() has seen to it */
        int r = split(copy, &need, err);
        if (r == 0)
                *ret = need;
        return r;
}

static void append(char buf[NEED_TEXT], const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void append(char buf[NEED_TEXT], const char *fmt, ...)
{
        va_list ap;
        size_t n = strlen(buf);

        va_start(ap, fmt);
        (void)vsnprintf(buf + n, NEED_TEXT - n, fmt, ap);
        va_end(ap);
}

static void amount_print(char buf[NEED_TEXT], enum component_kind kind, int64_t amount)
{
        char text[UNITS_TEXT];

        append(buf, "%s", need_amount_print(kind, amount, text));
}

const char *need_text_print(const struct api_need *need, char buf[NEED_TEXT])
{
        enum component_kind kind = component_kind_from_name(need->kind);

        buf[0] = '\0';
        append(buf, "%s:", need->kind);
        amount_print(buf, kind, need->amount);
        if (need->has_amount_max) {
                append(buf, "..");
                amount_print(buf, kind, need->amount_max);
        }
        for (size_t i = 0; i < need->n_parameters; i++) {
                const struct api_parameter *p = &need->parameters[i];
                enum parameter_id id = kind ? parameter_find(kind, p->name) : 0;
                char value[UNITS_TEXT];
                append(buf, ",%s", p->name);
                if (p->has_word)
                        append(buf, "%s%s", api_relation_name(p->relation), p->word);
                else if (p->has_value && id != 0 && !parameter_rows[id].flag)
                        append(buf, "%s%s", api_relation_name(p->relation),
                               need_value_print(id, p->value, value));
                else if (p->has_value)
                        append(buf, "%s%" PRId64, api_relation_name(p->relation), p->value);
        }
        return buf;
}
