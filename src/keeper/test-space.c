/* SPDX-License-Identifier: Apache-2.0 */
/* Several meted's on one keeper: none can name what is another's. */
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "keeper/space.h"

static struct keeper_config several(const char *extra)
{
        struct keeper_config c;
        struct err err = {0};
        g_autofree char *text =
                g_strdup_printf("[keeper]\nmeted_user=%s\nuid_first=70000\nuid_count=80\n", extra);
        if (keeper_config_parse(text, &c, &err))
                g_error("%s", err.sentence);
        return c;
}

static void entered(const struct keeper_config *c, size_t user, const char *params, const char *expected)
{
        struct err err = {0};
        json_t *from = json_loads(params, 0, NULL);
        json_t *to = space_enter(c, &c->users[user], from, &err);
        json_t *want = json_loads(expected, 0, NULL);
        if (!to || !json_equal(to, want))
                g_error("%s: %s", params, to ? json_dumps(to, 0) : err.sentence);
        json_decref(from);
        json_decref(to);
        json_decref(want);
}

static void refused(const struct keeper_config *c, size_t user, const char *params, enum reason reason)
{
        struct err err = {0};
        json_t *from = json_loads(params, 0, NULL);
        g_assert_null(space_enter(c, &c->users[user], from, &err));
        g_assert_cmpint(err.reason, ==, reason);
        json_decref(from);
}

static void test_one(void)
{
        struct keeper_config c = several("nobody");
        g_assert_cmpint(c.n_users, ==, 1);
        g_assert_cmpuint(space_slots(&c), ==, 80);
        entered(&c, 0, "{\"vm\": \"daemon..v\", \"slot\": 79, \"activation\": 5}",
                "{\"vm\": \"daemon..v\", \"slot\": 79, \"activation\": 5}");
        entered(&c, 0, "{\"activation\": 1125899906842623}", "{\"activation\": 1125899906842623}");
        refused(&c, 0, "{\"activation\": 1125899906842624}", REASON_INVALID); /* as with several */
        g_assert_cmpstr(space_name(&c, &c.users[0], "daemon..v"), ==, "daemon..v");
        keeper_config_done(&c);
}

static void test_several(void)
{
        struct keeper_config c = several("nobody; daemon");
        const struct keeper_user *first = space_of_uid(&c, c.users[0].uid),
                                 *second = space_of_uid(&c, c.users[1].uid);
        g_assert_cmpint(c.n_users, ==, 2);
        g_assert_true(first == &c.users[0] && second == &c.users[1]);
        g_assert_true(space_of_uid(&c, 0) == first);
        g_assert_null(space_of_uid(&c, 12345));
        g_assert_cmpuint(space_slots(&c), ==, 10);
        entered(&c, 0, "{\"vm\": \"v\", \"slot\": 9, \"activation\": 5}",
                "{\"vm\": \"v\", \"slot\": 9, \"activation\": 40}");
        entered(&c, 1, "{\"vm\": \"v\", \"slot\": 9, \"activation\": 5, \"item\": \"x\"}",
                "{\"vm\": \"daemon..v\", \"slot\": 19, \"activation\": 41, \"item\": \"x\"}");
        entered(&c, 1, "{\"vm\": \"daemon..v\"}", "{\"vm\": \"daemon..daemon..v\"}");
        entered(&c, 1, "{}", "{}");
        entered(&c, 1, "{\"activation\": 1125899906842623}", "{\"activation\": 9007199254740985}");
        refused(&c, 1, "{\"activation\": 1125899906842624}", REASON_INVALID);
        refused(&c, 0, "{\"vm\": \"daemon..v\"}", REASON_DENIED);
        refused(&c, 0, "{\"slot\": 10}", REASON_INVALID);
        refused(&c, 1, "{\"slot\": -1}", REASON_INVALID);
        g_assert_cmpstr(space_name(&c, first, "v"), ==, "v");
        g_assert_null(space_name(&c, second, "v"));
        g_assert_cmpstr(space_name(&c, second, "daemon..v"), ==, "v");
        g_assert_null(space_name(&c, first, "daemon..v"));
        g_assert_cmpuint(space_of_vm(&c, "daemon..v")->gid, ==, c.users[1].gid);
        keeper_config_done(&c);
}

/* What is not what the contract says is left to its decoder. */
static void test_wrong_types(void)
{
        struct keeper_config c = several("nobody;daemon");
        struct err err = {0};
        g_assert_null(space_enter(&c, &c.users[1], NULL, &err));
        entered(&c, 1, "{\"vm\": 5, \"activation\": \"x\"}", "{\"vm\": 5, \"activation\": \"x\"}");
        entered(&c, 1, "[1]", "[1]");
        keeper_config_done(&c);
}

static void test_config(void)
{
        struct keeper_config c;
        struct err err = {0};
        g_assert_cmpint(keeper_config_parse("[keeper]\nmeted_user=nobody;nobody\n", &c, &err), <, 0);
        g_assert_nonnull(strstr(err.sentence, "twice"));
        g_assert_cmpint(keeper_config_parse("[keeper]\nmeted_user=nobody;no-such-user\n", &c, &err), <, 0);
        g_assert_nonnull(strstr(err.sentence, "no-such-user"));
        g_assert_cmpint(keeper_config_parse("[keeper]\nmeted_user=0;1;2;3;4;5;6;7;8\n", &c, &err), <, 0);
        g_assert_nonnull(strstr(err.sentence, "at most 8"));
        g_assert_cmpint(keeper_config_parse("[keeper]\nmeted_user=nobody;daemon\nuid_count=7\n", &c, &err), <,
                        0);
        g_assert_nonnull(strstr(err.sentence, "uid_count"));
}

static const struct keeper_user *user(const struct keeper_config *c, const char *name)
{
        for (size_t i = 0; i < c->n_spaces; i++)
                if (strcmp(c->users[i].name, name) == 0)
                        return &c->users[i];
        g_error("%s has no space", name);
}

/* The order of the list means nothing once it is written down; who left keeps his, while he is used. */
static void test_numbers(void)
{
        struct space_row rows[KEEPER_USERS_MAX] = {0};
        size_t n = 0;
        struct err err = {0};
        struct keeper_config c = several("nobody;daemon");
        g_assert_cmpint(space_assign(&c, rows, &n, &err), ==, 0);
        g_assert_cmpuint(n, ==, 2);
        g_assert_cmpuint(user(&c, "nobody")->number, ==, 0);
        g_assert_cmpuint(user(&c, "daemon")->number, ==, 1);
        keeper_config_done(&c);

        c = several("games;daemon;nobody");
        g_assert_cmpint(space_assign(&c, rows, &n, &err), ==, 0);
        g_assert_cmpuint(user(&c, "nobody")->number, ==, 0);
        g_assert_cmpstr(user(&c, "nobody")->prefix, ==, "");
        g_assert_cmpuint(user(&c, "daemon")->number, ==, 1);
        g_assert_cmpstr(user(&c, "games")->prefix, ==, "games..");
        entered(&c, 0, "{\"vm\": \"v\", \"slot\": 1}", "{\"vm\": \"games..v\", \"slot\": 21}");
        entered(&c, 2, "{\"vm\": \"v\", \"slot\": 1}", "{\"vm\": \"v\", \"slot\": 1}");
        g_assert_true(space_of_vm(&c, "v") == user(&c, "nobody"));
        g_assert_true(space_of_vm(&c, "daemon..v") == user(&c, "daemon"));
        keeper_config_done(&c);

        /* nobody leaves, and has VMs; daemon, too, and has none: his number is free, nobody's is not */
        for (size_t i = 0; i < n; i++)
                rows[i].is_used = strcmp(rows[i].name, "nobody") == 0;
        c = several("games;man");
        g_assert_cmpint(space_assign(&c, rows, &n, &err), ==, 0);
        g_assert_cmpuint(n, ==, 3);
        g_assert_cmpuint(c.n_spaces, ==, 3);
        g_assert_cmpuint(user(&c, "games")->number, ==, 2);
        g_assert_cmpuint(user(&c, "man")->number, ==, 1);
        g_assert_true(space_of_vm(&c, "v") == user(&c, "nobody"));
        g_assert_null(space_of_uid(&c, 65534));
        g_assert_null(space_of_uid(&c, (uid_t)-1));
        refused(&c, 0, "{\"slot\": 10}", REASON_INVALID);
        keeper_config_done(&c);

        /* One alone who is not the first has a prefix, and an eighth, still. */
        for (size_t i = 0; i < n; i++)
                rows[i].is_used = false;
        c = several("games");
        g_assert_cmpint(space_assign(&c, rows, &n, &err), ==, 0);
        g_assert_cmpuint(n, ==, 1);
        g_assert_cmpuint(space_slots(&c), ==, 10);
        entered(&c, 0, "{\"vm\": \"v\"}", "{\"vm\": \"games..v\"}");
        keeper_config_done(&c);
}

static void test_no_number(void)
{
        struct space_row rows[KEEPER_USERS_MAX] = {0};
        size_t n = KEEPER_USERS_MAX;
        struct err err = {0};
        struct keeper_config c = several("nobody;daemon");
        for (size_t i = 0; i < n; i++) {
                (void)snprintf(rows[i].name, sizeof(rows[i].name), "left-%zu", i);
                rows[i].number = (unsigned)i;
                rows[i].is_used = true;
        }
        g_assert_cmpint(space_assign(&c, rows, &n, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        rows[3].is_used = rows[6].is_used = false;
        g_assert_cmpint(space_assign(&c, rows, &n, &err), ==, 0);
        g_assert_cmpuint(user(&c, "nobody")->number, ==, 3);
        g_assert_cmpuint(user(&c, "daemon")->number, ==, 6);
        g_assert_cmpuint(c.n_spaces, ==, KEEPER_USERS_MAX);
        keeper_config_done(&c);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/space/one", test_one);
        g_test_add_func("/space/several", test_several);
        g_test_add_func("/space/wrong-types", test_wrong_types);
        g_test_add_func("/space/config", test_config);
        g_test_add_func("/space/numbers", test_numbers);
        g_test_add_func("/space/no-number", test_no_number);
        return g_test_run();
}
