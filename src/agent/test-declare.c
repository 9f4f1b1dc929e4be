/* SPDX-License-Identifier: Apache-2.0 */
/* What is declared: kept, bounded, and due when it is. */
#include "agent/declare.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

enum { HOUR = 3600000, DAY = 24 * HOUR };
static const int64_t NOW = INT64_C(1800000000000);

static char dir[] = "/tmp/mete-declare-XXXXXX";
static struct declarations d;

static void begin(void)
{
        strcpy(dir + strlen(dir) - 6, "XXXXXX");
        g_assert_nonnull(g_mkdtemp(dir));
        declarations_init(&d, dir);
        g_assert_cmpuint(d.n, ==, 0);
}

static void end(void)
{
        g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
}

/* every: 0 is once. */
static int add(uid_t uid, const char *name, const char *need, int64_t start, int64_t length, int64_t every,
               struct err *err)
{
        struct api_app_declare q = {.start_ms = start,
                                    .for_ms = length,
                                    .has_every_ms = every > 0,
                                    .every_ms = every,
                                    .has_name = name != NULL};
        g_strlcpy(q.need, need, sizeof(q.need));
        g_strlcpy(q.name, name ? name : "", sizeof(q.name));
        return declarations_add(&d, uid, &q, NOW, err) ? 0 : -err->code;
}

static int64_t needed(enum component_kind kind, int64_t from, int64_t until)
{
        const char *name;
        return declarations_need(&d, kind, from, until, &name);
}

static void test_when(void)
{
        struct err err = {0};
        const char *name;
        begin();
        g_assert_cmpint(add(1, "night", "memory:2G", NOW + HOUR, 2 * HOUR, DAY, &err), ==, 0);
        g_assert_cmpint(add(1, "once", "memory:1G", NOW + 2 * HOUR, HOUR, 0, &err), ==, 0);
        g_assert_cmpint(add(2, "cpus", "cpu:3", NOW, DAY, 0, &err), ==, 0);
        g_assert_cmpint(needed(COMPONENT_MEMORY, NOW, NOW), ==, 0);
        g_assert_cmpint(needed(COMPONENT_CPU, NOW, NOW), ==, 3);
        /* What begins within the lead is there; what ends now is not. */
        g_assert_cmpint(needed(COMPONENT_MEMORY, NOW, NOW + HOUR - 1), ==, 0);
        g_assert_cmpint(needed(COMPONENT_MEMORY, NOW, NOW + HOUR), ==, INT64_C(2) << 30);
        g_assert_cmpint(declarations_need(&d, COMPONENT_MEMORY, NOW + 2 * HOUR, NOW + 2 * HOUR, &name), ==,
                        INT64_C(3) << 30);
        g_assert_cmpstr(name, ==, "night");
        g_assert_cmpint(needed(COMPONENT_MEMORY, NOW + 3 * HOUR - 1, NOW + 3 * HOUR - 1), ==,
                        INT64_C(3) << 30);
        g_assert_cmpint(needed(COMPONENT_MEMORY, NOW + 3 * HOUR, NOW + 3 * HOUR), ==, 0);
        /* Every day again, in years too, and the other one not. */
        for (int64_t day = 1; day < 1000; day += 37) {
                int64_t at = NOW + day * DAY;
                g_assert_cmpint(needed(COMPONENT_MEMORY, at + HOUR - 1, at + HOUR - 1), ==, 0);
                g_assert_cmpint(needed(COMPONENT_MEMORY, at + HOUR, at + HOUR), ==, INT64_C(2) << 30);
                g_assert_cmpint(needed(COMPONENT_MEMORY, at + 3 * HOUR - 1, at + 3 * HOUR - 1), ==,
                                INT64_C(2) << 30);
                g_assert_cmpint(needed(COMPONENT_MEMORY, at + 3 * HOUR, at + 3 * HOUR), ==, 0);
        }
        declarations_tidy(&d, NOW + 2 * DAY);
        g_assert_cmpuint(d.n, ==, 1);
        end();
}

static void test_refused(void)
{
        static const struct {
                const char *need;
                int64_t start, length, every;
                enum reason reason;
        } rows[] = {
                {"memory:0",      0,           HOUR,     0,    REASON_INVALID    },
                {"cpu:0",         0,           HOUR,     0,    REASON_INVALID    },
                {"memory",        0,           HOUR,     0,    REASON_INVALID    },
                {"memory:-1G",    0,           HOUR,     0,    REASON_INVALID    },
                {"",              0,           HOUR,     0,    REASON_INVALID    },
                {"gold:3",        0,           HOUR,     0,    REASON_UNSUPPORTED},
                {"net:200M",      0,           HOUR,     0,    REASON_UNSUPPORTED},
                {"memory:1G..2G", 0,           HOUR,     0,    REASON_UNSUPPORTED},
                {"cpu:1,id=5",    0,           HOUR,     0,    REASON_UNSUPPORTED},
                {"memory:1G",     -HOUR,       HOUR,     0,    REASON_INVALID    },
                {"memory:1G",     0,           2 * HOUR, HOUR, REASON_INVALID    },
                {"memory:1G",     DAY * 367LL, HOUR,     0,    REASON_INVALID    },
                {"memory:1G",     DAY * 367LL, HOUR,     DAY,  REASON_INVALID    },
        };
        begin();
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct err err = {0};
                g_assert_cmpint(
                        add(1, "a", rows[i].need, NOW + rows[i].start, rows[i].length, rows[i].every, &err),
                        <, 0);
                g_assert_cmpint(err.reason, ==, rows[i].reason);
                g_assert_cmpuint(d.n, ==, 0);
        }
        /* One that began, or began again and again, is as good as any. */
        struct err err = {0};
        g_assert_cmpint(add(1, NULL, "memory:1G", NOW - HOUR, HOUR + 1, 0, &err), ==, 0);
        g_assert_cmpint(add(1, NULL, "memory:1G", NOW - 100 * (int64_t)DAY, HOUR, DAY, &err), ==, 0);
        g_assert_cmpint(needed(COMPONENT_MEMORY, NOW, NOW), ==, INT64_C(2) << 30);
        end();
}

static void test_whose(void)
{
        struct err err = {0};
        begin();
        g_assert_cmpint(add(1, "a", "cpu:1", NOW, HOUR, 0, &err), ==, 0);
        g_assert_cmpint(add(1, "a", "cpu:4", NOW, HOUR, 0, &err), ==, 0); /* in its place */
        g_assert_cmpuint(d.n, ==, 1);
        g_assert_cmpint(needed(COMPONENT_CPU, NOW, NOW), ==, 4);
        g_assert_cmpint(declarations_drop(&d, 2, "a", &err), ==, -EPERM);
        g_assert_cmpint(declarations_drop(&d, 2, "b", &err), ==, -ENOENT);
        /* Another user's of that name is another one. */
        g_assert_cmpint(add(2, "a", "cpu:2", NOW, HOUR, 0, &err), ==, 0);
        g_assert_cmpuint(d.n, ==, 2);
        g_assert_cmpint(needed(COMPONENT_CPU, NOW, NOW), ==, 6);
        g_assert_cmpint(declarations_drop(&d, 2, "a", &err), ==, 0);
        g_assert_cmpint(needed(COMPONENT_CPU, NOW, NOW), ==, 4);
        g_assert_cmpint(declarations_drop(&d, 2, "a", &err), ==, -EPERM);
        g_assert_cmpint(declarations_drop(&d, 0, "a", &err), ==, 0);
        g_assert_cmpuint(d.n, ==, 0);
        end();
}

static void test_bounds(void)
{
        struct err err = {0};
        uid_t uid = 1;
        begin();
        for (int i = 0; i < DECLARE_MAX - DECLARE_PER_USER_MAX; i++) {
                if (i > 0 && i % DECLARE_PER_USER_MAX == 0) {
                        g_assert_cmpint(add(uid, NULL, "cpu:1", NOW, HOUR, 0, &err), ==, -EBUSY);
                        uid++;
                }
                g_assert_cmpint(add(uid, NULL, "cpu:1", NOW, HOUR, 0, &err), ==, 0);
        }
        g_assert_cmpint(add(77, NULL, "cpu:1", NOW, HOUR, 0, &err), ==, -EBUSY);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        for (int i = 0; i < DECLARE_PER_USER_MAX; i++) /* root's places are left */
                g_assert_cmpint(add(0, NULL, "cpu:1", NOW, HOUR, 0, &err), ==, 0);
        g_assert_cmpint(add(0, NULL, "cpu:1", NOW, HOUR, 0, &err), ==, -EBUSY);
        g_assert_cmpint(add(77, NULL, "cpu:1", NOW, HOUR, 0, &err), ==, -EBUSY);
        g_assert_cmpint(add(1, "d1", "cpu:2", NOW, HOUR, 0, &err), ==, 0); /* no more of them */
        g_assert_cmpint(needed(COMPONENT_CPU, NOW, NOW), ==, DECLARE_MAX + 1);
        for (size_t i = 0; i < d.n; i++)
                for (size_t k = 0; k < i; k++)
                        g_assert_cmpstr(d.rows[i].name, !=, d.rows[k].name);
        end();
}

static void test_kept(void)
{
        struct err err = {0};
        begin();
        g_assert_cmpint(add(1, "a", "memory:2G", NOW + HOUR, HOUR, DAY, &err), ==, 0);
        g_assert_cmpint(add(2, "b", "cpu:2", NOW, HOUR, 0, &err), ==, 0);
        g_assert_cmpint(declarations_drop(&d, 2, "b", &err), ==, 0);
        struct declarations before = d;
        declarations_init(&d, dir);
        g_assert_cmpuint(d.n, ==, 1);
        g_assert_cmpstr(d.rows[0].name, ==, "a");
        g_assert_cmpint(d.rows[0].every_ms, ==, DAY);
        g_assert_cmpuint(d.rows[0].uid, ==, 1);
        g_assert_cmpstr(before.path, ==, d.path);
        /* Not written: not declared, and not dropped. */
        g_assert_cmpint(g_unlink(d.path), ==, 0);
        g_assert_cmpint(g_rmdir(dir), ==, 0);
        g_assert_cmpint(add(1, "c", "cpu:1", NOW, HOUR, 0, &err), <, 0);
        g_assert_cmpint(add(1, "a", "cpu:1", NOW, HOUR, 0, &err), <, 0);
        g_assert_cmpint(declarations_drop(&d, 1, "a", &err), <, 0);
        g_assert_cmpuint(d.n, ==, 1);
        g_assert_cmpstr(d.rows[0].need, ==, "memory:2G");
        end();
}

#define STRANGE                                                                                              \
        "{\"declarations\":[{\"name\":\"a\",\"uid\":1,\"need\":\"gold:1\",\"start_ms\":1,\"for_ms\":1}]}"

static void test_strange_file(void)
{
        static const char *const texts[] = {"", "{}", "[]", "{\"declarations\":[{\"name\":\"a\"}]}", STRANGE};
        for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
                begin();
                g_assert_true(g_file_set_contents(d.path, texts[i], -1, NULL));
                declarations_init(&d, dir);
                g_assert_cmpuint(d.n, ==, 0);
                end();
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/agent/declare/when", test_when);
        g_test_add_func("/agent/declare/refused", test_refused);
        g_test_add_func("/agent/declare/whose", test_whose);
        g_test_add_func("/agent/declare/bounds", test_bounds);
        g_test_add_func("/agent/declare/kept", test_kept);
        g_test_add_func("/agent/declare/strange-file", test_strange_file);
        return g_test_run();
}
