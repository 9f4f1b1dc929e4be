/* SPDX-License-Identifier: Apache-2.0 */
/* On plain directories; and huge pages, a bound, and numa_maps on this very machine, where that is allowed.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <linux/mman.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "host/memory.h"

#define MIB   ((int64_t)1024 * 1024)
#define SMALL "sys/devices/system/node/node0/hugepages/hugepages-2048kB/"
#define OTHER "sys/devices/system/node/node1/hugepages/hugepages-1048576kB/"

struct tree {
        char *dir, *state, *sysfs, *proc, *mountinfo;
        struct memory_host host;
};

static void put(struct tree *t, const char *path, const char *text)
{
        g_autofree char *p = g_build_filename(t->dir, path, NULL), *parent = g_path_get_dirname(p);
        g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
        g_assert_true(g_file_set_contents(p, text, -1, NULL));
}

static void is(struct tree *t, const char *path, const char *expected)
{
        g_autofree char *p = g_build_filename(t->dir, path, NULL), *text = NULL;
        g_test_message("%s", path);
        g_assert_true(g_file_get_contents(p, &text, NULL, NULL));
        g_assert_cmpstr(g_strstrip(text), ==, expected);
}

static bool is_there(struct tree *t, const char *path)
{
        g_autofree char *p = g_build_filename(t->dir, path, NULL);
        return g_file_test(p, G_FILE_TEST_EXISTS);
}

static void ok(int r, struct err *err)
{
        if (r < 0)
                g_error("%s", err->sentence);
        g_assert_cmpint(r, ==, 0);
}

static void init(struct tree *t)
{
        struct err err = {0};
        struct memory_options o = {.prefix = "mete/x",
                                   .state_dir = t->state,
                                   .sysfs = t->sysfs,
                                   .proc = t->proc,
                                   .mountinfo = t->mountinfo,
                                   .is_fake = true};
        ok(memory_host_init(&t->host, &o, &err), &err);
}

static void set_up(struct tree *t, bool is_v2)
{
        t->dir = g_dir_make_tmp("mete-memory-XXXXXX", NULL);
        t->state = g_build_filename(t->dir, "state", NULL);
        t->sysfs = g_build_filename(t->dir, "sys", NULL);
        t->proc = g_build_filename(t->dir, "proc", NULL);
        t->mountinfo = g_build_filename(t->dir, "mountinfo", NULL);
        g_assert_cmpint(g_mkdir(t->state, 0755), ==, 0);
        static const char *const pools[] = {SMALL, OTHER, "sys/kernel/mm/hugepages/hugepages-2048kB/"};
        for (size_t i = 0; i < G_N_ELEMENTS(pools); i++) {
                const char *const rows[][2] = {
                        {"nr_hugepages",      "10\n"},
                        {"free_hugepages",    "7\n" },
                        {"surplus_hugepages", "0\n" }
                };
                for (size_t j = 0; j < G_N_ELEMENTS(rows); j++) {
                        g_autofree char *path = g_strconcat(pools[i], rows[j][0], NULL);
                        put(t, path, rows[j][1]);
                }
        }
        put(t, "sys/devices/system/node/node1/meminfo",
            "Node 1 MemTotal:        8874196 kB\nNode 1 MemFree:         7667196 kB\nNode 1 MemUsed: 1 kB\n");
        put(t, "proc/meminfo", "MemTotal:        16000 kB\nMemFree:         8000 kB\n");
        put(t, "v1/tasks", "");
        put(t, "v2/cgroup.controllers", "cpuset cpu io memory\n");
        g_autofree char *text =
                g_strdup_printf(is_v2 ? "30 23 0:27 / %s/v2 rw shared:4 - cgroup2 cgroup2 rw\n"
                                      : "31 25 0:28 / %s/v1 rw,relatime - cgroup cgroup rw,memory\n",
                                t->dir);
        put(t, "mountinfo", text);
        init(t);
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return remove(path);
}

static void tear_down(struct tree *t)
{
        g_assert_cmpint(nftw(t->dir, drop, 16, FTW_DEPTH | FTW_PHYS), ==, 0);
        g_free(t->dir);
        g_free(t->state);
        g_free(t->sysfs);
        g_free(t->proc);
        g_free(t->mountinfo);
}

static const struct memory_holder *by(const char *vm)
{
        static struct memory_holder holder;
        holder = (struct memory_holder){.item = "i"};
        (void)g_strlcpy(holder.vm, vm, sizeof(holder.vm));
        return &holder;
}

/* What is kept stays, and a pool that somebody lowered is raised to what VMs hold when that is said again. */
static void test_items(void)
{
        static const char kept[][32] = {"ram0"};
        static const struct memory_keep keep = {kept, 1};
        const struct memory_holder ram = {"v", "ram0"}, dimm = {"v", "dimm0"}, other = {"w", "dimm0"};
        struct memory_held held;
        struct tree t;
        struct err err = {0};
        set_up(&t, false);
        ok(memory_pages_set(&t.host, &ram, 0, 2 * MIB, 4, &err), &err);
        ok(memory_pages_set(&t.host, &dimm, 0, 2 * MIB, 2, &err), &err);
        ok(memory_pages_set(&t.host, &other, 0, 2 * MIB, 1, &err), &err);
        ok(memory_pages_set(&t.host, &dimm, 1, 1024 * MIB, 1, &err), &err);
        is(&t, SMALL "nr_hugepages", "17");
        ok(memory_pages_release(&t.host, "v", &keep, &err), &err);
        is(&t, SMALL "nr_hugepages", "15");
        is(&t, OTHER "nr_hugepages", "10");
        g_assert_cmpint(memory_pages_find(&t.host, &ram, &held, &err), ==, 1);
        g_assert_cmpint(memory_pages_find(&t.host, &dimm, &held, &err), ==, 0);
        put(&t, SMALL "nr_hugepages", "3\n");
        ok(memory_pages_set(&t.host, &ram, 0, 2 * MIB, 4, &err), &err);
        is(&t, SMALL "nr_hugepages", "5"); /* what was the administrator's own he took */
        ok(memory_pages_verify(&t.host, 0, 2 * MIB, &err), &err);
        ok(memory_pages_release(&t.host, "v", NULL, &err), &err);
        ok(memory_pages_release(&t.host, "w", NULL, &err), &err);
        is(&t, SMALL "nr_hugepages", "0");
        tear_down(&t);
}

static void test_pages(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, false);
        for (int again = 0; again < 2; again++)
                ok(memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 4, &err), &err);
        is(&t, SMALL "nr_hugepages", "14");
        ok(memory_pages_set(&t.host, by("b"), 0, 2 * MIB, 3, &err), &err);
        ok(memory_pages_set(&t.host, by("a"), 1, 1024 * MIB, 1, &err), &err);
        is(&t, SMALL "nr_hugepages", "17");
        is(&t, OTHER "nr_hugepages", "11");
        ok(memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 2, &err), &err);
        is(&t, SMALL "nr_hugepages", "15");
        struct memory_held held;
        g_assert_cmpint(memory_pages_find(&t.host, by("a"), &held, &err), ==, 1);
        g_assert_true((held.node == 0 && held.page_bytes == 2 * MIB && held.pages == 2) ||
                      (held.node == 1 && held.page_bytes == 1024 * MIB && held.pages == 1));
        g_assert_cmpint(memory_pages_find(&t.host, by("c"), &held, &err), ==, 0);
        ok(memory_pages_verify(&t.host, 0, 2 * MIB, &err), &err);
        /* An operator adds some: they stay. */
        put(&t, SMALL "nr_hugepages", "20\n");
        for (int again = 0; again < 2; again++)
                ok(memory_pages_release(&t.host, "a", NULL, &err), &err);
        is(&t, SMALL "nr_hugepages", "18");
        is(&t, OTHER "nr_hugepages", "10");
        g_assert_false(is_there(&t, "state/hugepages-node1-1048576kB"));
        /* In use: they stay held. */
        put(&t, SMALL "free_hugepages", "2\n");
        g_assert_cmpint(memory_pages_release(&t.host, "b", NULL, &err), ==, -EBUSY);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        is(&t, SMALL "nr_hugepages", "18");
        /* Lowered by somebody: noticed, and his word stands. */
        put(&t, SMALL "nr_hugepages", "2\n");
        g_assert_cmpint(memory_pages_verify(&t.host, 0, 2 * MIB, &err), ==, 1);
        g_assert_cmpint(err.reason, ==, REASON_STALE);
        ok(memory_pages_release(&t.host, "b", NULL, &err), &err);
        is(&t, SMALL "nr_hugepages", "2");
        g_assert_false(is_there(&t, "state/hugepages-node0-2048kB"));
        static const struct {
                const char *vm;
                int node;
                int64_t page_bytes, n;
                enum reason reason;
        } bad[] = {
                {"a",    2,    2 * MIB, 1,  REASON_NOT_FOUND},
                {"a",    -1,   2 * MIB, 1,  REASON_NOT_FOUND},
                {"a",    1024, 2 * MIB, 1,  REASON_NOT_FOUND},
                {"a",    0,    4 * MIB, 1,  REASON_NOT_FOUND},
                {"a",    0,    1,       1,  REASON_NOT_FOUND},
                {"a",    0,    2 * MIB, -1, REASON_INVALID  },
                {"../a", 0,    2 * MIB, 1,  REASON_INVALID  },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                g_assert_cmpint(memory_pages_set(&t.host, by(bad[i].vm), bad[i].node, bad[i].page_bytes,
                                                 bad[i].n, &err),
                                <, 0);
                g_assert_cmpint(err.reason, ==, bad[i].reason);
        }
        tear_down(&t);
}

static struct tree *now;
static int left, with, n_writes;
static const char *surplus;

static int fault(const char *path)
{
        return --left == 0 ? with : 0;
}

/* The kernel counts fewer than were asked for, once. */
static int partial(const char *path)
{
        if (strstr(path, "nr_hugepages"))
                put(now, SMALL "surplus_hugepages", n_writes++ == 0 ? surplus : "0\n");
        return 0;
}

static void test_partial(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, false);
        now = &t;
        n_writes = 0;
        surplus = "2\n";
        cgroupfs_fault = partial;
        int r = memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 4, &err);
        cgroupfs_fault = NULL;
        g_assert_cmpint(r, ==, -ENOSPC);
        g_test_message("%s", err.sentence);
        g_assert_cmpint(err.reason, ==, REASON_NO_CAPACITY);
        g_assert_nonnull(strstr(err.sentence, "4 pages are wanted, the kernel found 2"));
        is(&t, SMALL "nr_hugepages", "10");
        g_assert_cmpint(n_writes, ==, 2);
        g_assert_false(is_there(&t, "state/hugepages-node0-2048kB"));
        /* Given back, and the kernel keeps one, as it came into use just now. */
        ok(memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 4, &err), &err);
        n_writes = 0;
        surplus = "-1\n";
        cgroupfs_fault = partial;
        r = memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 0, &err);
        cgroupfs_fault = NULL;
        g_assert_cmpint(r, ==, -EBUSY);
        is(&t, SMALL "nr_hugepages", "14");
        is(&t, "state/hugepages-node0-2048kB", "held a i 4");
        tear_down(&t);
}

static void test_every_failure(void)
{
        static const int errors[] = {ENOSPC, EINVAL, EACCES};
        int n_cases = 0;
        for (int what = 0; what < 3; what++)
                for (size_t e = 0; e < G_N_ELEMENTS(errors); e++)
                        for (int nth = 1;; nth++) {
                                struct tree t;
                                struct err err = {0};
                                const int64_t wanted[] = {9, 2, 0};
                                set_up(&t, false);
                                ok(memory_pages_set(&t.host, by("z"), 0, 2 * MIB, 1, &err), &err);
                                ok(memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 5, &err), &err);
                                left = nth;
                                with = errors[e];
                                cgroupfs_fault = fault;
                                int r = memory_pages_set(&t.host, by("a"), 0, 2 * MIB, wanted[what], &err);
                                cgroupfs_fault = NULL;
                                if (left > 0) {
                                        ok(r, &err);
                                        g_assert_cmpint(nth, ==, 4);
                                        tear_down(&t);
                                        break;
                                }
                                g_assert_cmpint(r, ==, -errors[e]);
                                is(&t, SMALL "nr_hugepages", "16");
                                is(&t, "state/hugepages-node0-2048kB", "held z i 1\nheld a i 5");
                                ok(memory_pages_set(&t.host, by("a"), 0, 2 * MIB, wanted[what], &err), &err);
                                tear_down(&t);
                                n_cases++;
                        }
        g_assert_cmpint(n_cases, ==, 27);
}

static void test_crash(void)
{
        static const struct {
                const char *file, *pool, *pool_after, *held_after;
        } rows[] = {
                {"under-way a i 10 14 4\n",             "10", "10", NULL        }, /* not begun */
                {"under-way a i 10 14 4\n",             "12", "10", NULL        }, /* half */
                {"under-way a i 10 14 4\n",             "14", "14", "held a i 4"}, /* done, not noted */
                {"under-way a i 14 10 0\nheld a i 4\n", "14", "14", "held a i 4"},
                {"under-way a i 14 10 0\nheld a i 4\n", "12", "14", "held a i 4"},
                {"under-way a i 14 10 0\nheld a i 4\n", "10", "10", NULL        },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct tree t;
                struct err err = {0};
                set_up(&t, false);
                put(&t, "state/hugepages-node0-2048kB", rows[i].file);
                put(&t, SMALL "nr_hugepages", rows[i].pool);
                ok(memory_pages_set(&t.host, by("other"), 0, 2 * MIB, 0, &err), &err);
                is(&t, SMALL "nr_hugepages", rows[i].pool_after);
                if (rows[i].held_after)
                        is(&t, "state/hugepages-node0-2048kB", rows[i].held_after);
                else
                        g_assert_false(is_there(&t, "state/hugepages-node0-2048kB"));
                tear_down(&t);
        }
        static const char *const bad[] = {
                "held\n",         "held a i\n",          "held a i -1\n", "held a i 0\n", "held ../a i 1\n",
                "held a i 1 2\n", "under-way a i 1 2\n", "nonsense\n",    "held a i 1"};
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                struct tree t;
                struct err err = {0};
                set_up(&t, false);
                put(&t, "state/hugepages-node0-2048kB", bad[i]);
                g_assert_cmpint(memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 1, &err), ==, -EPROTO);
                is(&t, SMALL "nr_hugepages", "10");
                tear_down(&t);
        }
}

static void test_no_nodes(void)
{
        struct tree t;
        struct err err = {0};
        struct memory_node node;
        set_up(&t, false);
        ok(memory_node_read(&t.host, 1, &node, &err), &err);
        g_assert_cmpint(node.total_bytes, ==, 8874196 * 1024LL);
        g_assert_cmpint(node.free_bytes, ==, 7667196 * 1024LL);
        g_assert_cmpuint(node.n, ==, 1);
        g_assert_true(node.pools[0].page_bytes == 1024 * MIB && node.pools[0].total == 10 &&
                      node.pools[0].free == 7);
        g_assert_cmpint(memory_node_read(&t.host, 7, &node, &err), ==, -ENOENT);
        g_autofree char *command = g_strdup_printf("rm -rf '%s/devices'", t.sysfs);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
        init(&t);
        g_assert_cmpstr(t.host.nodes_fallback, !=, "");
        ok(memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 4, &err), &err);
        is(&t, "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "14");
        g_assert_cmpint(memory_pages_set(&t.host, by("a"), 1, 2 * MIB, 4, &err), ==, -ENOENT);
        ok(memory_node_read(&t.host, 0, &node, &err), &err);
        g_assert_cmpint(node.total_bytes, ==, 16000 * 1024);
        g_assert_cmpint(node.pools[0].total, ==, 14);
        tear_down(&t);
}

static void test_limit(void)
{
        for (int is_v2 = 0; is_v2 < 2; is_v2++) {
                struct tree t;
                struct err err = {0};
                int64_t used, limit;
                const char *file = is_v2 ? "memory.max" : "memory.limit_in_bytes";
                const char *usage = is_v2 ? "memory.current" : "memory.usage_in_bytes";
                set_up(&t, is_v2);
                g_autofree char *dir = g_build_filename(is_v2 ? "v2" : "v1", "mete/x/a", NULL);
                g_autofree char *path = g_build_filename(dir, file, NULL),
                                *now_used = g_build_filename(dir, usage, NULL);
                g_autofree char *procs = g_build_filename(dir, "cgroup.procs", NULL);
                for (int again = 0; again < 2; again++) {
                        ok(memory_limit_set(&t.host, "a", 100 * MIB - 5, &err), &err);
                        ok(memory_limit_enter(&t.host, "a", 4000, &err), &err);
                        put(&t, now_used, "5000\n");
                }
                is(&t, path, "104857600");
                ok(memory_limit_read(&t.host, "a", &used, &limit, &err), &err);
                g_assert_true(used == 5000 && limit == 100 * MIB);
                ok(memory_limit_verify(&t.host, "a", 100 * MIB, 4000, &err), &err);
                g_assert_cmpint(memory_limit_verify(&t.host, "a", 100 * MIB, 4001, &err), ==, 1);
                g_assert_cmpint(memory_limit_set(&t.host, "a", 4999, &err), ==, -EBUSY);
                is(&t, path, "104857600");
                put(&t, path, is_v2 ? "max\n" : "9223372036854771712\n");
                ok(memory_limit_read(&t.host, "a", &used, &limit, &err), &err);
                g_assert_cmpint(limit, ==, -1);
                g_assert_cmpint(memory_limit_verify(&t.host, "a", 100 * MIB, 0, &err), ==, 1);
                g_assert_cmpint(memory_limit_lift(&t.host, "a", &err), ==, -EBUSY);
                g_assert_cmpint(err.reason, ==, REASON_BUSY);
                put(&t, procs, "");
                for (int again = 0; again < 2; again++)
                        ok(memory_limit_lift(&t.host, "a", &err), &err);
                g_assert_false(is_there(&t, dir));
                g_assert_cmpint(memory_limit_verify(&t.host, "a", 100 * MIB, 0, &err), ==, 1);
                if (!is_v2)
                        g_assert_false(is_there(&t, "v1/mete"));
                tear_down(&t);
        }
}

static void test_limit_threaded(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, true);
        put(&t, "v2/mete/x/cgroup.type", "domain threaded\n");
        put(&t, "v2/mete/x/emulator@a/cgroup.type", "threaded\n");
        g_assert_cmpint(memory_limit_set(&t.host, "a", 100 * MIB, &err), ==, -EOPNOTSUPP);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        g_assert_false(is_there(&t, "v2/mete/x/a"));
        ok(memory_limit_set(&t.host, NULL, 100 * MIB, &err), &err);
        is(&t, "v2/mete/x/memory.max", "104857600");
        is(&t, "v2/cgroup.subtree_control", "+memory");
        is(&t, "v2/mete/cgroup.subtree_control", "+memory");
        g_assert_false(is_there(&t, "v2/mete/x/cgroup.subtree_control"));
        ok(memory_limit_lift(&t.host, NULL, &err), &err);
        is(&t, "v2/mete/x/memory.max", "max");
        tear_down(&t);
}

static void test_limit_failure(void)
{
        static const int errors[] = {ENOSPC, EINVAL, EACCES};
        for (size_t e = 0; e < G_N_ELEMENTS(errors); e++)
                for (int nth = 1; nth <= 4; nth++) {
                        struct tree t;
                        struct err err = {0};
                        set_up(&t, false);
                        left = nth;
                        with = errors[e];
                        cgroupfs_fault = fault;
                        int r = memory_limit_set(&t.host, "a", 100 * MIB, &err);
                        cgroupfs_fault = NULL;
                        g_assert_cmpint(r, ==, -errors[e]);
                        g_assert_false(is_there(&t, "v1/mete"));
                        tear_down(&t);
                }
        g_assert_cmpint(memory_limit_bytes(1024 * MIB, 2, false), ==, (1024 + 256 + 16 + 32) * MIB);
        g_assert_cmpint(memory_limit_bytes(1024 * MIB, 2, true), ==, (1024 + 256 + 16 + 32 + 1024) * MIB);
}

static int parse(const char *text, const char *file, struct memory_map *m)
{
        struct err err = {0};
        FILE *f = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
        int r = memory_map_parse(f, file, m, &err);
        (void)fclose(f);
        return r;
}

static void test_map(void)
{
        struct memory_map *m = g_new0(struct memory_map, 1);
        struct err err = {0};
        struct cpulist zero, both;
        ok(cpulist_parse("0", &zero, &err), &err);
        ok(cpulist_parse("0-1", &both, &err), &err);
        static const char text[] =
                "55b2b8851000 default file=/usr/bin/qemu mapped=2 N0=2 kernelpagesize_kB=4\n"
                "7f0000000000 bind:0 file=/ram/v/base huge dirty=3 N0=3 kernelpagesize_kB=2048\n"
                "7f1000000000 bind=static:0 file=/ram/v/dimm\\0400\\134 N0=512 N1=1 kernelpagesize_kB=4\n"
                "7f1000000000 prefer (many):0 anon=1 N1=7 kernelpagesize_kB=4\n"
                "7f2000000000 default file=/ram/vv/base N1=9 kernelpagesize_kB=4\n"
                "7f3000000000 default\n";
        ok(parse(text, "/ram/v/base", m), &err);
        g_assert_true(m->n_areas == 1 && m->n_bound == 1 && m->total_bytes == 6 * MIB &&
                      m->bytes[0] == 6 * MIB);
        ok(memory_map_verify(m, &zero, &err), &err);
        ok(parse(text, "/ram/v/", m), &err);
        g_assert_true(m->n_areas == 2 && m->bytes[0] == 8 * MIB && m->bytes[1] == 4096);
        g_assert_cmpint(memory_map_verify(m, &zero, &err), ==, 1);
        g_assert_cmpint(err.reason, ==, REASON_STALE);
        ok(memory_map_verify(m, &both, &err), &err);
        ok(parse(text, "/ram/v/dimm 0\\", m), &err);
        g_assert_cmpuint(m->n_areas, ==, 1);
        ok(parse(text, "/ram/vv/base", m), &err);
        g_assert_cmpint(memory_map_verify(m, &both, &err), ==, 1); /* not bound */
        ok(parse(text, "/ram", m), &err);
        g_assert_cmpint(memory_map_verify(m, &both, &err), ==, 1); /* not mapped */
        ok(parse("1 bind:1 file=/ram/x\\040(deleted) N0=1\n", "/ram/x", m), &err);
        g_assert_cmpint(m->bytes[0], ==, sysconf(_SC_PAGESIZE));
        g_assert_cmpint(memory_map_verify(m, &zero, &err), ==, 1); /* bound elsewhere */
        /* A name that looks like fields: its blanks and its '=' are escaped. */
        ok(parse("1 bind:0 file=/ram/x\\040N0\\07599 N0=1 kernelpagesize_kB=4\n", "/ram/x N0=99", m), &err);
        g_assert_cmpint(m->bytes[0], ==, 4096);
        static const char *const bad[] = {
                "1\n",
                "1 default file=/x N0\n",
                "1 default file=/x N0=\n",
                "1 default file=/x N0=-1\n",
                "1 default file=/x N0=1x\n",
                "1 default file=/x N1024=1\n",
                "1 default file=/x N99999999999999999999=1\n",
                "1 default file=/x N0=99999999999999999999\n",
                "1 default file=/x N0=1099511627776 kernelpagesize_kB=1073741824\n",
                "1 default file=/x N0=1 kernelpagesize_kB=-4\n",
                "1 default file=/x N0=1 kernelpagesize_kB=\n",
        };
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_cmpint(parse(bad[i], "/x", m), ==, -EPROTO);
        g_free(m);
}

/* ---- this machine ---- */

static bool set_up_real(struct tree *t)
{
        struct err err = {0};
        t->dir = g_dir_make_tmp("mete-memory-XXXXXX", NULL);
        t->state = g_strdup(t->dir);
        t->sysfs = t->proc = t->mountinfo = NULL;
        g_autofree char *prefix = g_strdup_printf("mete-test-memory-%d", (int)getpid());
        ok(memory_host_init(&t->host, &(struct memory_options){.prefix = prefix, .state_dir = t->state},
                            &err),
           &err);
        if (geteuid() == 0)
                return true;
        g_test_skip("needs root");
        return false;
}

static void test_real_pages(void)
{
        struct tree t;
        struct err err = {0};
        struct memory_node before, after;
        /* One at a time on a machine: the pool is everybody's. */
        int lock = open("/sys/kernel/mm/hugepages", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) < 0) { /* for long, where it runs VMs */
                g_test_skip("another test has the machine's huge pages");
                (void)close(lock);
                return;
        }
        if (!set_up_real(&t) || memory_node_read(&t.host, 0, &before, &err) < 0 || before.n == 0 ||
            before.pools[0].page_bytes != 2 * MIB) {
                if (geteuid() == 0)
                        g_test_skip("no huge pages of 2 MiB on node 0");
                tear_down(&t);
                (void)close(lock);
                return;
        }
        int r = memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 3, &err);
        if (r < 0) {
                g_assert_cmpint(err.reason, !=, REASON_INTERNAL);
                g_test_skip(err.sentence);
                tear_down(&t);
                (void)close(lock);
                return;
        }
        ok(memory_node_read(&t.host, 0, &after, &err), &err);
        g_assert_cmpint(after.pools[0].total, ==, before.pools[0].total + 3);
        ok(memory_pages_set(&t.host, by("a"), 0, 2 * MIB, 3, &err), &err);
        /* All that are free are in use: none can be given back. */
        size_t size = (size_t)(after.pools[0].free * 2 * MIB);
        void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21U << MAP_HUGE_SHIFT, -1, 0);
        if (mapped != MAP_FAILED) {
                for (size_t i = 0; i < size; i += 2 * MIB)
                        ((volatile char *)mapped)[i] = 1;
                g_assert_cmpint(memory_pages_release(&t.host, "a", NULL, &err), ==, -EBUSY);
                g_assert_cmpint(munmap(mapped, size), ==, 0);
        }
        ok(memory_pages_release(&t.host, "a", NULL, &err), &err);
        ok(memory_node_read(&t.host, 0, &after, &err), &err);
        g_assert_cmpint(after.pools[0].total, ==, before.pools[0].total);
        g_assert_cmpint(after.pools[0].surplus, ==, before.pools[0].surplus);
        tear_down(&t);
        (void)close(lock);
}

static void test_real_limit(void)
{
        struct tree t;
        struct err err = {0};
        int64_t used, limit;
        if (!set_up_real(&t) || !*t.host.confine.root) {
                if (geteuid() == 0)
                        g_test_skip(t.host.limit_fallback);
                tear_down(&t);
                return;
        }
        char dir[CGROUPFS_PATH];
        ok(memory_limit_set(&t.host, "a", 64 * MIB - 5, &err), &err);
        pid_t pid = fork();
        if (pid == 0) {
                (void)pause();
                _exit(0);
        }
        ok(memory_limit_enter(&t.host, "a", pid, &err), &err);
        ok(memory_limit_read(&t.host, "a", &used, &limit, &err), &err);
        g_assert_cmpint(limit, ==, 64 * MIB);
        ok(memory_limit_verify(&t.host, "a", 64 * MIB, pid, &err), &err);
        g_assert_cmpint(memory_limit_verify(&t.host, "a", 64 * MIB, getpid(), &err), ==, 1);
        g_assert_cmpint(memory_limit_lift(&t.host, "a", &err), ==, -EBUSY);
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
        for (int i = 0; i < 100 && memory_limit_lift(&t.host, "a", &err) < 0; i++)
                g_usleep(10000);
        ok(memory_limit_lift(&t.host, "a", &err), &err);
        g_assert_cmpint(access(confine_path(&t.host.confine, NULL, dir), F_OK), <, 0);
        tear_down(&t);
}

/* 4 MiB of a memfd, bound to node 0 as QEMU does it. */
static void test_real_map(void)
{
        struct tree t;
        struct err err = {0};
        struct memory_map *m = g_new0(struct memory_map, 1);
        struct cpulist zero;
        unsigned long mask = 1;
        size_t size = (size_t)(4 * MIB);
        ok(cpulist_parse("0", &zero, &err), &err);
        t.dir = NULL;
        ok(memory_host_init(&t.host, &(struct memory_options){.prefix = "mete", .state_dir = "/nonexistent"},
                            &err),
           &err);
        if (memory_map_read(&t.host, getpid(), "/memfd:mete test", m, &err) < 0) {
                g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
                g_test_skip(err.sentence);
                g_free(m);
                return;
        }
        g_assert_cmpint(memory_map_verify(m, &zero, &err), ==, 1); /* not mapped yet */
        int fd = memfd_create("mete test", MFD_CLOEXEC);
        g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
        char *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        g_assert_true(mapped != MAP_FAILED);
        memset(mapped, 1, size / 2);
        ok(memory_map_read(&t.host, getpid(), "/memfd:mete test", m, &err), &err);
        g_assert_cmpint(m->total_bytes, ==, 2 * MIB);
        g_assert_cmpint(memory_map_verify(m, &zero, &err), ==, 1); /* not bound */
        if (syscall(SYS_mbind, mapped, size, 2 /* MPOL_BIND */, &mask, 8 * sizeof(mask), 0) == 0) {
                memset(mapped, 1, size);
                ok(memory_map_read(&t.host, getpid(), "/memfd:mete test", m, &err), &err);
                g_assert_cmpint(m->total_bytes, ==, 4 * MIB);
                ok(memory_map_verify(m, &zero, &err), &err);
        }
        g_assert_cmpint(munmap(mapped, size), ==, 0);
        g_assert_cmpint(close(fd), ==, 0);
        g_assert_cmpint(memory_map_read(&t.host, INT_MAX, "/x", m, &err), ==, -ENOENT);
        g_free(m);
}

int main(int argc, char **argv)
{
        if (access("/dev/shm", W_OK) == 0) /* thousands of small files, of which many are synced */
                (void)g_setenv("TMPDIR", "/dev/shm", TRUE);
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/memory/pages", test_pages);
        g_test_add_func("/memory/items", test_items);
        g_test_add_func("/memory/partial", test_partial);
        g_test_add_func("/memory/every-failure", test_every_failure);
        g_test_add_func("/memory/crash", test_crash);
        g_test_add_func("/memory/no-nodes", test_no_nodes);
        g_test_add_func("/memory/limit", test_limit);
        g_test_add_func("/memory/limit-threaded", test_limit_threaded);
        g_test_add_func("/memory/limit-failure", test_limit_failure);
        g_test_add_func("/memory/map", test_map);
        g_test_add_func("/memory/real-pages", test_real_pages);
        g_test_add_func("/memory/real-limit", test_real_limit);
        g_test_add_func("/memory/real-map", test_real_map);
        return g_test_run();
}
