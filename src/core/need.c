/* SPDX-License-Identifier: Apache-2.0 */
/* Text and wire both end in need_check(), so that neither way in is laxer than the other. A text that is not
 * plain ASCII is refused before anything is quoted from it: sentences travel in JSON. */
#include "core/need.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "base/units.h"

/* clang-format off */ /* clang-format 14 dies on nested designated rows */
const struct parameter_row parameter_rows[PARAMETER_N] = {
        [PARAMETER_SHARE] = {
                .kind = COMPONENT_CPU,
                .name = "share",
                .relation = RELATION_AT_LEAST,
                .unit = "thousandths of a CPU",
                .minimum = 1,
                .maximum = CPU_WHOLE_MILLI,
                .source = "ledger over the hwloc inventory",
                .provider = "cpu (cgroup cpuset and weight)",
                .measured = "tests/system: CPU time that a granted vCPU gets beside a competitor",
                .description = "The part of a host CPU that each granted CPU gets, also when others want it.",
        },
        [PARAMETER_EXCLUSIVE] = {
                .kind = COMPONENT_CPU,
                .name = "exclusive",
                .relation = RELATION_EQUAL,
                .flag = true,
                .unit = "",
                .minimum = 1,
                .maximum = 1,
                .source = "ledger over the hwloc inventory",
                .provider = "cpu (cgroup cpuset)",
                .measured = "tests/nested: no other thread of a VMM runs on the granted CPU",
                .description = "Each granted CPU is a whole host CPU without any other thread of a VMM on it.",
        },
        [PARAMETER_PAGE] = {
                .kind = COMPONENT_MEMORY,
                .name = "page",
                .relation = RELATION_EQUAL,
                .unit = "bytes",
                .minimum = 64 * 1024,
                .maximum = INT64_C(16) << 30,
                .source = "page sizes of the node in sysfs",
                .provider = "memory (pages added to the node's pool, file on hugetlbfs)",
                .measured = "tests/nested: the granted memory lies on huge pages of its node",
                .description = "The memory is of huge pages of this size, taken from the node as a whole before it is given.",
        },
        [PARAMETER_CPU_ID] = {
                .kind = COMPONENT_CPU,
                .name = "id",
                .relation = RELATION_EQUAL,
                .unit = "number of a host CPU",
                .minimum = 0,
                .maximum = COMPONENT_NUMBER_MAX,
                .source = "hwloc inventory",
                .provider = "cpu (cgroup cpuset)",
                .measured = "tests/nested: the granted vCPU runs on that CPU",
                .description = "The granted CPU is the host's of this number.",
        },
        [PARAMETER_CPU_NODE] = {
                .kind = COMPONENT_CPU,
                .name = "node",
                .relation = RELATION_EQUAL,
                .unit = "number of a NUMA node",
                .minimum = 0,
                .maximum = COMPONENT_NUMBER_MAX,
                .source = "hwloc inventory",
                .provider = "cpu (cgroup cpuset)",
                .measured = "tests/nested: the granted vCPUs run on CPUs of that node",
                .description = "The granted CPUs are of this NUMA node of the host.",
        },
        [PARAMETER_MEMORY_NODE] = {
                .kind = COMPONENT_MEMORY,
                .name = "node",
                .relation = RELATION_EQUAL,
                .unit = "number of a NUMA node",
                .minimum = 0,
                .maximum = COMPONENT_NUMBER_MAX,
                .source = "hwloc inventory",
                .provider = "memory (NUMA policy of the VMM's file)",
                .measured = "tests/nested: the granted memory lies on that node",
                .description = "The granted memory is of this NUMA node of the host.",
        },
};
/* clang-format on */

static const char *print_count(int64_t count, char buf[UNITS_TEXT])
{
        (void)snprintf(buf, UNITS_TEXT, "%lld", (long long)count);
        return buf;
}

static int parse_ways(const char *text, int64_t *ret, struct err *err)
{
        char count[UNITS_TEXT];
        size_t n = strspn(text, "0123456789");
        if (n > 0 && n < sizeof(count) && (strcmp(text + n, "ways") == 0 || strcmp(text + n, "way") == 0)) {
                memcpy(count, text, n);
                count[n] = '\0';
                text = count;
        }
        return units_parse_count(text, ret, err);
}

static int parse_percent(const char *text, int64_t *ret, struct err *err)
{
        char count[UNITS_TEXT];
        size_t n = strspn(text, "0123456789");
        if (n == 0 || n >= sizeof(count) || strcmp(text + n, "%") != 0)
                return err_set(err, REASON_INVALID, EINVAL, "\"%.20s\" is no percentage, such as 20%%", text);
        memcpy(count, text, n);
        count[n] = '\0';
        return units_parse_count(count, ret, err);
}

static const char *print_percent(int64_t percent, char buf[UNITS_TEXT])
{
        (void)snprintf(buf, UNITS_TEXT, "%lld%%", (long long)percent);
        return buf;
}

/* How amounts of a kind are written. A kind that is not here is written in bytes. */
static const struct {
        int (*parse)(const char *text, int64_t *ret, struct err *err);
        const char *(*print)(int64_t amount, char buf[UNITS_TEXT]);
        int64_t least;
} amounts[COMPONENT_KIND_N] = {
        [COMPONENT_CPU] = {units_parse_count, print_count,       1            },
        [COMPONENT_NET] = {units_parse_rate,  units_print_rate,  NET_LEAST_BPS},
        [COMPONENT_BLOCK] = {units_parse_bytes, units_print_bytes, BLOCK_UNIT   },
        [COMPONENT_CACHE] = {parse_ways,        print_count,       1            },
        [COMPONENT_MEMBW] = {parse_percent,     print_percent,     1            },
};

/* How values are written, where not as shares. */
static const struct {
        int (*parse)(const char *text, int64_t *ret, struct err *err);
        const char *(*print)(int64_t value, char buf[UNITS_TEXT]);
        const char *of; /* behind a value */
} values[PARAMETER_N] = {
        [PARAMETER_SHARE] = {units_parse_milli, units_print_milli, " of a CPU"},
        [PARAMETER_PAGE] = {units_parse_bytes, units_print_bytes, ""         },
        [PARAMETER_CPU_ID] = {units_parse_count, print_count,       ""         },
        [PARAMETER_CPU_NODE] = {units_parse_count, print_count,       ""         },
        [PARAMETER_MEMORY_NODE] = {units_parse_count, print_count,       ""         },
};

int need_value_parse(enum parameter_id id, const char *text, int64_t *ret, struct err *err)
{
        return values[id].parse(text, ret, err);
}

const char *need_value_print(enum parameter_id id, int64_t value, char buf[UNITS_TEXT])
{
        return values[id].print(value, buf);
}

int64_t need_page_bytes(const struct need *need)
{
        const struct parameter *page = need_parameter(need, PARAMETER_PAGE);
        return page ? page->value : 0;
}

static int64_t value_or_none(const struct need *need, enum parameter_id id)
{
        const struct parameter *p = need_parameter(need, id);
        return p ? p->value : -1;
}

int64_t need_component(const struct need *need)
{
        return value_or_none(need, PARAMETER_CPU_ID);
}

int64_t need_node(const struct need *need)
{
        return value_or_none(need, need->kind == COMPONENT_CPU ? PARAMETER_CPU_NODE : PARAMETER_MEMORY_NODE);
}

int need_amount_parse(enum component_kind kind, const char *text, int64_t *ret, struct err *err)
{
        return amounts[kind].parse ? amounts[kind].parse(text, ret, err) : units_parse_bytes(text, ret, err);
}

const char *need_amount_print(enum component_kind kind, int64_t amount, char buf[UNITS_TEXT])
{
        return amounts[kind].print ? amounts[kind].print(amount, buf) : units_print_bytes(amount, buf);
}

/* Parameters that cannot be asked for together, and why. */
static const struct {
        enum parameter_id a, b;
        const char *why;
} conflicts[] = {
        {PARAMETER_SHARE,  PARAMETER_EXCLUSIVE,
         "an exclusive CPU is whole already, so a share of it says nothing"        },
        {PARAMETER_CPU_ID, PARAMETER_CPU_NODE,  "the number of a CPU says its node"},
};

static const char *const relations[] = {
        [RELATION_AT_LEAST] = ">=",
        [RELATION_AT_MOST] = "<=",
        [RELATION_EQUAL] = "=",
};

const char *relation_name(enum relation r)
{
        return r >= RELATION_AT_LEAST && r <= RELATION_EQUAL ? relations[r] : "?";
}

enum relation relation_from_name(const char *name)
{
        for (int r = RELATION_AT_LEAST; r <= RELATION_EQUAL; r++)
                if (strcmp(relations[r], name) == 0)
                        return (enum relation)r;
        return 0;
}

enum parameter_id parameter_find(enum component_kind kind, const char *name)
{
        for (int id = 1; id < PARAMETER_N; id++)
                if (parameter_rows[id].kind == kind && strcmp(parameter_rows[id].name, name) == 0)
                        return (enum parameter_id)id;
        return 0;
}

const struct parameter *need_parameter(const struct need *need, enum parameter_id id)
{
        for (size_t i = 0; i < need->n_parameters; i++)
                if (need->parameters[i].id == id)
                        return &need->parameters[i];
        return NULL;
}

/* Words of ours that may be quoted in a sentence without harm. */
static bool is_word(const char *s)
{
        size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-");
        return n > 0 && n < 16 && s[n] == '\0';
}

static void append(char *buf, size_t size, const char *text)
{
        size_t n = strlen(buf);
        (void)snprintf(buf + n, size - n, "%s", text);
}

static int kind_find(const char *name, enum component_kind *ret, struct err *err)
{
        if (!is_word(name))
                return err_set(err, REASON_INVALID, EINVAL,
                               "a kind is a word in small letters, such as cpu or memory");
        enum component_kind kind = component_kind_from_name(name);
        if (kind && component_kinds[kind].provided) {
                *ret = kind;
                return 0;
        }
        char kinds[96] = "";
        for (int k = 1; k < COMPONENT_KIND_N; k++) {
                if (!component_kinds[k].provided)
                        continue;
                append(kinds, sizeof(kinds), kinds[0] ? ", " : "");
                append(kinds, sizeof(kinds), component_kinds[k].name);
        }
        return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s \"%s\"; what can be asked for here: %s",
                       kind ? "nothing provides the kind" : "there is no kind", name, kinds);
}

static int parameter_unknown(enum component_kind kind, const char *name, struct err *err)
{
        char names[96] = "";
        for (int id = 1; id < PARAMETER_N; id++) {
                if (parameter_rows[id].kind != kind)
                        continue;
                append(names, sizeof(names), names[0] ? ", " : "");
                append(names, sizeof(names), parameter_rows[id].name);
        }
        return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s has no parameter \"%s\"; it has: %s",
                       component_kinds[kind].name, name, names[0] ? names : "none");
}

static int parameter_check(enum component_kind kind, const struct parameter *p, struct err *err)
{
        if (p->id <= 0 || p->id >= PARAMETER_N || parameter_rows[p->id].kind != kind) {
                bool known = p->id > 0 && p->id < PARAMETER_N;
                return parameter_unknown(kind, known ? parameter_rows[p->id].name : "?", err);
        }
        const struct parameter_row *row = &parameter_rows[p->id];
        if (p->relation != row->relation)
                return err_set(err, REASON_INVALID, EINVAL, "%s takes the relation %s", row->name,
                               relation_name(row->relation));
        char value[UNITS_TEXT], low[UNITS_TEXT], high[UNITS_TEXT];
        if (p->value < row->minimum || p->value > row->maximum) {
                if (row->flag)
                        return err_set(err, REASON_INVALID, ERANGE, "%s stands alone, without a value",
                                       row->name);
                return err_set(err, REASON_INVALID, ERANGE, "%s%s%s: a %s is from %s to %s%s", row->name,
                               relation_name(row->relation), need_value_print(p->id, p->value, value),
                               row->name, need_value_print(p->id, row->minimum, low),
                               need_value_print(p->id, row->maximum, high), values[p->id].of);
        }
        if (p->id == PARAMETER_PAGE && (p->value & (p->value - 1)))
                return err_set(err, REASON_INVALID, EINVAL, "page=%s: the size of a page is a power of two",
                               need_value_print(p->id, p->value, value));
        return 0;
}

static int amounts_check(const struct need *need, struct err *err)
{
        const char *name = component_kinds[need->kind].name;
        char text[UNITS_TEXT];
        if (need->amount < 1)
                return err_set(err, REASON_INVALID, ERANGE, "%s: the amount must be at least 1", name);
        if (need->amount < amounts[need->kind].least)
                return err_set(err, REASON_INVALID, ERANGE, "%s: the amount must be at least %s", name,
                               need_amount_print(need->kind, amounts[need->kind].least, text));
        if (need->amount_max < need->amount)
                return err_set(err, REASON_INVALID, ERANGE, "%s: the range ends below its start", name);
        if (need->amount_max >= UNITS_MAX)
                return err_set(err, REASON_INVALID, ERANGE, "%s: the amount must be below 2^53", name);
        return 0;
}

int need_check(const struct need *need, struct err *err)
{
        if (need->kind <= 0 || need->kind >= COMPONENT_KIND_N)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "there is no such kind");
        enum component_kind kind;
        int r = kind_find(component_kinds[need->kind].name, &kind, err);
        if (r < 0)
                return r;
        r = amounts_check(need, err);
        if (r < 0)
                return r;
        if (need->n_parameters > NEED_PARAMETERS_MAX)
                return err_set(err, REASON_INVALID, E2BIG, "%s: more than %d parameters",
                               component_kinds[kind].name, NEED_PARAMETERS_MAX);
        for (size_t i = 0; i < need->n_parameters; i++) {
                const struct parameter *p = &need->parameters[i];
                r = parameter_check(kind, p, err);
                if (r < 0)
                        return r;
                if (need_parameter(need, p->id) != p)
                        return err_set(err, REASON_INVALID, EINVAL, "%s is said twice",
                                       parameter_rows[p->id].name);
        }
        if (need_component(need) >= 0 && need->amount_max > 1)
                return err_set(err, REASON_INVALID, ERANGE, "id names one CPU: cpu:1,id=%lld",
                               (long long)need_component(need));
        for (size_t i = 0; i < ARRAY_N(conflicts); i++)
                if (need_parameter(need, conflicts[i].a) && need_parameter(need, conflicts[i].b))
                        return err_set(err, REASON_INVALID, EINVAL, "%s and %s exclude each other: %s",
                                       parameter_rows[conflicts[i].a].name,
                                       parameter_rows[conflicts[i].b].name, conflicts[i].why);
        return 0;
}

int needs_check(const struct need *needs, size_t n, struct err *err)
{
        if (n < 1 || n > NEEDS_MAX)
                return err_set(err, REASON_INVALID, E2BIG, "a request has 1 to %d needs, not %zu", NEEDS_MAX,
                               n);
        for (size_t i = 0; i < n; i++) {
                int r = need_check(&needs[i], err);
                if (r < 0)
                        return r;
                for (size_t j = 0; j < i; j++)
                        if (needs[j].kind == needs[i].kind)
                                return err_set(err, REASON_INVALID, EINVAL,
                                               "%s is asked for twice; say it in one need",
                                               component_kinds[needs[i].kind].name);
        }
        return 0;
}

/* Copies the n characters at text; false where they are more than fit. */
static bool cut(char *dst, size_t size, const char *text, size_t n)
{
        if (n >= size)
                return false;
        memcpy(dst, text, n);
        dst[n] = '\0';
        return true;
}

/* AMOUNT or AMOUNT..AMOUNT */
static int range_parse(const char *text, struct need *need, struct err *err)
{
        char low[NEED_TEXT];
        const char *dots = strstr(text, "..");
        (void)cut(low, sizeof(low), text, dots ? (size_t)(dots - text) : strlen(text));
        int r = need_amount_parse(need->kind, low, &need->amount, err);
        if (r == 0 && dots)
                return need_amount_parse(need->kind, dots + 2, &need->amount_max, err);
        need->amount_max = need->amount;
        return r;
}

static int value_parse(enum parameter_id id, const char *text, int64_t *ret, struct err *err)
{
        int r = need_value_parse(id, text, ret, err);
        return r < 0 ? err_note(err, "%s", parameter_rows[id].name) : 0;
}

/* Relation and value of a parameter whose name was cut off: "", ">=0.9", "=1". */
static int bound_parse(const struct parameter_row *row, const char *text, struct parameter *p,
                       struct err *err)
{
        size_t n = strspn(text, "<>=");
        char relation[4];
        if (row->flag) {
                if (*text)
                        return err_set(err, REASON_INVALID, EINVAL, "%s stands alone, without a value",
                                       row->name);
                p->relation = row->relation;
                p->value = 1;
                return 0;
        }
        if (!cut(relation, sizeof(relation), text, n) || (p->relation = relation_from_name(relation)) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s takes %s and a value", row->name,
                               relation_name(row->relation));
        return value_parse(p->id, text + n, &p->value, err);
}

static int parameter_parse(const char *text, struct need *need, struct err *err)
{
        char name[16];
        size_t n = strcspn(text, "<>=");
        if (!cut(name, sizeof(name), text, n) || !is_word(name))
                return err_set(err, REASON_INVALID, EINVAL,
                               "\"%.40s\" does not start with the name of a parameter", text);
        if (need->n_parameters == NEED_PARAMETERS_MAX)
                return err_set(err, REASON_INVALID, E2BIG, "more than %d parameters", NEED_PARAMETERS_MAX);
        struct parameter *p = &need->parameters[need->n_parameters];
        p->id = parameter_find(need->kind, name);
        if (p->id == 0)
                return parameter_unknown(need->kind, name, err);
        int r = bound_parse(&parameter_rows[p->id], text + n, p, err);
        if (r == 0)
                need->n_parameters++;
        return r;
}

static int whole_parse(char *text, struct need *need, struct err *err)
{
        char *amount = strchr(text, ':');
        if (!amount)
                return err_set(err, REASON_INVALID, EINVAL,
                               "a need is KIND:AMOUNT, such as cpu:2 or memory:512M");
        *amount++ = '\0';
        int r = kind_find(text, &need->kind, err);
        if (r < 0)
                return r;
        char *rest = amount;
        (void)strsep(&rest, ",");
        r = range_parse(amount, need, err);
        while (r == 0 && rest)
                r = parameter_parse(strsep(&rest, ","), need, err);
        return r < 0 ? r : need_check(need, err);
}

int need_parse(const char *text, struct need *ret, struct err *err)
{
        char copy[NEED_TEXT];
        size_t n = strnlen(text, NEED_TEXT);
        for (size_t i = 0; i < n; i++)
                if (text[i] <= ' ' || text[i] > '~')
                        return err_set(
                                err, REASON_INVALID, EINVAL,
                                "a need is written without blanks, in plain ASCII; character %zu is neither",
                                i + 1);
        if (!cut(copy, sizeof(copy), text, n))
                return err_set(err, REASON_INVALID, E2BIG, "a need has at most %d characters", NEED_TEXT - 1);
        struct need need = {0};
        int r = whole_parse(copy, &need, err);
        if (r == 0)
                *ret = need;
        return r;
}

int needs_parse(const char *const *texts, size_t n, struct need *ret_needs, struct err *err)
{
        struct need needs[NEEDS_MAX];
        for (size_t i = 0; i < n && i < NEEDS_MAX; i++)
                if (need_parse(texts[i], &needs[i], err) < 0)
                        return err_note(err, "need %zu", i + 1);
        int r = needs_check(needs, n, err);
        if (r == 0)
                memcpy(ret_needs, needs, n * sizeof(needs[0]));
        return r;
}

static int part_take(const struct need_part *part, struct need *need, struct err *err)
{
        if (!is_word(part->name))
                return err_set(err, REASON_INVALID, EINVAL,
                               "the name of a parameter is a word in small letters");
        enum parameter_id id = parameter_find(need->kind, part->name);
        if (id == 0)
                return parameter_unknown(need->kind, part->name, err);
        const struct parameter_row *row = &parameter_rows[id];
        if (row->flag && (part->has_value || part->word))
                return err_set(err, REASON_INVALID, EINVAL, "%s stands alone, without a value", row->name);
        if (!row->flag && (!part->has_value || part->word))
                return err_set(err, REASON_INVALID, EINVAL, "%s takes a value in %s", row->name, row->unit);
        need->parameters[need->n_parameters++] = (struct parameter){
                .id = id, .relation = part->relation, .value = row->flag ? 1 : part->value};
        return 0;
}

int need_from_parts(const char *kind, int64_t amount, int64_t amount_max, size_t n,
                    const struct need_part *parts, struct need *ret, struct err *err)
{
        struct need need = {.amount = amount, .amount_max = amount_max ? amount_max : amount};
        int r = kind_find(kind, &need.kind, err);
        if (r < 0)
                return r;
        if (n > NEED_PARAMETERS_MAX)
                return err_set(err, REASON_INVALID, E2BIG, "%s: more than %d parameters",
                               component_kinds[need.kind].name, NEED_PARAMETERS_MAX);
        for (size_t i = 0; i < n; i++)
                if (part_take(&parts[i], &need, err) < 0)
                        return err_note(err, "parameters[%zu]", i);
        r = need_check(&need, err);
        if (r == 0)
                *ret = need;
        return r;
}

struct need_part need_part_of(const struct parameter *p)
{
        const struct parameter_row *row = &parameter_rows[p->id];
        return (struct need_part){.name = row->name,
                                  .relation = p->relation,
                                  .has_value = !row->flag,
                                  .value = row->flag ? 0 : p->value};
}

bool need_equal(const struct need *a, const struct need *b)
{
        if (a->kind != b->kind || a->amount != b->amount || a->amount_max != b->amount_max ||
            a->n_parameters != b->n_parameters)
                return false;
        for (size_t i = 0; i < a->n_parameters; i++)
                if (a->parameters[i].id != b->parameters[i].id ||
                    a->parameters[i].relation != b->parameters[i].relation ||
                    a->parameters[i].value != b->parameters[i].value)
                        return false;
        return true;
}

static void amount_append(char buf[NEED_TEXT], enum component_kind kind, int64_t amount)
{
        char text[UNITS_TEXT];
        append(buf, NEED_TEXT, need_amount_print(kind, amount, text));
}

const char *need_print(const struct need *need, char buf[NEED_TEXT])
{
        (void)snprintf(buf, NEED_TEXT, "%s:", component_kinds[need->kind].name);
        amount_append(buf, need->kind, need->amount);
        if (need->amount_max != need->amount) {
                append(buf, NEED_TEXT, "..");
                amount_append(buf, need->kind, need->amount_max);
        }
        for (size_t i = 0; i < need->n_parameters; i++) {
                const struct parameter *p = &need->parameters[i];
                const struct parameter_row *row = &parameter_rows[p->id];
                char value[UNITS_TEXT];
                append(buf, NEED_TEXT, ",");
                append(buf, NEED_TEXT, row->name);
                if (row->flag)
                        continue;
                append(buf, NEED_TEXT, relation_name(p->relation));
                append(buf, NEED_TEXT, need_value_print(p->id, p->value, value));
        }
        return buf;
}
