/* SPDX-License-Identifier: Apache-2.0 */
#include "core/need.h"

#include <glib.h>
#include <string.h>

#include "base/str.h"
#include "base/units.h"

static struct need parsed(const char *text)
{
        struct need need;
        struct err err = {0};
        int r = need_parse(text, &need, &err);
        if (r < 0)
                g_error("%s: %s", text, err.sentence);
        return need;
}

static void refused(const char *text, enum reason reason, const char *part)
{
        struct need need, before;
        struct err err = {0};
        memset(&need, 0x5a, sizeof(need));
        memcpy(&before, &need, sizeof(need));
        g_assert_cmpint(need_parse(text, &need, &err), <, 0);
        g_assert_cmpstr(reason_name(err.reason), ==, reason_name(reason));
        if (!strstr(err.sentence, part))
                g_error("%s: \"%s\" does not say \"%s\"", text, err.sentence, part);
        g_assert_true(g_utf8_validate(err.sentence, -1, NULL));
        g_assert_cmpmem(&need, sizeof(need), &before, sizeof(before));
}

static void test_parse(void)
{
        struct need n = parsed("cpu:2,share>=0.9");
        g_assert_cmpint(n.kind, ==, COMPONENT_CPU);
        g_assert_cmpint(n.amount, ==, 2);
        g_assert_cmpint(n.amount_max, ==, 2);
        g_assert_cmpuint(n.n_parameters, ==, 1);
        g_assert_cmpint(n.parameters[0].id, ==, PARAMETER_SHARE);
        g_assert_cmpint(n.parameters[0].relation, ==, RELATION_AT_LEAST);
        g_assert_cmpint(n.parameters[0].value, ==, 900);
        g_assert_null(need_parameter(&n, PARAMETER_EXCLUSIVE));
        g_assert_true(need_parameter(&n, PARAMETER_SHARE) == &n.parameters[0]);

        n = parsed("cpu:1,exclusive");
        g_assert_cmpint(n.parameters[0].id, ==, PARAMETER_EXCLUSIVE);
        g_assert_cmpint(n.parameters[0].relation, ==, RELATION_EQUAL);
        g_assert_cmpint(n.parameters[0].value, ==, 1);

        n = parsed("memory:1G");
        g_assert_cmpint(n.kind, ==, COMPONENT_MEMORY);
        g_assert_cmpint(n.amount, ==, 1 << 30);
        g_assert_cmpuint(n.n_parameters, ==, 0);

        n = parsed("memory:512M..2G");
        g_assert_cmpint(n.amount, ==, 512 << 20);
        g_assert_cmpint(n.amount_max, ==, INT64_C(2) << 30);

        n = parsed("memory:0.5G..1.5G");
        g_assert_cmpint(n.amount, ==, 512 << 20);
        g_assert_cmpint(n.amount_max, ==, 1536 << 20);

        n = parsed("cpu:1..4,share>=1");
        g_assert_cmpint(n.amount_max, ==, 4);
        g_assert_cmpint(n.parameters[0].value, ==, 1000);

        n = parsed("memory:1G..2G,page=2048K");
        g_assert_cmpint(need_page_bytes(&n), ==, 2 << 20);
        char pages[NEED_TEXT];
        g_assert_cmpstr(need_print(&n, pages), ==, "memory:1G..2G,page=2M");
        n = parsed("memory:1G");
        g_assert_cmpint(need_page_bytes(&n), ==, 0);

        n = parsed("net:200M");
        g_assert_cmpint(n.kind, ==, COMPONENT_NET);
        g_assert_cmpint(n.amount, ==, 200000000);
        n = parsed("net:64K..1.5Gbit/s");
        g_assert_cmpint(n.amount, ==, 64000);
        g_assert_cmpint(n.amount_max, ==, 1500000000);
        char text[NEED_TEXT];
        g_assert_cmpstr(need_print(&n, text), ==, "net:64K..1500M");

        n = parsed("block:50M..1.5G");
        g_assert_cmpint(n.kind, ==, COMPONENT_BLOCK);
        g_assert_cmpint(n.amount, ==, 50 << 20);
        g_assert_cmpstr(need_print(&n, text), ==, "block:50M..1536M");
        n = parsed("cache:2ways");
        g_assert_cmpint(n.kind, ==, COMPONENT_CACHE);
        g_assert_cmpint(n.amount, ==, 2);
        g_assert_cmpstr(need_print(&n, text), ==, "cache:2");
        n = parsed("cache:1..4");
        g_assert_cmpint(n.amount_max, ==, 4);
        n = parsed("membw:20%..40%");
        g_assert_cmpint(n.kind, ==, COMPONENT_MEMBW);
        g_assert_cmpint(n.amount, ==, 20);
        g_assert_cmpstr(need_print(&n, text), ==, "membw:20%..40%");

        n = parsed("memory:9007199254740991");
        g_assert_cmpint(n.amount, ==, UNITS_MAX - 1);
}

static void test_refuse(void)
{
        refused("", REASON_INVALID, "KIND:AMOUNT");
        refused("cpu", REASON_INVALID, "KIND:AMOUNT");
        refused(":2", REASON_INVALID, "kind is a word");
        refused("CPU:2", REASON_INVALID, "kind is a word");
        refused("gpu:1", REASON_UNSUPPORTED,
                "there is no kind \"gpu\"; what can be asked for here: cpu, memory, cache, membw, net, "
                "block");
        refused("none:1", REASON_UNSUPPORTED, "no kind \"none\"");
        refused("cache:0", REASON_INVALID, "at least 1");
        refused("cache:2M", REASON_INVALID, "whole number");
        refused("cache:waysways", REASON_INVALID, "whole number");
        refused("membw:20", REASON_INVALID, "percentage");
        refused("membw:%", REASON_INVALID, "percentage");
        refused("membw:20%%", REASON_INVALID, "percentage");
        refused("membw:30%..20%", REASON_INVALID, "range");
        refused("device:1", REASON_UNSUPPORTED, "nothing provides the kind \"device\"");
        refused("block:65535", REASON_INVALID, "at least 64K");
        refused("net:63999", REASON_INVALID, "at least 64K");
        refused("net:1KiB", REASON_INVALID, "rate");
        refused("net:2M..1M", REASON_INVALID, "range");
        refused("cpu:", REASON_INVALID, "whole number");
        refused("cpu:0", REASON_INVALID, "at least 1");
        refused("cpu:-1", REASON_INVALID, "whole number");
        refused("cpu:1.5", REASON_INVALID, "whole number");
        refused("cpu:1G", REASON_INVALID, "whole number");
        refused("cpu:2..1", REASON_INVALID, "ends below its start");
        refused("cpu:2..", REASON_INVALID, "whole number");
        refused("cpu:..2", REASON_INVALID, "whole number");
        refused("cpu:1..2..3", REASON_INVALID, "whole number");
        refused("cpu:1...2", REASON_INVALID, "whole number");
        refused("cpu:1..0", REASON_INVALID, "ends below its start");
        refused("memory:9007199254740992", REASON_INVALID, "too large");
        refused("memory:9999999999999999", REASON_INVALID, "too large");
        refused("memory:99999999999999999999", REASON_INVALID, "size");
        refused("memory:1G..9999999999T", REASON_INVALID, "too large");
        refused("cpu: 2", REASON_INVALID, "blanks");
        refused("cpu:2\n", REASON_INVALID, "blanks");
        refused("cpu:2,\xc3\xa4", REASON_INVALID, "ASCII");
        refused("\xff\xfe", REASON_INVALID, "ASCII");
        refused("cpu:2,", REASON_INVALID, "name of a parameter");
        refused("cpu:2,,exclusive", REASON_INVALID, "name of a parameter");
        refused("cpu:2,>=0.9", REASON_INVALID, "name of a parameter");
        refused("cpu:2,exclusive,abcdefghijklmnop", REASON_INVALID, "name of a parameter");
        refused("cpu:2,clock>=3GHz", REASON_UNSUPPORTED,
                "cpu has no parameter \"clock\"; it has: share, exclusive");
        refused("memory:1G,share>=0.5", REASON_UNSUPPORTED,
                "memory has no parameter \"share\"; it has: page");
        refused("net:1M,page=2M", REASON_UNSUPPORTED, "net has no parameter \"page\"; it has: none");
        refused("memory:1G,page", REASON_INVALID, "page takes =");
        refused("memory:1G,page>=2M", REASON_INVALID, "page takes the relation =");
        refused("memory:1G,page=4K", REASON_INVALID, "page=4K: a page is from 64K to 16G");
        refused("memory:1G,page=32G", REASON_INVALID, "from 64K to 16G");
        refused("memory:1G,page=3M", REASON_INVALID, "power of two");
        refused("memory:1G,page=big", REASON_INVALID, "page: ");
        refused("memory:1G,page=2M,page=1G", REASON_INVALID, "page is said twice");
        refused("cpu:1,share", REASON_INVALID, "share takes >=");
        refused("cpu:1,share=>0.5", REASON_INVALID, "share takes >=");
        refused("cpu:1,share>>>>>>0.5", REASON_INVALID, "share takes >=");
        refused("cpu:1,share<=0.5", REASON_INVALID, "share takes the relation >=");
        refused("cpu:1,share=0.5", REASON_INVALID, "share takes the relation >=");
        refused("cpu:1,share>=", REASON_INVALID, "share: ");
        refused("cpu:1,share>=0", REASON_INVALID, "share>=0: a share is from 0.001 to 1 of a CPU");
        refused("cpu:1,share>=1.001", REASON_INVALID, "share>=1.001: a share is from 0.001 to 1");
        refused("cpu:1,share>=0.0001", REASON_INVALID, "share: ");
        refused("cpu:1,exclusive=1", REASON_INVALID, "stands alone");
        refused("cpu:1,exclusive,exclusive", REASON_INVALID, "exclusive is said twice");
        refused("cpu:1,share>=0.5,share>=0.6", REASON_INVALID, "share is said twice");
        refused("cpu:1,share>=0.5,exclusive", REASON_INVALID,
                "exclude each other: an exclusive CPU is whole");
        refused("cpu:1,exclusive,exclusive,exclusive,exclusive,exclusive", REASON_INVALID,
                "more than 4 parameters");
        refused("cpu:2,id=1", REASON_INVALID, "id names one CPU: cpu:1,id=1");
        refused("cpu:1..2,id=1", REASON_INVALID, "id names one CPU");
        refused("cpu:1,id=1,node=0", REASON_INVALID, "exclude each other: the number of a CPU says its node");
        refused("cpu:1,id=4096", REASON_INVALID, "a id is from 0 to 4095");
        refused("memory:1G,id=1", REASON_UNSUPPORTED, "memory has no parameter \"id\"; it has: page, node");
}

static void test_length(void)
{
        /* The longest text that is taken has NEED_TEXT - 1 characters; what it says decides, not its end. */
        char text[NEED_TEXT + 8];
        memset(text, '1', sizeof(text));
        memcpy(text, "cpu:", 4);
        text[NEED_TEXT] = '\0';
        refused(text, REASON_INVALID, "at most 127 characters");
        text[NEED_TEXT - 1] = '\0';
        refused(text, REASON_INVALID, "whole number");
}

static struct need random_need(GRand *rand)
{
        struct need n = {.kind = g_rand_boolean(rand) ? COMPONENT_CPU : COMPONENT_MEMORY};
        int64_t bits =
                ((int64_t)g_rand_int(rand) << 21 | g_rand_int(rand) >> 11) >> g_rand_int_range(rand, 0, 53);
        int shift = g_rand_boolean(rand) ? 0 : 10 * g_rand_int_range(rand, 0, 5);
        n.amount = bits <= (int64_t)(UNITS_MAX - 1) >> shift ? bits << shift : bits;
        n.amount = CLAMP(n.amount, 1, UNITS_MAX - 1);
        n.amount_max = n.amount;
        if (g_rand_boolean(rand))
                n.amount_max += (int64_t)(g_rand_double(rand) * (double)(UNITS_MAX - 1 - n.amount));
        if (n.kind == COMPONENT_MEMORY && g_rand_boolean(rand))
                n.parameters[n.n_parameters++] = (struct parameter){
                        PARAMETER_PAGE, RELATION_EQUAL, INT64_C(1) << g_rand_int_range(rand, 16, 35)};
        if (g_rand_boolean(rand))
                n.parameters[n.n_parameters++] = (struct parameter){
                        n.kind == COMPONENT_MEMORY ? PARAMETER_MEMORY_NODE : PARAMETER_CPU_NODE,
                        RELATION_EQUAL, g_rand_int_range(rand, 0, COMPONENT_NUMBER_MAX + 1)};
        else if (n.kind == COMPONENT_CPU && n.amount_max == 1)
                n.parameters[n.n_parameters++] =
                        (struct parameter){PARAMETER_CPU_ID, RELATION_EQUAL,
                                           g_rand_int_range(rand, 0, COMPONENT_NUMBER_MAX + 1)};
        if (n.kind == COMPONENT_MEMORY)
                return n;
        switch (g_rand_int_range(rand, 0, 3)) {
        case 0:
                n.parameters[n.n_parameters++] = (struct parameter){PARAMETER_SHARE, RELATION_AT_LEAST,
                                                                    g_rand_int_range(rand, 1, 1001)};
                break;
        case 1:
                n.parameters[n.n_parameters++] = (struct parameter){PARAMETER_EXCLUSIVE, RELATION_EQUAL, 1};
                break;
        }
        return n;
}

static struct need through_parts(const struct need *n)
{
        struct need_part parts[NEED_PARAMETERS_MAX];
        struct need back;
        for (size_t i = 0; i < n->n_parameters; i++)
                parts[i] = need_part_of(&n->parameters[i]);
        g_assert_cmpint(need_from_parts(component_kinds[n->kind].name, n->amount,
                                        n->amount_max == n->amount ? 0 : n->amount_max, n->n_parameters,
                                        parts, &back, NULL),
                        ==, 0);
        return back;
}

static void test_round_trip(void)
{
        guint32 seed = (guint32)g_get_monotonic_time();
        g_test_message("seed %u", seed);
        GRand *rand = g_rand_new_with_seed(seed);
        for (int i = 0; i < 20000; i++) {
                struct need n = random_need(rand), back;
                struct err err = {0};
                char text[NEED_TEXT], again[NEED_TEXT];
                g_assert_cmpint(need_check(&n, &err), ==, 0);
                need_print(&n, text);
                if (need_parse(text, &back, &err) < 0)
                        g_error("%s: %s", text, err.sentence);
                if (!need_equal(&n, &back))
                        g_error("%s came back as %s", text, need_print(&back, again));
                back = through_parts(&n);
                g_assert_true(need_equal(&n, &back));
        }
        g_rand_free(rand);
}

/* The longest of all needs still fits into NEED_TEXT. */
static void test_print_longest(void)
{
        struct need n = {.kind = COMPONENT_MEMORY, .amount = UNITS_MAX - 2, .amount_max = UNITS_MAX - 1};
        char text[NEED_TEXT];
        g_assert_cmpstr(need_print(&n, text), ==, "memory:9007199254740990..9007199254740991");
        n = parsed("cpu:9007199254740990..9007199254740991,share>=0.999");
        g_assert_cmpstr(need_print(&n, text), ==, "cpu:9007199254740990..9007199254740991,share>=0.999");
}

static void test_equal(void)
{
        static const char *const texts[] = {"cpu:1",
                                            "cpu:2",
                                            "cpu:1..2",
                                            "cpu:1,exclusive",
                                            "cpu:1,share>=0.5",
                                            "cpu:1,share>=0.6",
                                            "memory:1M",
                                            "memory:1M..2M",
                                            "memory:1M,page=2M",
                                            "memory:1M,page=1G"};
        for (size_t i = 0; i < ARRAY_N(texts); i++)
                for (size_t j = 0; j < ARRAY_N(texts); j++) {
                        struct need a = parsed(texts[i]), b = parsed(texts[j]);
                        g_assert_true(need_equal(&a, &b) == (i == j));
                }
}

static void parts_refused(const char *kind, int64_t amount, int64_t amount_max, size_t n,
                          struct need_part part, enum reason reason, const char *says)
{
        struct need_part parts[NEED_PARAMETERS_MAX + 1];
        struct need need = {.amount = 77};
        struct err err = {0};
        for (size_t i = 0; i < ARRAY_N(parts); i++)
                parts[i] = part;
        g_assert_cmpint(need_from_parts(kind, amount, amount_max, n, parts, &need, &err), <, 0);
        g_assert_cmpstr(reason_name(err.reason), ==, reason_name(reason));
        if (!strstr(err.sentence, says))
                g_error("\"%s\" does not say \"%s\"", err.sentence, says);
        g_assert_cmpint(need.amount, ==, 77);
}

static void test_parts(void)
{
        struct need_part share = {
                .name = "share", .relation = RELATION_AT_LEAST, .has_value = true, .value = 900};
        struct need_part exclusive = {.name = "exclusive", .relation = RELATION_EQUAL};
        struct need need, same = parsed("cpu:2..3,share>=0.9");
        g_assert_cmpint(need_from_parts("cpu", 2, 3, 1, &share, &need, NULL), ==, 0);
        g_assert_true(need_equal(&need, &same));
        same = parsed("cpu:1,exclusive");
        g_assert_cmpint(need_from_parts("cpu", 1, 0, 1, &exclusive, &need, NULL), ==, 0);
        g_assert_true(need_equal(&need, &same));

        struct need_part p = share;
        parts_refused("gpu", 1, 0, 0, p, REASON_UNSUPPORTED, "no kind");
        parts_refused("c\tu", 1, 0, 0, p, REASON_INVALID, "a kind is a word");
        parts_refused("cpu", 0, 0, 0, p, REASON_INVALID, "at least 1");
        parts_refused("cpu", -1, 0, 0, p, REASON_INVALID, "at least 1");
        parts_refused("cpu", 2, 1, 0, p, REASON_INVALID, "ends below");
        parts_refused("cpu", 2, -1, 0, p, REASON_INVALID, "ends below");
        parts_refused("cpu", UNITS_MAX, 0, 0, p, REASON_INVALID, "2^53");
        parts_refused("cpu", 1, INT64_MAX, 0, p, REASON_INVALID, "2^53");
        parts_refused("cpu", 1, 0, 2, p, REASON_INVALID, "share is said twice");
        parts_refused("cpu", 1, 0, NEED_PARAMETERS_MAX + 1, p, REASON_INVALID, "more than 4");
        p.relation = RELATION_EQUAL;
        parts_refused("cpu", 1, 0, 1, p, REASON_INVALID, "takes the relation >=");
        p.relation = 0;
        parts_refused("cpu", 1, 0, 1, p, REASON_INVALID, "takes the relation >=");
        p = share;
        p.value = 1001;
        parts_refused("cpu", 1, 0, 1, p, REASON_INVALID, "is from 0.001 to 1 of a CPU");
        p.has_value = false;
        parts_refused("cpu", 1, 0, 1, p, REASON_INVALID, "parameters[0]: share takes a value");
        p = share;
        p.word = "half";
        parts_refused("cpu", 1, 0, 1, p, REASON_INVALID, "share takes a value");
        p = exclusive;
        p.word = "yes";
        parts_refused("cpu", 1, 0, 1, p, REASON_INVALID, "stands alone");
        p.word = NULL;
        p.has_value = true;
        parts_refused("cpu", 1, 0, 1, p, REASON_INVALID, "stands alone");
        p = exclusive;
        p.relation = RELATION_AT_LEAST;
        parts_refused("cpu", 1, 0, 1, p, REASON_INVALID, "takes the relation =");
        p.name = "clock";
        parts_refused("cpu", 1, 0, 1, p, REASON_UNSUPPORTED, "it has: share, exclusive");
        p.name = "a\"b";
        parts_refused("cpu", 1, 0, 1, p, REASON_INVALID, "word in small letters");
}

/* need_check() meets needs that no parser made. */
static void test_check(void)
{
        struct need n = parsed("cpu:1");
        struct err err = {0};
        n.kind = 0;
        g_assert_cmpint(need_check(&n, &err), <, 0);
        n.kind = COMPONENT_KIND_N;
        g_assert_cmpint(need_check(&n, &err), <, 0);
        n.kind = COMPONENT_DEVICE;
        g_assert_cmpint(need_check(&n, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        n = parsed("cpu:1,exclusive");
        n.kind = COMPONENT_MEMORY;
        g_assert_cmpint(need_check(&n, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        n = parsed("cpu:1,exclusive");
        n.parameters[0].id = PARAMETER_N;
        g_assert_cmpint(need_check(&n, &err), <, 0);
        n = parsed("cpu:1,exclusive");
        n.parameters[0].value = 2;
        g_assert_cmpint(need_check(&n, &err), <, 0);
        n = parsed("cpu:1");
        n.n_parameters = NEED_PARAMETERS_MAX + 1;
        g_assert_cmpint(need_check(&n, &err), <, 0);
}

static void test_needs(void)
{
        const char *const good[] = {"cpu:2,share>=0.9", "memory:1G"};
        const char *const twice[] = {"memory:1G", "cpu:1", "memory:2G"};
        const char *const bad[] = {"cpu:1", "memory:x"};
        const char *const many[] = {"cpu:1", "memory:1", "cpu:1", "memory:1", "cpu:1"};
        struct need needs[NEEDS_MAX] = {{.amount = 5}};
        struct err err = {0};
        g_assert_cmpint(needs_parse(twice, 3, needs, &err), <, 0);
        g_assert_cmpstr(err.sentence, ==, "memory is asked for twice; say it in one need");
        g_assert_cmpint(needs_parse(bad, 2, needs, &err), <, 0);
        g_assert_true(g_str_has_prefix(err.sentence, "need 2: "));
        g_assert_cmpint(needs_parse(many, 5, needs, &err), <, 0);
        g_assert_true(strstr(err.sentence, "1 to 4 needs"));
        g_assert_cmpint(needs_parse(many, 0, needs, &err), <, 0);
        g_assert_cmpint(needs[0].amount, ==, 5);
        g_assert_cmpint(needs_parse(good, 2, needs, &err), ==, 0);
        g_assert_cmpint(needs[1].amount, ==, 1 << 30);
}

static void test_tables(void)
{
        for (int k = 1; k < COMPONENT_KIND_N; k++)
                g_assert_cmpint(component_kind_from_name(component_kinds[k].name), ==, k);
        g_assert_cmpint(component_kind_from_name("none"), ==, 0);
        g_assert_cmpint(component_kind_from_name(""), ==, 0);
        for (int id = 1; id < PARAMETER_N; id++) {
                const struct parameter_row *row = &parameter_rows[id];
                g_assert_cmpint(parameter_find(row->kind, row->name), ==, id);
                g_assert_true(component_kinds[row->kind].provided);
                g_assert_cmpint(relation_from_name(relation_name(row->relation)), ==, row->relation);
                g_assert_cmpint(row->minimum, <=, row->maximum);
                /* Only complete rows ship (1.5). */
                g_assert_true(row->source && row->provider && row->measured && row->description && row->unit);
        }
        g_assert_cmpint(relation_from_name("=="), ==, 0);
        g_assert_cmpint(relation_from_name(""), ==, 0);
        g_assert_cmpstr(relation_name(0), ==, "?");
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/core/need/parse", test_parse);
        g_test_add_func("/core/need/refuse", test_refuse);
        g_test_add_func("/core/need/length", test_length);
        g_test_add_func("/core/need/round-trip", test_round_trip);
        g_test_add_func("/core/need/print-longest", test_print_longest);
        g_test_add_func("/core/need/equal", test_equal);
        g_test_add_func("/core/need/parts", test_parts);
        g_test_add_func("/core/need/check", test_check);
        g_test_add_func("/core/need/needs", test_needs);
        g_test_add_func("/core/need/tables", test_tables);
        return g_test_run();
}
