/* SPDX-License-Identifier: Apache-2.0 */
/* On a plain directory that looks like a resctrl tree; on the real one where it is mounted. */
#include <errno.h>
#include <ftw.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>
#include "host/resctrl.h"

struct tree {
        char *dir, *root, *state;
        struct resctrl_host host;
};

static void put(struct tree *t, const char *path, const char *text)
{
        g_autofree char *p = g_build_filename(t->root, path, NULL), *parent = g_path_get_dirname(p);
        g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
        g_assert_true(g_file_set_contents(p, text, -1, NULL));
}

static void is(struct tree *t, const char *path, const char *expected)
{
        g_autofree char *p = g_build_filename(t->root, path, NULL), *text = NULL;
        g_test_message("%s", path);
        g_assert_true(g_file_get_contents(p, &text, NULL, NULL));
        g_assert_cmpstr(g_strstrip(text), ==, expected);
}

static bool is_there(struct tree *t, const char *path)
{
        g_autofree char *p = g_build_filename(t->root, path, NULL);
        return g_file_test(p, G_FILE_TEST_EXISTS);
}

static void info(struct tree *t, const char *resource, const char *closids, const char *mask,
                 const char *shareable)
{
        const char *const rows[][2] = {
                {"num_closids",    closids  },
                {"cbm_mask",       mask     },
                {"min_cbm_bits",   "2\n"    },
                {"shareable_bits", shareable}
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                g_autofree char *path = g_strdup_printf("info/%s/%s", resource, rows[i][0]);
                put(t, path, rows[i][1]);
        }
}

static void init(struct tree *t)
{
        struct err err = {0};
        struct resctrl_options o = {
                .prefix = "mete", .state_dir = t->state, .root = t->root, .is_fake = true};
        if (resctrl_host_init(&t->host, &o, &err) < 0)
                g_error("%s", err.sentence);
}

/* Two caches of 12 ways, the uppermost shared with devices; bandwidth in steps of 10 %. */
static void set_up(struct tree *t, const char *schemata)
{
        t->dir = g_dir_make_tmp("mete-resctrl-XXXXXX", NULL);
        t->root = g_build_filename(t->dir, "resctrl", NULL);
        t->state = g_build_filename(t->dir, "state", NULL);
        g_assert_cmpint(g_mkdir(t->root, 0755) | g_mkdir(t->state, 0755), ==, 0);
        if (strstr(schemata, "L3CODE")) {
                info(t, "L3CODE", "4\n", "fff\n", "800\n");
                info(t, "L3DATA", "4\n", "fff\n", "800\n");
        } else {
                info(t, "L3", "4\n", "fff\n", "800\n");
        }
        put(t, "info/MB/num_closids", "8\n");
        put(t, "info/MB/bandwidth_gran", "10\n");
        put(t, "info/MB/min_bandwidth", "10\n");
        put(t, "info/L3_MON/num_rmids", "32\n");
        put(t, "info/last_cmd_status", "ok\n");
        put(t, "schemata", schemata);
        put(t, "tasks", "1\n2\n");
        put(t, "mode", "shareable\n");
        put(t, "mon_data/mon_L3_00/llc_occupancy", "1000\n");
        init(t);
}

static const char plain[] = "    MB:0=100;1=100\n    L3:0=fff;1=fff\n";

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return remove(path);
}

static void tear_down(struct tree *t)
{
        g_assert_cmpint(nftw(t->dir, drop, 16, FTW_DEPTH | FTW_PHYS), ==, 0);
        g_free(t->dir);
        g_free(t->root);
        g_free(t->state);
}

static void ok(int r, struct err *err)
{
        if (r < 0)
                g_error("%s", err->sentence);
        g_assert_cmpint(r, ==, 0);
}

static struct cpulist set_of(const char *text)
{
        struct cpulist l;
        g_assert_cmpint(cpulist_parse(text, &l, NULL), ==, 0);
        return l;
}

static int give(struct tree *t, const char *vm, uint32_t ways, const char *ids, uint32_t percent,
                const char *mb_ids, struct err *err)
{
        struct resctrl_want w = {.ways = ways,
                                 .cache_ids = set_of(ids),
                                 .membw_percent = percent,
                                 .membw_ids = set_of(mb_ids)};
        return resctrl_activate(&t->host, vm, &w, err);
}

static int by_name(gconstpointer a, gconstpointer b)
{
        return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* All files with what is in them, and all folders, of tree and state. */
static void collect(GString *s, const char *path)
{
        GDir *d = g_dir_open(path, 0, NULL);
        g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
        for (const char *name; d && (name = g_dir_read_name(d));)
                g_ptr_array_add(names, g_strdup(name));
        if (d)
                g_dir_close(d);
        g_ptr_array_sort(names, by_name);
        for (guint i = 0; i < names->len; i++) {
                g_autofree char *p = g_build_filename(path, names->pdata[i], NULL), *text = NULL;
                if (g_file_test(p, G_FILE_TEST_IS_DIR)) {
                        g_string_append_printf(s, "%s/\n", p);
                        collect(s, p);
                } else {
                        g_assert_true(g_file_get_contents(p, &text, NULL, NULL));
                        g_string_append_printf(s, "%s: %s", p, text);
                }
        }
}

static char *picture(struct tree *t)
{
        GString *s = g_string_new(NULL);
        collect(s, t->dir);
        return g_string_free(s, FALSE);
}

static void same(struct tree *t, const char *before)
{
        g_autofree char *now = picture(t);
        g_assert_cmpstr(now, ==, before);
}

static void test_give_and_take(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, plain);
        g_autofree char *before = picture(&t);
        for (int again = 0; again < 2; again++)
                ok(give(&t, "a", 4, "0-1", 25, "0", &err), &err);
        /* Low, as the uppermost is shared with devices and stays with the default group. */
        is(&t, "mete@a/schemata", "MB:0=30;1=100\nL3:0=f;1=f");
        is(&t, "schemata", "MB:0=70;1=100\nL3:0=ff0;1=ff0");
        is(&t, "mete@a/mode", "exclusive");
        g_assert_cmpint(resctrl_verify(&t.host, "a", getpid(), &err), ==, 1); /* it has not entered */
        for (int again = 0; again < 2; again++)
                ok(resctrl_enter(&t.host, "a", getpid(), &err), &err);
        ok(resctrl_verify(&t.host, "a", getpid(), &err), &err);

        /* One cache only: on the other it has what the default group has, and follows it. */
        ok(give(&t, "b", 3, "1", 0, "", &err), &err);
        is(&t, "mete@b/schemata", "MB:0=70;1=100\nL3:0=ff0;1=70");
        is(&t, "schemata", "MB:0=70;1=100\nL3:0=ff0;1=f80");
        is(&t, "mete@b/mode", "shareable");
        ok(give(&t, "c", 1, "0", 30, "0-1", &err), &err); /* two: fewer the hardware does not take */
        is(&t, "mete@c/schemata", "MB:0=30;1=30\nL3:0=30;1=f80");
        is(&t, "mete@b/schemata", "MB:0=40;1=70\nL3:0=fc0;1=70");
        is(&t, "schemata", "MB:0=40;1=70\nL3:0=fc0;1=f80");
        for (const char *const *vm = (const char *const[]){"a", "b", "c", NULL}; *vm; vm++)
                ok(resctrl_verify(&t.host, *vm, 0, &err), &err);

        /* a goes: its ways are not beside the default group's while others are between. */
        for (int again = 0; again < 2; again++)
                ok(resctrl_deactivate(&t.host, "a", &err), &err);
        g_assert_false(is_there(&t, "mete@a"));
        is(&t, "schemata", "MB:0=70;1=70\nL3:0=fc0;1=f80");
        is(&t, "mete@b/schemata", "MB:0=70;1=70\nL3:0=fc0;1=70");
        ok(resctrl_deactivate(&t.host, "c", &err), &err);
        is(&t, "schemata", "MB:0=100;1=100\nL3:0=fff;1=f80");
        /* What was not asked for again is given up; ways that serve stay. */
        ok(give(&t, "b", 3, "1", 50, "1", &err), &err);
        is(&t, "mete@b/schemata", "MB:0=100;1=50\nL3:0=fff;1=70");
        ok(give(&t, "b", 6, "0-1", 0, "", &err), &err);
        is(&t, "mete@b/schemata", "MB:0=100;1=100\nL3:0=3f;1=3f");
        is(&t, "mete@b/mode", "exclusive");
        ok(give(&t, "b", 2, "0", 0, "", &err), &err);
        is(&t, "mete@b/mode", "shareable");
        ok(resctrl_deactivate(&t.host, "b", &err), &err);
        same(&t, before);
        ok(resctrl_deactivate(&t.host, "b", &err), &err);
        same(&t, before);
        tear_down(&t);
}

/* Groups that somebody else made keep what they have; code and data get the same ways. */
static void test_others(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, "L3CODE:0=fff;1=fff\nL3DATA:0=fff;1=fff\nSMBA:0=2048\nMB:0=100;1=100\n");
        g_assert_true(t.host.is_cdp);
        put(&t, "operator/schemata", "L3CODE:0=3;1=3\nL3DATA:0=f;1=3\nMB:0=100;1=100\n");
        put(&t, "operator/mode", "exclusive\n");
        put(&t, "locked/schemata", "L3DATA:1=c\n");
        put(&t, "locksetup/schemata", "L3CODE:uninitialized\n");
        g_autofree char *before = picture(&t);
        /* Four classes, and all in use. */
        g_assert_cmpint(give(&t, "a", 3, "0", 0, "", &err), ==, -ENOSPC);
        g_assert_cmpint(err.reason, ==, REASON_NO_CAPACITY);
        g_assert_nonnull(strstr(err.sentence, "no class of service left"));
        same(&t, before);
        t.host.n_groups = 5;
        ok(give(&t, "a", 3, "0-1", 0, "", &err), &err);
        is(&t, "mete@a/schemata", "L3CODE:0=700;1=700\nL3DATA:0=700;1=700\nMB:0=100;1=100");
        is(&t, "schemata", "L3CODE:0=ff;1=ff\nL3DATA:0=ff;1=ff\nMB:0=100;1=100");
        /* Shrunk by an operator meanwhile: that stays, and is not widened at the end. */
        put(&t, "schemata", "L3CODE:0=f0;1=ff\nL3DATA:0=ff;1=ff\nMB:0=100;1=100\n");
        ok(resctrl_deactivate(&t.host, "a", &err), &err);
        is(&t, "schemata", "L3CODE:0=f0;1=fff\nL3DATA:0=fff;1=fff\nMB:0=100;1=100");
        is(&t, "operator/schemata", "L3CODE:0=3;1=3\nL3DATA:0=f;1=3\nMB:0=100;1=100");
        tear_down(&t);
}

static void test_no_capacity(void)
{
        struct tree t;
        set_up(&t, plain);
        g_autofree char *before = picture(&t);
        static const struct {
                uint32_t ways;
                const char *ids;
                uint32_t percent;
                const char *mb_ids;
                enum reason reason;
        } rows[] = {
                {0,  "",    0,   "",  REASON_INVALID    },
                {4,  "",    0,   "",  REASON_INVALID    },
                {0,  "0",   0,   "",  REASON_INVALID    },
                {33, "0",   0,   "",  REASON_INVALID    },
                {0,  "",    101, "0", REASON_INVALID    },
                {0,  "",    10,  "",  REASON_INVALID    },
                {4,  "0,2", 0,   "",  REASON_NOT_FOUND  },
                {0,  "",    10,  "7", REASON_NOT_FOUND  },
                {12, "0",   0,   "",  REASON_NO_CAPACITY}, /* one is shared with devices */
                {11, "0",   0,   "",  REASON_NO_CAPACITY}, /* two must stay */
                {0,  "",    91,  "0", REASON_NO_CAPACITY},
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct err err = {0};
                g_assert_cmpint(
                        give(&t, "a", rows[i].ways, rows[i].ids, rows[i].percent, rows[i].mb_ids, &err), <,
                        0);
                g_test_message("%s", err.sentence);
                g_assert_cmpint(err.reason, ==, rows[i].reason);
                same(&t, before);
        }
        struct err err = {0};
        ok(give(&t, "a", 6, "0", 60, "0", &err), &err);
        g_autofree char *with_a = picture(&t);
        g_assert_cmpint(give(&t, "b", 6, "0-1", 0, "", &err), ==, -ENOSPC);
        g_assert_cmpint(give(&t, "b", 0, "", 40, "0", &err), ==, -ENOSPC);
        g_assert_cmpint(give(&t, "../b", 2, "0", 0, "", &err), ==, -EINVAL);
        same(&t, with_a);
        g_assert_cmpint(resctrl_enter(&t.host, "b", getpid(), &err), ==, -ENOENT);
        g_assert_cmpint(resctrl_enter(&t.host, "a", INT_MAX, &err), ==, -ENOENT);
        same(&t, with_a);
        tear_down(&t);
}

/* The Nth change fails, for each N and each error, whatever is done: then everything is as before. */
static int left, with;

static int fault(const char *path)
{
        return --left == 0 ? with : 0;
}

static int act(struct tree *t, int what, struct err *err)
{
        switch (what) {
        case 0:
                return give(t, "b", 4, "0-1", 30, "0", err);
        case 1:
                return give(t, "a", 5, "0", 10, "1", err);
        case 2:
                return give(t, "a", 2, "0-1", 0, "", err);
        case 3:
                return resctrl_enter(&t->host, "a", getpid(), err);
        default:
                return resctrl_deactivate(&t->host, "a", err);
        }
}

static void test_every_failure(void)
{
        static const int errors[] = {ENOSPC, EINVAL, EACCES};
        int n_cases = 0;
        for (int is_busy = 0; is_busy < 2; is_busy++)
                for (int what = 0; what < 5; what++)
                        for (size_t e = 0; e < G_N_ELEMENTS(errors); e++)
                                for (int nth = 1;; nth++) {
                                        struct tree t;
                                        struct err err = {0};
                                        set_up(&t, plain);
                                        ok(give(&t, "a", 3, "0-1", 20, "0", &err), &err);
                                        if (is_busy)
                                                ok(give(&t, "z", 2, "1", 0, "", &err), &err);
                                        put(&t, "info/last_cmd_status", "the hardware is not amused\n");
                                        g_autofree char *before = picture(&t);
                                        left = nth;
                                        with = errors[e];
                                        cgroupfs_fault = fault;
                                        int r = act(&t, what, &err);
                                        cgroupfs_fault = NULL;
                                        if (left > 0) { /* it has fewer changes */
                                                ok(r, &err);
                                                g_assert_cmpint(nth, >, what == 3 ? 1 : 3);
                                                tear_down(&t);
                                                break;
                                        }
                                        g_assert_cmpint(r, ==, -errors[e]);
                                        g_test_message("%d %d: %s", what, nth, err.sentence);
                                        if (errors[e] == ENOSPC)
                                                g_assert_true(err.reason == REASON_NO_CAPACITY ||
                                                              strstr(err.sentence, "/state/"));
                                        g_assert_null(strstr(err.sentence, "not undone"));
                                        if (!strstr(err.sentence, "/state/") &&
                                            !strstr(err.sentence, "/tasks"))
                                                g_assert_nonnull(strstr(err.sentence, "not amused"));
                                        same(&t, before);
                                        ok(act(&t, what, &err), &err); /* and again: it works */
                                        tear_down(&t);
                                        n_cases++;
                                }
        g_test_message("%d cases", n_cases);
        g_assert_cmpint(n_cases, >, 120);
}

/* A crash is a change that is not undone: stopped at the Nth, repeated, then taken back: nothing is left. */
static void test_crash(void)
{
        struct tree t;
        for (int nth = 1; nth < 8; nth++) {
                struct err err = {0};
                set_up(&t, plain);
                g_autofree char *before = picture(&t);
                ok(give(&t, "z", 2, "1", 10, "0", &err), &err);
                g_autofree char *with_z = picture(&t);
                ok(give(&t, "a", 3, "0-1", 20, "0", &err), &err);
                g_autofree char *after = picture(&t);
                /* Backwards from the end: each earlier step not yet done. */
                if (nth > 1)
                        put(&t, "mete@a/mode", "shareable\n");
                if (nth > 2)
                        put(&t, "schemata", "MB:0=90;1=100\nL3:0=fff;1=ffc\n");
                if (nth > 3)
                        put(&t, "mete@a/schemata", plain);
                g_autofree char *group = g_build_filename(t.root, "mete@a", NULL);
                if (nth > 4)
                        ok(cgroupfs_remove(group, true, &err), &err);
                if (nth < 6) {
                        ok(give(&t, "a", 3, "0-1", 20, "0", &err), &err);
                        same(&t, after);
                }
                ok(resctrl_deactivate(&t.host, "a", &err), &err);
                same(&t, with_z);
                ok(resctrl_deactivate(&t.host, "z", &err), &err);
                same(&t, before);
                tear_down(&t);
        }
}

static bool is_a(const char *vm, void *arg)
{
        return strcmp(vm, "a") == 0;
}

static void test_sweep(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, plain);
        ok(give(&t, "a", 3, "0", 0, "", &err), &err);
        g_autofree char *before = picture(&t);
        ok(give(&t, "b", 3, "0-1", 0, "", &err), &err);
        put(&t, "mete@c/schemata", plain); /* its claim was dropped already */
        put(&t, "meteor/schemata", plain);
        ok(resctrl_sweep(&t.host, is_a, NULL, &err), &err);
        g_assert_false(is_there(&t, "mete@c"));
        g_assert_true(is_there(&t, "meteor"));
        g_autofree char *meteor = g_build_filename(t.root, "meteor", NULL);
        ok(cgroupfs_remove(meteor, true, &err), &err);
        same(&t, before);
        put(&t, "../state/resctrl", "default L3:0=fff;1=fff\nways ../x 0=3\n");
        g_assert_cmpint(resctrl_deactivate(&t.host, "a", &err), ==, -EPROTO);
        g_assert_cmpint(resctrl_activate(&t.host, "a", &(struct resctrl_want){0}, &err), ==, -EPROTO);
        tear_down(&t);
}

static void test_behind_our_back(void)
{
        static const struct {
                const char *path, *text, *what;
        } rows[] = {
                {"mete@a/schemata", "MB:0=30;1=100\nL3:0=1e;1=f\n",    "1e"       },
                {"mete@a/schemata", "MB:0=50;1=100\nL3:0=f;1=f\n",     "50"       },
                {"mete@a/mode",     "shareable\n",                     "shareable"},
                {"schemata",        "MB:0=70;1=100\nL3:0=ff8;1=ff0\n", "default"  },
                {"schemata",        "MB:0=80;1=100\nL3:0=ff0;1=ff0\n", "default"  },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct tree t;
                struct err err = {0};
                set_up(&t, plain);
                ok(give(&t, "a", 4, "0-1", 30, "0", &err), &err);
                g_autofree char *before = picture(&t);
                ok(resctrl_verify(&t.host, "a", 0, &err), &err);
                put(&t, rows[i].path, rows[i].text);
                g_assert_cmpint(resctrl_verify(&t.host, "a", 0, &err), ==, 1);
                g_test_message("%s", err.sentence);
                g_assert_cmpint(err.reason, ==, REASON_STALE);
                g_assert_null(strchr(err.sentence, '\n'));
                g_assert_nonnull(strstr(err.sentence, rows[i].what));
                ok(give(&t, "a", 4, "0-1", 30, "0", &err), &err); /* repaired */
                same(&t, before);
                tear_down(&t);
        }
        struct tree t;
        struct err err = {0};
        set_up(&t, plain);
        ok(give(&t, "a", 4, "0", 0, "", &err), &err);
        put(&t, "operator/schemata", "L3:0=8;1=fff\n");
        g_assert_cmpint(resctrl_verify(&t.host, "a", 0, &err), ==, 1);
        g_assert_nonnull(strstr(err.sentence, "operator"));
        ok(give(&t, "a", 4, "0", 0, "", &err), &err); /* it gets others */
        ok(resctrl_verify(&t.host, "a", 0, &err), &err);
        is(&t, "mete@a/schemata", "MB:0=100;1=100\nL3:0=780;1=fff");
        g_autofree char *group = g_build_filename(t.root, "mete@a", NULL);
        ok(cgroupfs_remove(group, true, &err), &err);
        g_assert_cmpint(resctrl_verify(&t.host, "a", 0, &err), ==, 1);
        g_assert_nonnull(strstr(err.sentence, "gone"));
        tear_down(&t);
}

static void test_read(void)
{
        struct tree t;
        struct err err = {0};
        struct resctrl_reading now;
        set_up(&t, plain);
        ok(give(&t, "a", 4, "0", 30, "1", &err), &err);
        put(&t, "mete@a/mon_data/mon_L3_00/llc_occupancy", "16711680\n");
        put(&t, "mete@a/mon_data/mon_L3_00/mbm_total_bytes", "123456789012\n");
        put(&t, "mete@a/mon_data/mon_L3_00/mbm_local_bytes", "Unavailable\n");
        put(&t, "mete@a/mon_data/mon_L3_01/llc_occupancy", "Error\n");
        ok(resctrl_read(&t.host, "a", &now, &err), &err);
        g_assert_cmpuint(now.n, ==, 2);
        g_assert_cmpint(now.at[0].occupancy_bytes, ==, 16711680);
        g_assert_cmpint(now.at[0].membw_total_bytes, ==, 123456789012);
        g_assert_cmpint(now.at[0].membw_local_bytes, ==, -1);
        g_assert_cmpuint(now.at[0].ways, ==, 0xf);
        g_assert_cmpuint(now.at[0].membw_percent, ==, 100);
        g_assert_cmpint(now.at[1].occupancy_bytes, ==, -1);
        g_assert_cmpuint(now.at[1].membw_percent, ==, 30);
        ok(resctrl_read(&t.host, NULL, &now, &err), &err);
        g_assert_cmpint(now.at[0].occupancy_bytes, ==, 1000);
        g_assert_cmpuint(now.at[0].ways, ==, 0xff0);
        g_assert_cmpint(resctrl_read(&t.host, "b", &now, &err), ==, -ENOENT);
        tear_down(&t);
}

/* 8 VMs given and taken by 8 threads at once: the lock keeps them apart. */
static gpointer worker(gpointer data)
{
        struct {
                struct tree *t;
                int number;
        } *w = data;
        char vm[16];
        (void)g_snprintf(vm, sizeof(vm), "v%d", w->number);
        for (int i = 0; i < 5; i++) {
                struct err err = {0};
                ok(give(w->t, vm, 0, "", 10, "0-1", &err), &err);
                ok(resctrl_verify(&w->t->host, vm, 0, &err), &err);
                ok(resctrl_deactivate(&w->t->host, vm, &err), &err);
        }
        return NULL;
}

static void test_threads(void)
{
        struct tree t;
        set_up(&t, plain);
        t.host.n_groups = 9;
        g_autofree char *before = picture(&t);
        struct {
                struct tree *t;
                int number;
        } w[8];
        GThread *threads[8];
        for (int i = 0; i < 8; i++) {
                w[i].t = &t;
                w[i].number = i;
                threads[i] = g_thread_new(NULL, worker, &w[i]);
        }
        for (int i = 0; i < 8; i++)
                (void)g_thread_join(threads[i]);
        same(&t, before);
        tear_down(&t);
}

static void test_schemata(void)
{
        static const char *const bad[] = {
                "L3\n",

                "L3:0=\n",      "L3:0=g\n",     "L3:x=f\n",         "L3:0=f;\n",
                "L3:0=f;0=f\n", "L3:0=-1\n",    "L3:0=1ffffffff\n", "L3:4096=f\n",
                "MB:0=f\n",     "L3:0=f 1=f\n", "MB:0=10;=3\n",     "L3:99999999999999999999=f\n"};
        struct resctrl_schemata *s = g_new0(struct resctrl_schemata, 1),
                                *again = g_new0(struct resctrl_schemata, 1);
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                struct err err = {0};
                g_test_message("%s", bad[i]);
                g_assert_cmpint(resctrl_schemata_parse(bad[i], 3, s, &err), ==, -EPROTO);
        }
        static const struct {
                const char *text, *printed;
        } good[] = {
                {"    L3:0=fff;1=0ff\n    MB:0=100;1= 10\n", "L3:0=fff;1=ff\nMB:0=100;1=10\n"},
                {"",                                         ""                              },
                {"L2:0=3;1=3;17=ffffffff",                   "L2:0=3;1=3;17=ffffffff\n"      },
                {"XYZ:0=strange\nL3:uninitialized\nL3:0=1",  "L3:0=1\n"                      },
        };
        g_autofree char *text = g_malloc(RESCTRL_TEXT);
        for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
                struct err err = {0};
                ok(resctrl_schemata_parse(good[i].text, 3, s, &err), &err);
                g_assert_cmpstr(resctrl_schemata_print(s, text), ==, good[i].printed);
                ok(resctrl_schemata_parse(text, 3, again, &err), &err);
                g_assert_true(resctrl_schemata_is_equal(s, again));
        }
        g_free(s);
        g_free(again);
        g_assert_cmpuint(resctrl_run(0), ==, 0);
        g_assert_cmpuint(resctrl_run(0xffffffff), ==, 0xffffffff);
        g_assert_cmpuint(resctrl_run(0x80000001), ==, 1);
        g_assert_cmpuint(resctrl_run(0xf0f), ==, 0xf);
        g_assert_cmpuint(resctrl_pick(0xfff, 0xfff, 4, 1), ==, 0xf00);
        g_assert_cmpuint(resctrl_pick(0x0ff, 0xfff, 4, 1), ==, 0x00f);
        g_assert_cmpuint(resctrl_pick(0xf0f, 0xfff, 5, 1), ==, 0);
        g_assert_cmpuint(resctrl_pick(0xff, 0xff, 8, 1), ==, 0);
        g_assert_cmpuint(resctrl_pick(0xffffffff, 0xffffffff, 32, 0), ==, 0xffffffff);
        g_assert_cmpuint(resctrl_pick(0xfff, 0xfff, 33, 0), ==, 0);
}

static void test_not_there(void)
{
        struct resctrl_host h;
        struct err err = {0};
        g_autofree char *dir = g_dir_make_tmp("mete-resctrl-XXXXXX", NULL);
        g_autofree char *mounts = g_build_filename(dir, "mountinfo", NULL);
        g_assert_true(g_file_set_contents(mounts, "25 1 0:22 / / rw - ext4 /dev/vda rw\n", -1, NULL));
        ok(resctrl_host_init(
                   &h, &(struct resctrl_options){.prefix = "mete", .state_dir = dir, .mountinfo = mounts},
                   &err),
           &err);
        g_assert_cmpstr(h.cache_fallback, !=, "");
        g_assert_cmpstr(h.membw_fallback, !=, "");
        struct resctrl_want w = {.ways = 2, .cache_ids = set_of("0")};
        g_assert_cmpint(resctrl_activate(&h, "a", &w, &err), ==, -EOPNOTSUPP);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        ok(resctrl_deactivate(&h, "a", &err), &err);
        ok(resctrl_verify(&h, "a", 0, &err), &err);
        g_remove(mounts);
        g_rmdir(dir);

        /* Not in percent; and no cache allocation. */
        struct tree t;
        set_up(&t, plain);
        put(&t, "schemata", "MB:0=2048;1=2048\n");
        put(&t, "info/L3/cbm_mask", "\n");
        init(&t);
        g_assert_cmpstr(t.host.membw_fallback, !=, "");
        g_assert_cmpstr(t.host.cache_fallback, !=, "");
        g_assert_cmpint(give(&t, "a", 2, "0", 0, "", &err), ==, -EOPNOTSUPP);
        g_assert_cmpint(give(&t, "a", 0, "", 10, "0", &err), ==, -EOPNOTSUPP);
        tear_down(&t);
}

static void test_ids(void)
{
        struct tree t;
        struct err err = {0};
        struct cpulist ids;
        set_up(&t, plain);
        for (int cpu = 0; cpu < 4; cpu++)
                for (int index = 0; index < 3; index++) {
                        const char *const rows[][2] = {
                                {"level", index == 2 ? "3\n" : "1\n"                                       },
                                {"type",  index == 0   ? "Instruction\n"
                                         : index == 1 ? "Data\n"
                                                      : "Unified\n"},
                                {"id",    index == 2 && cpu >= 2 ? "1\n" : "0\n"                           }
                        };
                        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                                g_autofree char *path = g_strdup_printf(
                                        "devices/system/cpu/cpu%d/cache/index%d/%s", cpu, index, rows[i][0]);
                                put(&t, path, rows[i][1]);
                        }
                }
        struct cpulist cpus = set_of("1-2");
        ok(resctrl_ids_of(t.root, &cpus, 3, &ids, &err), &err);
        g_assert_cmpuint(cpulist_count(&ids), ==, 2);
        cpus = set_of("3");
        ok(resctrl_ids_of(t.root, &cpus, 3, &ids, &err), &err);
        g_assert_true(cpulist_count(&ids) == 1 && cpulist_has(&ids, 1));
        g_assert_cmpint(resctrl_ids_of(t.root, &cpus, 2, &ids, &err), ==, -ENOENT);
        cpus = set_of("4");
        g_assert_cmpint(resctrl_ids_of(t.root, &cpus, 3, &ids, &err), ==, -ENOENT);
        tear_down(&t);
}

/* The kernel's own tree: this very process gets ways, and everything is as before. */
static void test_real(void)
{
        struct resctrl_host h;
        struct err err = {0};
        g_autofree char *dir = g_dir_make_tmp("mete-resctrl-XXXXXX", NULL);
        ok(resctrl_host_init(&h, &(struct resctrl_options){.prefix = "mete-test", .state_dir = dir}, &err),
           &err);
        if (h.level == 0) {
                g_test_skip(h.cache_fallback);
                g_rmdir(dir);
                return;
        }
        struct tree t = {.root = h.root};
        g_autofree char *path = g_build_filename(h.root, "schemata", NULL), *before = NULL, *after = NULL;
        g_assert_true(g_file_get_contents(path, &before, NULL, NULL));
        struct resctrl_want w = {.ways = h.least_ways};
        struct cpulist cpus = set_of("0");
        ok(resctrl_ids_of(NULL, &cpus, h.level, &w.cache_ids, &err), &err);
        ok(resctrl_activate(&h, "a", &w, &err), &err);
        ok(resctrl_enter(&h, "a", getpid(), &err), &err);
        ok(resctrl_verify(&h, "a", getpid(), &err), &err);
        ok(resctrl_deactivate(&h, "a", &err), &err);
        g_assert_true(g_file_get_contents(path, &after, NULL, NULL));
        g_assert_cmpstr(before, ==, after);
        g_assert_false(is_there(&t, "mete-test@a"));
        g_rmdir(dir);
}

int main(int argc, char **argv)
{
        if (access("/dev/shm", W_OK) == 0) /* thousands of small files, of which many are synced */
                (void)g_setenv("TMPDIR", "/dev/shm", TRUE);
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/resctrl/schemata", test_schemata);
        g_test_add_func("/resctrl/give-and-take", test_give_and_take);
        g_test_add_func("/resctrl/others", test_others);
        g_test_add_func("/resctrl/no-capacity", test_no_capacity);
        g_test_add_func("/resctrl/every-failure", test_every_failure);
        g_test_add_func("/resctrl/crash", test_crash);
        g_test_add_func("/resctrl/sweep", test_sweep);
        g_test_add_func("/resctrl/behind-our-back", test_behind_our_back);
        g_test_add_func("/resctrl/read", test_read);
        g_test_add_func("/resctrl/threads", test_threads);
        g_test_add_func("/resctrl/not-there", test_not_there);
        g_test_add_func("/resctrl/ids", test_ids);
        g_test_add_func("/resctrl/real", test_real);
        return g_test_run();
}
