/* SPDX-License-Identifier: Apache-2.0 */
/* The providers on plain directories that look like the hierarchies; tests/root holds them against a kernel.
 */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "host/cpu.h"

struct tree {
        char *dir, *mountinfo;
        struct cpu_host host;
};

static char *put(struct tree *t, const char *path, const char *text)
{
        char *p = g_build_filename(t->dir, path, NULL), *parent = g_path_get_dirname(p);
        g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
        g_assert_true(g_file_set_contents(p, text, -1, NULL));
        g_free(parent);
        return p;
}

static void put_away(struct tree *t, const char *path, const char *text)
{
        g_free(put(t, path, text));
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

static void set_up(struct tree *t, const char *mounts, enum cpu_provider_id expected)
{
        t->dir = g_dir_make_tmp("mete-cpu-XXXXXX", NULL);
        put_away(t, "cpu/tasks", "");
        put_away(t, "cpuset/cpuset.cpus", "0-7\n");
        put_away(t, "cpuset/cpuset.mems", "0-1\n");
        put_away(t, "unified/cgroup.controllers", "cpuset cpu io memory\n");
        g_auto(GStrv) parts = g_strsplit(mounts, "@", -1);
        g_autofree char *text = g_strjoinv(t->dir, parts);
        t->mountinfo = put(t, "mountinfo", text);
        struct err err = {0};
        struct cpu_host_options o = {.prefix = "mete/a",
                                     .cpus = "0-5",
                                     .housekeeping = "0,7",
                                     .mountinfo = t->mountinfo,
                                     .is_fake = true};
        if (cpu_host_init(&t->host, &o, &err) < 0)
                g_error("%s", err.sentence);
        g_assert_cmpint(t->host.id, ==, expected);
}

static void tear_down(struct tree *t)
{
        g_autofree char *command = g_strdup_printf("rm -rf '%s'", t->dir);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
        g_free(t->dir);
        g_free(t->mountinfo);
}

static const char v1_mounts[] = "25 1 0:22 / / rw - ext4 /dev/vda rw\n"
                                "29 25 0:26 / @/cpu rw,relatime shared:4 - cgroup cgroup rw,cpu\n"
                                "31 25 0:28 / @/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
                                "34 25 0:31 / /nonexistent rw - cgroup2 cgroup2 rw\n"
                                "nonsense\n";
static const char v2_mounts[] =
        "30 23 0:27 / @/unified rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

static void ok(int r, struct err *err)
{
        if (r < 0)
                g_error("%s", err->sentence);
}

static struct cpulist set_of(const char *text)
{
        struct cpulist l;
        g_assert_cmpint(cpulist_parse(text, &l, NULL), ==, 0);
        return l;
}

static int hold(const struct tree *t, const char *vm, const char *item, const struct cpulist *cpus,
                int share_milli, bool is_exclusive, struct err *err)
{
        struct cpu_hold what = {.cpus = *cpus,
                                .share_milli = share_milli,
                                .ceiling_milli = CPU_SHARE_MAX,
                                .is_exclusive = is_exclusive};
        return t->host.provider->hold(&t->host, vm, item, &what, err);
}

/* An item of that name is held, and a thread bound to it. */
static int place(const struct tree *t, const char *vm, pid_t tid, const struct cpulist *cpus, int share_milli,
                 struct err *err)
{
        int r = hold(t, vm, "vcpu9", cpus, share_milli, false, err);
        return r < 0 ? r : t->host.provider->bind(&t->host, vm, "vcpu9", tid, err);
}

static void test_v1(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, v1_mounts, CPU_CGROUP_V1);
        const struct cpu_provider *p = t.host.provider;
        for (int again = 0; again < 2; again++) {
                ok(p->start(&t.host, &err), &err);
                ok(p->vm_make(&t.host, "v", &err), &err);
                ok(p->vm_enter(&t.host, "v", 4000, &err), &err);
        }
        is(&t, "cpuset/mete/cpuset.cpus", "0-5,7");
        is(&t, "cpuset/mete/a/cpuset.mems", "0-1");
        is(&t, "cpu/mete/a/cpu.shares", "262144"); /* the most; 99 * 7 * 1024 would be more */
        is(&t, "cpuset/mete/a/emulator@v/cpuset.cpus", "0,7");
        is(&t, "cpu/mete/a/emulator@v/cpu.shares", "50");
        is(&t, "cpu/mete/a/emulator@v/tasks", "4000");

        struct cpulist cpus = set_of("2-3");
        for (int again = 0; again < 2; again++)
                ok(place(&t, "v", 4001, &cpus, 900, &err), &err);
        is(&t, "cpuset/mete/a/vcpu9@v/cpuset.cpus", "2-3");
        is(&t, "cpuset/mete/a/vcpu9@v/cpuset.mems", "0-1");
        is(&t, "cpuset/mete/a/vcpu9@v/tasks", "4001");
        is(&t, "cpu/mete/a/vcpu9@v/cpu.shares", "9000");
        is(&t, "cpu/mete/a/vcpu9@v/tasks", "4001");

        /* Aside; the kernel takes it out of the group where it was, which is the item's still. */
        put_away(&t, "cpu/mete/a/vcpu9@v/tasks", "");
        put_away(&t, "cpuset/mete/a/vcpu9@v/tasks", "");
        ok(p->park(&t.host, "v", 4001, &err), &err);
        is(&t, "cpu/mete/a/parked@v/cpu.shares", "2");
        is(&t, "cpuset/mete/a/parked@v/cpuset.cpus", "0,7");
        is(&t, "cpuset/mete/a/parked@v/tasks", "4001");
        g_assert_true(is_there(&t, "cpu/mete/a/vcpu9@v"));

        /* Another VM whose name ends alike is not touched; what runs stays. */
        ok(p->vm_make(&t.host, "x.v", &err), &err);
        g_assert_cmpint(p->vm_remove(&t.host, "v", CPU_REMOVE_ALL, &err), ==, -EBUSY);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        for (const char *const *g = (const char *const[]){"emulator@v", "parked@v", NULL}; *g; g++)
                for (const char *const *h = (const char *const[]){"cpu", "cpuset", NULL}; *h; h++) {
                        g_autofree char *path = g_strdup_printf("%s/mete/a/%s/tasks", *h, *g);
                        put_away(&t, path, "");
                }
        for (int again = 0; again < 2; again++)
                ok(p->vm_remove(&t.host, "v", CPU_REMOVE_ALL, &err), &err);
        g_assert_false(is_there(&t, "cpu/mete/a/parked@v"));
        g_assert_true(is_there(&t, "cpu/mete/a/emulator@x.v"));
        ok(p->vm_remove(&t.host, "x.v", CPU_REMOVE_ALL, &err), &err);
        tear_down(&t);
}

/* What was handed over is changed in nothing but what it hands down itself. */
static void test_delegated(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, v1_mounts, CPU_CGROUP_V1);
        g_assert_cmpint(cpu_host_delegate(&t.host, "m.slice/m-vms.scope", &err), ==, -EINVAL);
        tear_down(&t);
        set_up(&t, v2_mounts, CPU_CGROUP_V2);
        const struct cpu_provider *p = t.host.provider;
        g_assert_cmpint(cpu_host_delegate(&t.host, "../m.slice", &err), ==, -EINVAL);
        ok(cpu_host_delegate(&t.host, "m.slice/m-vms.scope", &err), &err);
        g_assert_cmpint(p->start(&t.host, &err), ==, -ENOENT); /* not ours to make */
        g_assert_false(is_there(&t, "unified/m.slice"));
        put_away(&t, "unified/m.slice/m-vms.scope/cpuset.cpus.effective", "1-7");
        g_assert_cmpint(p->start(&t.host, &err), ==, -EPERM);
        g_assert_nonnull(strstr(err.sentence, "may use the CPUs 1-7 only, and VMs shall have 0-5,7"));
        /* Off line, and so lacking everywhere. */
        (void)g_strlcpy(t.host.online_dir, t.dir, sizeof(t.host.online_dir));
        put_away(&t, "online", "1-7");
        ok(p->start(&t.host, &err), &err);
        *t.host.online_dir = '\0';
        put_away(&t, "unified/m.slice/m-vms.scope/cpuset.cpus.effective", "0-7");
        for (int again = 0; again < 2; again++)
                ok(p->start(&t.host, &err), &err);
        is(&t, "unified/m.slice/m-vms.scope/cgroup.subtree_control", "+cpu +cpuset");
        static const char *const untouched[] = {
                "unified/cgroup.subtree_control",         "unified/mete",
                "unified/m.slice/cgroup.subtree_control", "unified/m.slice/cpu.weight",
                "unified/m.slice/m-vms.scope/cpu.weight", "unified/m.slice/m-vms.scope/cpuset.cpus",
                "unified/m.slice/m-vms.scope/cgroup.type"};
        for (size_t i = 0; i < G_N_ELEMENTS(untouched); i++)
                g_assert_false(is_there(&t, untouched[i]));
        ok(p->vm_make(&t.host, "v", &err), &err);
        is(&t, "unified/m.slice/m-vms.scope/emulator@v/cpu.weight", "50");
        ok(p->vm_remove(&t.host, "v", CPU_REMOVE_ALL, &err), &err);
        p->finish(&t.host);
        g_assert_true(is_there(&t, "unified/m.slice/m-vms.scope"));
        tear_down(&t);
}

static void test_v2(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, v2_mounts, CPU_CGROUP_V2);
        const struct cpu_provider *p = t.host.provider;
        /* A plain directory keeps "+cpu +cpuset" as it was written, which reads as handed down. */
        put_away(&t, "unified/mete/cpuset.cpus.effective", "0-7");
        ok(p->start(&t.host, &err), &err);
        is(&t, "unified/cgroup.subtree_control", "+cpu +cpuset");
        is(&t, "unified/mete/a/cgroup.subtree_control", "+cpu +cpuset");
        is(&t, "unified/mete/a/cpu.weight", "10000");
        ok(p->vm_make(&t.host, "v", &err), &err);
        ok(p->vm_enter(&t.host, "v", 4000, &err), &err);
        is(&t, "unified/mete/a/emulator@v/cgroup.type", "threaded");
        is(&t, "unified/mete/a/emulator@v/cgroup.threads", "4000");
        struct cpulist cpus = set_of("1");
        for (int milli = 1; milli <= 1000; milli += 333) {
                g_autofree char *weight = g_strdup_printf("%d", milli * 10);
                ok(place(&t, "v", 4001, &cpus, milli, &err), &err);
                is(&t, "unified/mete/a/vcpu9@v/cpu.weight", weight);
        }
        is(&t, "unified/mete/a/vcpu9@v/cpuset.cpus", "1");
        is(&t, "unified/mete/a/vcpu9@v/cgroup.type", "threaded");
        ok(p->park(&t.host, "v", 4002, &err), &err);
        is(&t, "unified/mete/a/parked@v/cpu.weight", "1");
        tear_down(&t);
}

/* An item is made empty, and only taken back for itself. */
static void test_items(void)
{
        struct tree t;
        struct err err = {0};
        struct cpu_live live;
        set_up(&t, v1_mounts, CPU_CGROUP_V1);
        const struct cpu_provider *p = t.host.provider;
        ok(p->start(&t.host, &err), &err);
        struct cpulist one = set_of("1"), two = set_of("2-3");
        g_assert_cmpint(p->read(&t.host, "v", "vcpu3", 0, &live, &err), ==, -ENOENT);
        g_assert_cmpint(p->bind(&t.host, "v", "vcpu3", 7, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        g_assert_false(is_there(&t, "cpu/mete/a/vcpu3@v"));
        ok(hold(&t, "v", "vcpu3", &one, 200, false, &err), &err);
        for (int again = 0; again < 2; again++)
                ok(hold(&t, "v", "vcpu3", &two, 900, false, &err), &err);
        is(&t, "cpu/mete/a/vcpu3@v/cpu.shares", "9000");
        is(&t, "cpuset/mete/a/vcpu3@v/cpuset.cpus", "2-3");
        g_assert_false(is_there(&t, "cpu/mete/a/vcpu3@v/tasks"));
        /* Others come and go; a start of the VM clears all but items. */
        ok(p->vm_make(&t.host, "v", &err), &err);
        ok(p->park(&t.host, "v", 8, &err), &err);
        g_assert_true(is_there(&t, "cpuset/mete/a/vcpu3@v"));
        for (int again = 0; again < 2; again++)
                ok(p->bind(&t.host, "v", "vcpu3", 7, &err), &err);
        ok(p->read(&t.host, "v", "vcpu3", 0, &live, &err), &err);
        g_assert_cmpint(live.share_milli, ==, 900);
        g_assert_true(cpulist_is_equal(&live.cpus, &two));
        g_assert_cmpuint(live.n_threads, ==, 1);
        g_assert_cmpint(live.threads[0], ==, 7);
        g_assert_false(live.has_others);
        put_away(&t, "cpuset/mete/a/vcpu3@v/tasks", "7\n12\n");
        ok(p->read(&t.host, "v", "vcpu3", 0, &live, &err), &err);
        g_assert_true(live.has_others && live.n_threads == 1);
        put_away(&t, "cpuset/mete/a/vcpu3@v/tasks", "7\n");
        g_assert_cmpint(p->let_go(&t.host, "v", "vcpu3", &err), ==, -EBUSY);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        is(&t, "cpu/mete/a/vcpu3@v/cpu.shares", "9000");
        for (const char *const *g = (const char *const[]){"parked@v", "vcpu3@v", NULL}; *g; g++)
                for (const char *const *h = (const char *const[]){"cpu", "cpuset", NULL}; *h; h++) {
                        g_autofree char *path = g_strdup_printf("%s/mete/a/%s/tasks", *h, *g);
                        put_away(&t, path, "");
                }
        ok(p->vm_remove(&t.host, "v", CPU_REMOVE_BUT_ITEMS, &err), &err);
        g_assert_false(is_there(&t, "cpu/mete/a/emulator@v") || is_there(&t, "cpu/mete/a/parked@v"));
        g_assert_true(is_there(&t, "cpu/mete/a/vcpu3@v"));
        for (int again = 0; again < 2; again++)
                ok(p->let_go(&t.host, "v", "vcpu3", &err), &err);
        g_assert_false(is_there(&t, "cpu/mete/a/vcpu3@v") || is_there(&t, "cpuset/mete/a/vcpu3@v"));
        ok(hold(&t, "v", "vcpu4", &one, 200, false, &err), &err);
        ok(p->vm_remove(&t.host, "v", CPU_REMOVE_ALL, &err), &err);
        g_assert_false(is_there(&t, "cpu/mete/a/vcpu4@v"));
        tear_down(&t);
}

/* All items of the VM go but those that are named; nothing of another VM's, and no group of our own. */
static void test_prune(void)
{
        static const char keep[][CPU_ITEM_SIZE] = {"vcpu1", "vcpu10", "vcpu7"};
        static const struct {
                const char *mounts, *sets;
                enum cpu_provider_id id;
        } rows[] = {
                {v1_mounts, "cpuset/mete/a",  CPU_CGROUP_V1},
                {v2_mounts, "unified/mete/a", CPU_CGROUP_V2},
        };
        struct cpulist one = set_of("1");
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct tree t;
                struct err err = {0};
                static const char *const items[] = {"vcpu0", "vcpu1", "vcpu10", "vcpu2"};
                set_up(&t, rows[i].mounts, rows[i].id);
                const struct cpu_provider *p = t.host.provider;
                ok(p->start(&t.host, &err), &err);
                ok(p->vm_make(&t.host, "v", &err), &err);
                for (size_t n = 0; n < G_N_ELEMENTS(items); n++) {
                        ok(hold(&t, "v", items[n], &one, 100, false, &err), &err);
                        ok(hold(&t, "w", items[n], &one, 100, false, &err), &err);
                }
                for (int again = 0; again < 2; again++) {
                        ok(p->prune(&t.host, "v", keep, G_N_ELEMENTS(keep), &err), &err);
                        for (size_t n = 0; n < G_N_ELEMENTS(items); n++) {
                                g_autofree char *own = g_strdup_printf("%s/%s@v", rows[i].sets, items[n]);
                                g_autofree char *other = g_strdup_printf("%s/%s@w", rows[i].sets, items[n]);
                                g_assert_cmpint(is_there(&t, own), ==, n == 1 || n == 2);
                                g_assert_true(is_there(&t, other));
                        }
                        g_autofree char *emulator = g_strdup_printf("%s/emulator@v", rows[i].sets);
                        g_assert_true(is_there(&t, emulator));
                }
                ok(p->prune(&t.host, "v", NULL, 0, &err), &err);
                g_autofree char *last = g_strdup_printf("%s/vcpu1@v", rows[i].sets);
                g_assert_false(is_there(&t, last));
                tear_down(&t);
        }
}

static int changes, fault_at;

static int fault(const char *path)
{
        return ++changes == fault_at ? EIO : 0;
}

/* Each change of a file fails once: an item that is new is gone again, one that was there is as it was. */
static void test_item_faults(void)
{
        static const struct {
                const char *mounts;
                enum cpu_provider_id id;
                const char *weights, *sets; /* files */
                int cases;
        } rows[] = {
                {v1_mounts, CPU_CGROUP_V1, "cpu/mete/a/vcpu3@v/cpu.shares",
                 "cpuset/mete/a/vcpu3@v/cpuset.cpus",  5},
                {v2_mounts, CPU_CGROUP_V2, "unified/mete/a/vcpu3@v/cpu.weight",
                 "unified/mete/a/vcpu3@v/cpuset.cpus", 4},
        };
        struct cpulist one = set_of("1"), two = set_of("2-3");
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct tree t;
                struct err err = {0};
                set_up(&t, rows[i].mounts, rows[i].id);
                const struct cpu_provider *p = t.host.provider;
                ok(p->start(&t.host, &err), &err);
                for (int is_new = 0; is_new < 2; is_new++) {
                        int r = -1;
                        for (int at = 1; r < 0; at++) {
                                fault_at = 0;
                                ok(is_new ? p->let_go(&t.host, "v", "vcpu3", &err)
                                          : hold(&t, "v", "vcpu3", &one, 200, false, &err),
                                   &err);
                                changes = 0;
                                fault_at = at;
                                cgroupfs_fault = fault;
                                r = hold(&t, "v", "vcpu3", &two, 900, false, &err);
                                cgroupfs_fault = NULL;
                                if (r == 0) {
                                        g_assert_cmpint(changes, <, at);
                                        g_assert_cmpint(at, >=, rows[i].cases - 1 + is_new);
                                } else if (is_new) {
                                        g_autofree char *group = g_path_get_dirname(rows[i].weights);
                                        g_autofree char *other = g_path_get_dirname(rows[i].sets);
                                        g_assert_false(is_there(&t, group) || is_there(&t, other));
                                } else {
                                        is(&t, rows[i].weights, "2000");
                                        is(&t, rows[i].sets, "1");
                                }
                        }
                        is(&t, rows[i].weights, "9000");
                        is(&t, rows[i].sets, "2-3");
                }
                tear_down(&t);
        }
}

/* What stands below the prefix in the one or other kind of tree. */
static const struct kind {
        const char *name, *mounts;
        enum cpu_provider_id id;
        const char *sets;
} kinds[] = {
        {"v1", v1_mounts, CPU_CGROUP_V1, "cpuset/mete/a" },
        {"v2", v2_mounts, CPU_CGROUP_V2, "unified/mete/a"},
};

static void set_up_kind(struct tree *t, const struct kind *k)
{
        struct err err = {0};
        set_up(t, k->mounts, k->id);
        (void)g_snprintf(t->host.keep_dir, sizeof(t->host.keep_dir), "%s/held", t->dir);
        ok(t->host.provider->start(&t->host, &err), &err);
        ok(t->host.provider->vm_make(&t->host, "v", &err), &err);
        ok(t->host.provider->vm_make(&t->host, "w", &err), &err);
        ok(t->host.provider->park(&t->host, "w", 8, &err), &err);
}

static char *sets_of(const struct kind *k, const char *group)
{
        return g_strdup_printf("%s/%s/cpuset.cpus", k->sets, group);
}

static void runs_on(struct tree *t, const struct kind *k, const char *group, const char *cpus)
{
        g_autofree char *path = sets_of(k, group);
        is(t, path, cpus);
}

static void by_hand(struct tree *t, const struct kind *k, const char *group, const char *cpus)
{
        g_autofree char *path = sets_of(k, group);
        put_away(t, path, cpus);
}

static int exclusive_of(struct tree *t, const char *vm, const char *item)
{
        struct err err = {0};
        struct cpu_live live;
        ok(t->host.provider->read(&t->host, vm, item, 0, &live, &err), &err);
        return live.exclusive;
}

static void test_exclusive(gconstpointer arg)
{
        const struct kind *k = arg;
        struct tree t;
        struct err err = {0};
        struct cpulist zero = set_of("0"), one = set_of("1");
        set_up_kind(&t, k);
        const struct cpu_provider *p = t.host.provider;
        for (int again = 0; again < 2; again++)
                ok(hold(&t, "v", "vcpu3", &zero, 1000, true, &err), &err);
        g_assert_cmpint(exclusive_of(&t, "v", "vcpu3"), ==, 1);
        ok(p->vm_make(&t.host, "x", &err), &err);
        ok(p->park(&t.host, "v", 9, &err), &err);
        for (const char *const *g = (const char *const[]){"emulator@v", "emulator@w", "emulator@x",
                                                          "parked@v", "parked@w", NULL};
             *g; g++)
                runs_on(&t, k, *g, "7");
        /* It is nobody else's; another that is no housekeeping CPU changes nothing for them. */
        g_assert_cmpint(hold(&t, "w", "vcpu0", &zero, 100, false, &err), ==, -EBUSY);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        ok(hold(&t, "w", "vcpu1", &one, 1000, true, &err), &err);
        g_assert_cmpint(exclusive_of(&t, "w", "vcpu1"), ==, 1);
        runs_on(&t, k, "emulator@w", "7");
        /* Changed by hand: it is seen, and the same call mends it. */
        by_hand(&t, k, "parked@w", "0-7\n");
        g_assert_cmpint(exclusive_of(&t, "v", "vcpu3"), ==, 0);
        ok(hold(&t, "v", "vcpu3", &zero, 1000, true, &err), &err);
        g_assert_cmpint(exclusive_of(&t, "v", "vcpu3"), ==, 1);
        runs_on(&t, k, "parked@w", "7");
        /* No longer exclusive, and again; gone with the item, or with the VM. */
        ok(hold(&t, "v", "vcpu3", &zero, 1000, false, &err), &err);
        g_assert_cmpint(exclusive_of(&t, "v", "vcpu3"), ==, 0);
        runs_on(&t, k, "emulator@x", "0,7");
        ok(hold(&t, "v", "vcpu3", &zero, 1000, true, &err), &err);
        ok(p->let_go(&t.host, "v", "vcpu3", &err), &err);
        runs_on(&t, k, "parked@w", "0,7");
        g_assert_false(is_there(&t, "held/vcpu3@v"));
        ok(hold(&t, "x", "vcpu0", &zero, 1000, true, &err), &err);
        runs_on(&t, k, "emulator@v", "7");
        ok(p->vm_remove(&t.host, "x", CPU_REMOVE_ALL, &err), &err);
        runs_on(&t, k, "emulator@v", "0,7");
        g_assert_false(is_there(&t, "held/vcpu0@x"));
        g_assert_true(is_there(&t, "held/vcpu1@w"));
        g_assert_true(is_there(&t, "held/vcpu1@w"));
        tear_down(&t);
}

/* Whoever died in between left a note whose item is not there, or one that not all followed yet. */
static void test_exclusive_restart(gconstpointer arg)
{
        const struct kind *k = arg;
        struct tree t;
        struct err err = {0};
        struct cpulist zero = set_of("0");
        set_up_kind(&t, k);
        const struct cpu_provider *p = t.host.provider;
        ok(hold(&t, "v", "vcpu3", &zero, 1000, true, &err), &err);
        by_hand(&t, k, "emulator@w", "0,7\n");
        put_away(&t, "held/vcpu9@w", "7");
        put_away(&t, "held/.vcpu9@w.new", "7");
        ok(p->start(&t.host, &err), &err);
        runs_on(&t, k, "emulator@w", "7");
        g_assert_false(is_there(&t, "held/vcpu9@w"));
        g_assert_true(is_there(&t, "held/vcpu3@v"));
        g_assert_cmpint(exclusive_of(&t, "v", "vcpu3"), ==, 1);
        tear_down(&t);
}

/* Something is left for VMMs to run on; or they stay where they are, by policy. */
static void test_exclusive_last(gconstpointer arg)
{
        const struct kind *k = arg;
        struct tree t;
        struct err err = {0};
        struct cpu_live live;
        struct cpulist zero = set_of("0"), one = set_of("1");
        set_up_kind(&t, k);
        const struct cpu_provider *p = t.host.provider;
        t.host.housekeeping = set_of("0-1");
        ok(p->start(&t.host, &err), &err);
        ok(hold(&t, "v", "vcpu1", &one, 1000, true, &err), &err);
        runs_on(&t, k, "emulator@w", "0");
        g_assert_cmpint(hold(&t, "w", "vcpu0", &zero, 1000, true, &err), ==, -EPERM);
        g_assert_cmpint(err.reason, ==, REASON_POLICY);
        g_assert_nonnull(strstr(err.sentence, "housekeeping"));
        g_assert_cmpint(p->read(&t.host, "w", "vcpu0", 0, &(struct cpu_live){0}, &err), ==, -ENOENT);
        runs_on(&t, k, "emulator@w", "0");
        t.host.is_best_effort = true;
        ok(hold(&t, "w", "vcpu0", &zero, 1000, true, &err), &err);
        runs_on(&t, k, "emulator@w", "0-1");
        g_assert_cmpint(exclusive_of(&t, "w", "vcpu0"), ==, -1);
        /* Of the one that was exclusive before, too, and each says why. */
        for (int i = 0; i < 2; i++) {
                ok(p->read(&t.host, i ? "v" : "w", i ? "vcpu1" : "vcpu0", 0, &live, &err), &err);
                g_assert_cmpint(live.exclusive, ==, -1);
                g_assert_cmpstr(live.fallback, ==, CPU_NO_ROOM);
        }
        ok(p->let_go(&t.host, "w", "vcpu0", &err), &err);
        runs_on(&t, k, "emulator@w", "0");
        ok(p->read(&t.host, "v", "vcpu1", 0, &live, &err), &err);
        g_assert_cmpint(live.exclusive, ==, 1);
        g_assert_null(live.fallback);
        tear_down(&t);
}

/* Each change of a file fails once: nothing is exclusive then, and everything runs where it did. */
static void test_exclusive_faults(gconstpointer arg)
{
        const struct kind *k = arg;
        struct tree t;
        struct err err = {0};
        struct cpulist zero = set_of("0");
        set_up_kind(&t, k);
        const struct cpu_provider *p = t.host.provider;
        int r = -1, back = -1;
        for (int at = 1; r < 0; at++) {
                changes = 0;
                fault_at = at;
                cgroupfs_fault = fault;
                r = hold(&t, "v", "vcpu3", &zero, 1000, true, &err);
                cgroupfs_fault = NULL;
                g_assert_true(r == 0 ? at > 7 : true);
                if (r == 0)
                        break;
                g_assert_false(is_there(&t, "held/vcpu3@v"));
                runs_on(&t, k, "emulator@v", "0,7");
                runs_on(&t, k, "parked@w", "0,7");
                g_assert_cmpint(p->read(&t.host, "v", "vcpu3", 0, &(struct cpu_live){0}, NULL), ==, -ENOENT);
        }
        /* The way back is tried until all of it is done. */
        for (int at = 1; back < 0; at++) {
                changes = 0;
                fault_at = at;
                cgroupfs_fault = fault;
                back = p->let_go(&t.host, "v", "vcpu3", &err);
                cgroupfs_fault = NULL;
        }
        g_assert_false(is_there(&t, "held/vcpu3@v"));
        runs_on(&t, k, "emulator@v", "0,7");
        runs_on(&t, k, "parked@w", "0,7");
        tear_down(&t);
}

/* ---- ceilings ---- */

static int hold_up_to(struct tree *t, const char *item, int share_milli, int ceiling_milli, struct err *err)
{
        struct cpu_hold what = {
                .cpus = set_of("1"), .share_milli = share_milli, .ceiling_milli = ceiling_milli};
        return t->host.provider->hold(&t->host, "v", item, &what, err);
}

/* Files of quotas; those of v1 are two. */
static void quota_by_hand(struct tree *t, const struct kind *k, const char *group, const char *quota,
                          const char *period)
{
        bool is_v2 = k->id == CPU_CGROUP_V2;
        g_autofree char *path =
                g_strdup_printf(is_v2 ? "unified/mete/a%s/cpu.max" : "cpu/mete/a%s/cpu.cfs_quota_us", group);
        g_autofree char *other = g_strdup_printf("cpu/mete/a%s/cpu.cfs_period_us", group);
        g_autofree char *both = g_strdup_printf("%s %s\n", strcmp(quota, "-1") == 0 ? "max" : quota, period);
        put_away(t, path, is_v2 ? both : quota);
        if (!is_v2)
                put_away(t, other, period);
}

static void quota_is(struct tree *t, const struct kind *k, const char *item, const char *quota)
{
        bool is_v2 = k->id == CPU_CGROUP_V2;
        g_autofree char *path = g_strdup_printf(
                is_v2 ? "unified/mete/a/%s@v/cpu.max" : "cpu/mete/a/%s@v/cpu.cfs_quota_us", item);
        g_autofree char *other = g_strdup_printf("cpu/mete/a/%s@v/cpu.cfs_period_us", item);
        g_autofree char *both = g_strdup_printf("%s 10000", quota);
        bool is_none = strcmp(quota, "-1") == 0;
        is(t, path, !is_v2 ? quota : is_none ? "max" : both);
        if (!is_v2 && !is_none)
                is(t, other, "10000");
}

static void ceiling_is(struct tree *t, const char *item, int ceiling_milli, long period_us)
{
        struct err err = {0};
        struct cpu_live live;
        ok(t->host.provider->read(&t->host, "v", item, 0, &live, &err), &err);
        g_assert_cmpint(live.ceiling_milli, ==, ceiling_milli);
        g_assert_cmpint(live.period_us, ==, period_us);
        g_assert_null(live.fallback);
}

static void set_up_quotas(struct tree *t, const struct kind *k)
{
        set_up_kind(t, k);
        quota_by_hand(t, k, "", "-1", "100000"); /* the kernel has such files in each group */
}

static void test_ceiling(gconstpointer arg)
{
        const struct kind *k = arg;
        struct tree t;
        struct err err = {0};
        set_up_quotas(&t, k);
        for (int again = 0; again < 2; again++)
                ok(hold_up_to(&t, "vcpu3", 200, 500, &err), &err);
        quota_is(&t, k, "vcpu3", "5000");
        ceiling_is(&t, "vcpu3", 500, 10000);
        /* Another while it is held, none at all, and one again. */
        ok(hold_up_to(&t, "vcpu3", 200, 300, &err), &err);
        quota_is(&t, k, "vcpu3", "3000");
        ok(hold_up_to(&t, "vcpu3", 200, 1000, &err), &err);
        quota_is(&t, k, "vcpu3", "-1");
        ceiling_is(&t, "vcpu3", 1000, 0);
        ok(hold_up_to(&t, "vcpu3", 100, 100, &err), &err);
        quota_is(&t, k, "vcpu3", "1000");
        /* Without one no quota is written. */
        ok(hold_up_to(&t, "vcpu4", 200, 1000, &err), &err);
        g_assert_false(is_there(&t, "unified/mete/a/vcpu4@v/cpu.max") ||
                       is_there(&t, "cpu/mete/a/vcpu4@v/cpu.cfs_quota_us"));
        ceiling_is(&t, "vcpu4", 1000, 0);
        tear_down(&t);
}

/* What others made of it is seen, and the same call mends it; who is put aside loses any. */
static void test_ceiling_by_hand(gconstpointer arg)
{
        const struct kind *k = arg;
        static const struct {
                const char *quota, *period, *burst;
                int ceiling_milli;
                long period_us;
        } rows[] = {
                {"9000",                "10000",  NULL,   900,             10000 },
                {"50000",               "100000", NULL,   500,             100000},
                {"5001",                "10000",  NULL,   501,             10000 },
                {"5000",                "10000",  "2000", 700,             10000 },
                {"-1",                  "10000",  NULL,   1000,            0     },
                {"20000",               "10000",  NULL,   2000,            10000 },
                {"9000000000000000000", "10000",  NULL,   CPU_CEILING_MAX, 10000 },
        };
        const char *burst = k->id == CPU_CGROUP_V2 ? "unified/mete/a/vcpu3@v/cpu.max.burst"
                                                   : "cpu/mete/a/vcpu3@v/cpu.cfs_burst_us";
        struct tree t;
        struct err err = {0};
        set_up_quotas(&t, k);
        ok(hold_up_to(&t, "vcpu3", 200, 500, &err), &err);
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                quota_by_hand(&t, k, "/vcpu3@v", rows[i].quota, rows[i].period);
                if (rows[i].burst)
                        put_away(&t, burst, rows[i].burst);
                ceiling_is(&t, "vcpu3", rows[i].ceiling_milli, rows[i].period_us);
                ok(hold_up_to(&t, "vcpu3", 200, 500, &err), &err);
                quota_is(&t, k, "vcpu3", "5000");
                ceiling_is(&t, "vcpu3", 500, 10000);
                if (rows[i].burst)
                        is(&t, burst, "0");
        }
        quota_by_hand(&t, k, "/vcpu3@v", "nonsense", "10000");
        g_assert_cmpint(t.host.provider->read(&t.host, "v", "vcpu3", 0, &(struct cpu_live){0}, &err), ==,
                        -EPROTO);
        quota_by_hand(&t, k, "/parked@v", "5000", "10000");
        ok(t.host.provider->park(&t.host, "v", 9, &err), &err);
        quota_is(&t, k, "parked", "-1");
        tear_down(&t);
}

/* Each change of a file fails once: the ceiling is what it was. */
static void test_ceiling_faults(gconstpointer arg)
{
        const struct kind *k = arg;
        struct tree t;
        struct err err = {0};
        set_up_quotas(&t, k);
        for (int from = 500; from <= 1000; from += 500) {
                int r = -1;
                for (int at = 1; r < 0; at++) {
                        ok(hold_up_to(&t, "vcpu3", 200, from, &err), &err);
                        changes = 0;
                        fault_at = at;
                        cgroupfs_fault = fault;
                        r = hold_up_to(&t, "vcpu3", 300, 300, &err);
                        cgroupfs_fault = NULL;
                        ceiling_is(&t, "vcpu3", r < 0 ? from : 300, r < 0 && from == 1000 ? 0 : 10000);
                        g_assert_true(r < 0 || at > 3);
                }
        }
        tear_down(&t);
}

static void test_ceiling_refused(gconstpointer arg)
{
        const struct kind *k = arg;
        static const int rows[][2] = {
                {50,  99  },
                {200, 0   },
                {200, -1  },
                {200, 1001},
                {200, 199 },
                {500, 499 }
        };
        struct tree t;
        struct err err = {0};
        struct cpu_live live;
        set_up_kind(&t, k);
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                g_assert_cmpint(hold_up_to(&t, "vcpu3", rows[i][0], rows[i][1], &err), ==, -EINVAL);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_nonnull(strstr(err.sentence, "ceiling"));
        }
        /* A kernel without quotas: nothing is left, or it goes without. */
        g_assert_cmpint(hold_up_to(&t, "vcpu3", 200, 500, &err), ==, -EOPNOTSUPP);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        g_assert_cmpint(t.host.provider->read(&t.host, "v", "vcpu3", 0, &live, &err), ==, -ENOENT);
        ok(hold_up_to(&t, "vcpu3", 200, 1000, &err), &err);
        t.host.is_best_effort = true;
        ok(hold_up_to(&t, "vcpu3", 200, 500, &err), &err);
        ceiling_is(&t, "vcpu3", -1, 0);
        tear_down(&t);
}

static void test_item_names(void)
{
        static const char *const bad[] = {
                "", "a/b", "..", "a@b", "a b", "emulator", "parked", "-", "0123456789012345678901234567890x"};
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                struct err err = {0};
                g_assert_cmpint(cpu_host_check_item(bad[i], &err), ==, -EINVAL);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
        }
        static const char *const good[] = {"vcpu3", "ram0", "thread-1", "parked1",
                                           "0123456789012345678901234567890"};
        for (size_t i = 0; i < G_N_ELEMENTS(good); i++)
                g_assert_cmpint(cpu_host_check_item(good[i], NULL), ==, 0);
}

static void test_hold_refused(void)
{
        struct tree t;
        set_up(&t, v1_mounts, CPU_CGROUP_V1);
        static const struct {
                const char *cpus;
                int milli;
                enum reason reason;
        } rows[] = {
                {"",    500,  REASON_INVALID},
                {"7",   500,  REASON_DENIED },
                {"0-6", 500,  REASON_DENIED },
                {"1",   0,    REASON_INVALID},
                {"1",   -1,   REASON_INVALID},
                {"1",   1001, REASON_INVALID}
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct cpulist cpus = set_of(rows[i].cpus);
                struct err err = {0};
                g_assert_cmpint(place(&t, "v", 1, &cpus, rows[i].milli, &err), <, 0);
                g_assert_cmpint(err.reason, ==, rows[i].reason);
        }
        g_assert_false(is_there(&t, "cpu/mete"));
        tear_down(&t);
}

/* The kernel accepts a value and keeps another: here a file that cannot be written to is what it keeps. */
static void test_not_taken(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, v1_mounts, CPU_CGROUP_V1);
        ok(t.host.provider->start(&t.host, &err), &err);
        g_autofree char *shares = g_build_filename(t.dir, "cpu/mete/a/vcpu9@v/cpu.shares", NULL);
        g_autofree char *parent = g_path_get_dirname(shares);
        g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
        g_assert_cmpint(symlink("/dev/null", shares), ==, 0);
        struct cpulist cpus = set_of("1");
        g_assert_cmpint(place(&t, "v", 9, &cpus, 500, &err), ==, -EIO);
        g_assert_cmpint(err.reason, ==, REASON_INTERNAL);
        tear_down(&t);
}

/* The CPUs of a group cannot be written any more: the thread stays in it, with the weight that it had. */
static void test_failed_move_is_taken_back(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, v1_mounts, CPU_CGROUP_V1);
        const struct cpu_provider *p = t.host.provider;
        ok(p->start(&t.host, &err), &err);
        ok(p->vm_make(&t.host, "v", &err), &err);
        struct cpulist one = set_of("1"), two = set_of("2");
        ok(place(&t, "v", 9, &one, 500, &err), &err);
        g_autofree char *set = g_build_filename(t.dir, "cpuset/mete/a/vcpu9@v/cpuset.cpus", NULL);
        g_autofree char *aside = g_build_filename(t.dir, "cpuset/mete/a/parked@v/cpuset.cpus", NULL);
        g_assert_cmpint(unlink(set), ==, 0);
        g_assert_cmpint(symlink("/dev/null", set), ==, 0);
        g_assert_cmpint(place(&t, "v", 9, &two, 900, &err), <, 0);
        is(&t, "cpu/mete/a/vcpu9@v/cpu.shares", "5000");
        is(&t, "cpu/mete/a/vcpu9@v/tasks", "9");
        is(&t, "cpuset/mete/a/vcpu9@v/tasks", "9");
        g_assert_false(is_there(&t, "cpu/mete/a/emulator@v/tasks"));
        /* Into another group that cannot be made: that one goes, it stays. */
        g_autofree char *parent = g_path_get_dirname(aside);
        g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
        g_assert_cmpint(symlink("/dev/null", aside), ==, 0);
        g_assert_cmpint(p->park(&t.host, "v", 9, &err), <, 0);
        is(&t, "cpu/mete/a/vcpu9@v/tasks", "9");
        g_assert_false(is_there(&t, "cpu/mete/a/emulator@v/tasks"));
        g_assert_false(is_there(&t, "cpu/mete/a/parked@v"));
        tear_down(&t);
}

static void test_words(void)
{
        static const struct {
                const char *words, *word;
                bool is_one;
        } rows[] = {
                {"cpu",                   "cpu",    true },
                {"cpuset cpuacct memory", "cpu",    false},
                {"cpuset cpu io",         "cpu",    true },
                {"rw,cpuacct,cpu\n",      "cpu",    true },
                {"rw,cpuset",             "cpu",    false},
                {"cpu",                   "cpuset", false},
                {"",                      "cpu",    false},
                {" ,\n",                  "cpu",    false},
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
                g_assert_cmpint(cgroupfs_has_word(rows[i].words, rows[i].word), ==, rows[i].is_one);
}

static void test_prefix_refused(void)
{
        static const char *const rows[] = {"", "/", "/a", "a/", "a//b", "..", "a/../b", "a b", ".", "-a"};
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct cpu_host h;
                struct err err = {0};
                struct cpu_host_options o = {.prefix = rows[i]};
                g_assert_cmpint(cpu_host_init(&h, &o, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
        }
        g_autofree char *longest = g_strnfill(CPU_PREFIX_SIZE, 'a');
        struct cpu_host h;
        struct cpu_host_options o = {.prefix = longest};
        g_assert_cmpint(cpu_host_init(&h, &o, NULL), <, 0);
}

/* On this very thread, which is put back. */
static void test_affinity(void)
{
        struct tree t;
        struct err err = {0};
        cpu_set_t before, now;
        g_assert_cmpint(sched_getaffinity(0, sizeof(before), &before), ==, 0);
        int cpu = 0;
        while (!CPU_ISSET(cpu, &before))
                cpu++;
        set_up(&t, "34 25 0:31 / /nonexistent rw - cgroup2 cgroup2 rw\n", CPU_AFFINITY);
        t.host.usable = t.host.housekeeping = (struct cpulist){0};
        g_assert_true(cpulist_add(&t.host.usable, (uint32_t)cpu));
        g_assert_cmpstr(t.host.fallback, !=, "");
        (void)g_snprintf(t.host.keep_dir, sizeof(t.host.keep_dir), "%s/held", t.dir);
        ok(t.host.provider->start(&t.host, &err), &err);
        g_assert_cmpint(place(&t, "v", gettid(), &t.host.usable, 500, &err), ==, -EOPNOTSUPP);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        ok(place(&t, "v", gettid(), &t.host.usable, 1000, &err), &err);
        g_assert_cmpint(sched_getaffinity(0, sizeof(now), &now), ==, 0);
        g_assert_true(CPU_COUNT(&now) == 1 && CPU_ISSET(cpu, &now));
        /* Nobody can be kept off: exclusive is refused, or taken for what it is worth. */
        g_assert_cmpint(hold(&t, "v", "vcpu0", &t.host.usable, 1000, true, &err), ==, -EOPNOTSUPP);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        ok(hold(&t, "v", "vcpu0", &t.host.usable, 1000, false, &err), &err);
        struct cpu_hold what = {.cpus = t.host.usable, .share_milli = 500, .ceiling_milli = 500};
        g_assert_cmpint(t.host.provider->hold(&t.host, "v", "vcpu0", &what, &err), ==, -EOPNOTSUPP);
        t.host.is_best_effort = true;
        ok(hold(&t, "v", "vcpu0", &t.host.usable, 1000, true, &err), &err);
        g_assert_cmpint(exclusive_of(&t, "v", "vcpu0"), ==, -1);
        struct cpu_live live;
        ok(t.host.provider->hold(&t.host, "v", "vcpu0", &what, &err), &err);
        ok(t.host.provider->read(&t.host, "v", "vcpu0", 0, &live, &err), &err);
        g_assert_true(live.ceiling_milli == -1 && live.period_us == 0);
        g_assert_cmpstr(live.fallback, ==, t.host.fallback);
        ok(place(&t, "v", gettid(), &t.host.usable, 500, &err), &err);
        g_assert_cmpint(sched_setaffinity(0, sizeof(before), &before), ==, 0);
        g_assert_cmpint(place(&t, "v", INT_MAX, &t.host.usable, 1000, &err), ==, -ESRCH);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        tear_down(&t);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/cpu/v1", test_v1);
        g_test_add_func("/cpu/v2", test_v2);
        g_test_add_func("/cpu/delegated", test_delegated);
        g_test_add_func("/cpu/items", test_items);
        g_test_add_func("/cpu/prune", test_prune);
        g_test_add_func("/cpu/item-faults", test_item_faults);
        for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
                static const struct {
                        const char *name;
                        GTestDataFunc fn;
                } tests[] = {
                        {"",         test_exclusive        },
                        {"-restart", test_exclusive_restart},
                        {"-last",    test_exclusive_last   },
                        {"-faults",  test_exclusive_faults },
                };
                static const struct {
                        const char *name;
                        GTestDataFunc fn;
                } ceilings[] = {
                        {"",         test_ceiling        },
                        {"-by-hand", test_ceiling_by_hand},
                        {"-faults",  test_ceiling_faults },
                        {"-refused", test_ceiling_refused},
                };
                for (size_t n = 0; n < G_N_ELEMENTS(ceilings); n++) {
                        g_autofree char *name =
                                g_strdup_printf("/cpu/%s/ceiling%s", kinds[i].name, ceilings[n].name);
                        g_test_add_data_func(name, &kinds[i], ceilings[n].fn);
                }
                for (size_t n = 0; n < G_N_ELEMENTS(tests); n++) {
                        g_autofree char *name =
                                g_strdup_printf("/cpu/%s/exclusive%s", kinds[i].name, tests[n].name);
                        g_test_add_data_func(name, &kinds[i], tests[n].fn);
                }
        }
        g_test_add_func("/cpu/item-names", test_item_names);
        g_test_add_func("/cpu/hold-refused", test_hold_refused);
        g_test_add_func("/cpu/not-taken", test_not_taken);
        g_test_add_func("/cpu/failed-move-is-taken-back", test_failed_move_is_taken_back);
        g_test_add_func("/cpu/words", test_words);
        g_test_add_func("/cpu/prefix-refused", test_prefix_refused);
        g_test_add_func("/cpu/affinity", test_affinity);
        return g_test_run();
}
