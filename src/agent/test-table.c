/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/table.h"
#include "base/str.h"

static char folder[64];
static struct table t;

static void setup(void)
{
        struct err err = {0};

        g_strlcpy(folder, "/tmp/mete-table-XXXXXX", sizeof(folder));
        g_assert_nonnull(mkdtemp(folder));
        g_assert_cmpint(table_open(&t, folder, "boot-1", &err), ==, 0);
}

static void again(const char *boot_id)
{
        struct err err = {0};

        table_done(&t);
        g_assert_cmpint(table_open(&t, folder, boot_id, &err), ==, 0);
}

static void teardown(void)
{
        char command[128];

        table_done(&t);
        (void)snprintf(command, sizeof(command), "rm -r %s", folder);
        g_assert_cmpint(system(command), ==, 0);
}

static void never(void *arg)
{
        g_assert_not_reached();
}

static int add(const char *id, uid_t uid, int64_t since_ms, struct err *err)
{
        struct row *row = calloc(1, sizeof(*row));

        *row = (struct row){.state = ROW_SENT,
                            .uid = uid,
                            .pid = 5,
                            .n_needs = 1,
                            .needs = {"cpu:1"},
                            .counter = API_COUNTER_POLICY_NONE,
                            .since_ms = since_ms};
        (void)STR_COPY(row->id, id);
        (void)STR_COPY(row->application, "a/5/0");
        loop_timer_init(&row->timer, never, NULL);
        int r = table_add(&t, row, err);
        if (r < 0)
                free(row);
        return r;
}

static void test_kept(void)
{
        struct err err = {0};

        setup();
        g_assert_cmpint(add("b", 1, 20, &err), ==, 0);
        g_assert_cmpint(add("a", 1, 10, &err), ==, 0);
        again("boot-1");
        g_assert_cmpuint(t.n, ==, 2);
        g_assert_cmpstr(t.rows[0]->id, ==, "a"); /* oldest first */
        g_assert_nonnull(table_find(&t, "b"));
        g_assert_null(table_find(&t, "c"));
        g_assert_cmpuint(table_open_rows(&t, 1), ==, 2);
        g_assert_cmpuint(table_open_rows(&t, 2), ==, 0);
        teardown();
}

static void test_only_what_is_dirty_is_written(void)
{
        struct err err = {0};

        setup();
        g_assert_cmpint(add("a", 1, 10, &err), ==, 0);
        uint64_t before = t.saves;
        g_assert_cmpint(table_save(&t, t.rows[0], &err), ==, 0);
        g_assert_cmpuint(t.saves, ==, before);
        g_assert_cmpint(row_step(t.rows[0], ROW_EV_GRANT, &err), ==, 1);
        g_assert_cmpint(table_save(&t, t.rows[0], &err), ==, 0);
        g_assert_cmpuint(t.saves, ==, before + 1);
        again("boot-1");
        g_assert_cmpint(t.rows[0]->state, ==, ROW_GRANTED);
        teardown();
}

static void test_another_boot(void)
{
        struct err err = {0};

        setup();
        g_assert_cmpint(add("a", 1, 10, &err), ==, 0);
        again("boot-2");
        g_assert_cmpuint(t.n, ==, 0);
        g_assert_cmpuint(t.dropped_files, ==, 1);
        again("boot-2");
        g_assert_cmpuint(t.dropped_files, ==, 0);
        teardown();
}

/* 256 rows, all open: no room, and nothing is lost. Then finished ones make room, the oldest first. */
static void test_full(void)
{
        struct err err = {0};
        char id[16];

        setup();
        for (int i = 0; i < TABLE_ROWS_MAX; i++) {
                (void)snprintf(id, sizeof(id), "r%d", i);
                g_assert_cmpint(add(id, 1000 + (uid_t)i % 10, i, &err), ==, 0);
        }
        g_assert_cmpint(add("more", 1, 300, &err), ==, -EBUSY);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        g_assert_null(table_find(&t, "more"));
        g_assert_cmpint(row_step(t.rows[7], ROW_EV_REFUSE, &err), ==, 1);
        g_assert_cmpint(row_step(t.rows[4], ROW_EV_REFUSE, &err), ==, 1);
        g_assert_cmpint(add("own", 1007, 301, &err), ==, 0); /* the same user's, though it is newer */
        g_assert_null(table_find(&t, "r7"));
        g_assert_cmpint(add("any", 1, 302, &err), ==, 0);
        g_assert_null(table_find(&t, "r4"));
        g_assert_cmpint(add("more", 1, 303, &err), ==, -EBUSY);
        again("boot-1");
        g_assert_cmpuint(t.n, ==, TABLE_ROWS_MAX);
        teardown();
}

static void test_not_a_folder(void)
{
        struct err err = {0};
        struct table other;

        g_assert_cmpint(table_open(&other, "/dev/null", "b", &err), <, 0);
        g_assert_nonnull(g_strrstr(err.sentence, "/dev/null"));
        g_assert_cmpint(table_open(&other, "/nonexistent/folder", "b", &err), <, 0);
}

static void test_private(void)
{
        struct stat st;
        struct err err = {0};
        char path[128];

        setup();
        g_assert_cmpint(add("a", 1, 10, &err), ==, 0);
        (void)snprintf(path, sizeof(path), "%s/r.a", folder);
        g_assert_cmpint(stat(path, &st), ==, 0);
        g_assert_cmpuint(st.st_mode & 0777, ==, 0600);
        teardown();
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/agent/table/kept", test_kept);
        g_test_add_func("/agent/table/only-what-is-dirty-is-written", test_only_what_is_dirty_is_written);
        g_test_add_func("/agent/table/another-boot", test_another_boot);
        g_test_add_func("/agent/table/full", test_full);
        g_test_add_func("/agent/table/not-a-folder", test_not_a_folder);
        g_test_add_func("/agent/table/private", test_private);
        return g_test_run();
}
