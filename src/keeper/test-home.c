/* SPDX-License-Identifier: Apache-2.0 */
/* Where VMs go without a scope; with one it is host/test-scope.c and, for real, tests/nested/test_systemd.py.
 */
#include "keeper/home.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>

struct fixture {
        char *root, *systemd, *bus;
        struct cpu_host cpu;
        struct home_options options;
        struct home home;
};

static void set_up_cpu(struct fixture *f, enum cpu_provider_id id)
{
        f->cpu = (struct cpu_host){.id = id, .n_trees = 1, .prefix = "mete"};
        (void)g_strlcpy(f->cpu.tree[0].root, f->root, sizeof(f->cpu.tree[0].root));
}

static void set_up(struct fixture *f, enum cpu_provider_id id)
{
        static const char *const holder[] = {"/bin/true", NULL};
        *f = (struct fixture){.root = g_dir_make_tmp("mete-home-XXXXXX", NULL)};
        f->systemd = g_build_filename(f->root, "systemd", NULL);
        f->bus = g_strconcat("unix:path=", f->root, "/bus", NULL);
        set_up_cpu(f, id);
        f->options = (struct home_options){
                .systemd = f->systemd,
                .wants_scope = true,
                .scope = {.prefix = "mete",
                          .root = f->cpu.tree[0].root,
                          .state_dir = f->root,
                          .bus = f->bus,
                          .holder = holder,
                          .timeout_ms = 60000}
        };
        g_assert_cmpint(g_mkdir(f->systemd, 0755), ==, 0);
}

/* Without a scope all is as it is on other hosts, but that something is said, or nothing. */
static void tear_down(struct fixture *f, const char *said)
{
        struct err err = {0};
        g_assert_cmpint(home_start(&f->home, &f->options, &f->cpu, &err), ==, 0);
        g_assert_cmpstr(f->cpu.prefix, ==, "mete");
        g_assert_false(f->cpu.is_delegated);
        g_assert_false(f->home.has_scope);
        if (*said)
                g_assert_nonnull(strstr(f->home.fallback, said));
        else
                g_assert_cmpstr(f->home.fallback, ==, "");
        g_assert_cmpint(home_watch(&f->home, &err), ==, 0);
        home_done(&f->home);
        home_done(&f->home);
        g_autofree char *command = g_strdup_printf("rm -rf '%s'", f->root);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
        g_free(f->root);
        g_free(f->systemd);
        g_free(f->bus);
}

static void test_other_init(void)
{
        struct fixture f;
        set_up(&f, CPU_CGROUP_V2);
        g_assert_cmpint(g_rmdir(f.systemd), ==, 0);
        tear_down(&f, "");
}

static void test_affinity(void)
{
        struct fixture f;
        set_up(&f, CPU_AFFINITY);
        tear_down(&f, "");
}

static void test_v1(void)
{
        struct fixture f;
        set_up(&f, CPU_CGROUP_V1);
        tear_down(&f, "systemd hands nothing over on cgroup v1");
}

static void test_unwanted(void)
{
        struct fixture f;
        set_up(&f, CPU_CGROUP_V2);
        f.options.wants_scope = false;
        tear_down(&f, "as [keeper] scope=false says");
}

static void test_no_bus(void)
{
        struct fixture f;
        set_up(&f, CPU_CGROUP_V2);
        tear_down(&f, "systemd gave no scope, so VMs are in /mete, unknown to it: the system bus");
}

/* Made before there was a scope: VMs in it stay in it. An empty one is no reason. */
static void test_old_groups(void)
{
        struct fixture f;
        set_up(&f, CPU_CGROUP_V2);
        g_autofree char *group = g_build_filename(f.root, "mete/emulator@v", NULL),
                        *prefix = g_build_filename(f.root, "mete", NULL);
        g_assert_cmpint(g_mkdir_with_parents(group, 0755), ==, 0);
        struct err err = {0};
        g_assert_cmpint(home_start(&f.home, &f.options, &f.cpu, &err), ==, 0);
        g_assert_nonnull(strstr(f.home.fallback, "VMs of before are in /mete"));
        g_assert_true(g_file_test(group, G_FILE_TEST_IS_DIR));
        home_done(&f.home);
        g_assert_cmpint(g_rmdir(group), ==, 0);
        g_assert_true(home_look(&f.home, &f.options, &f.cpu)); /* changes nothing */
        g_assert_true(g_file_test(prefix, G_FILE_TEST_IS_DIR));
        tear_down(&f, "systemd gave no scope");
}

/* VMs in a scope of before: it is that one, wanted or not, or no start. */
static void test_bound(void)
{
        static const char path[] = "mete.slice/mete-vms.scope";
        static const char *const lost_holder[] = {"/nonexistent", NULL};
        struct fixture f;
        struct err err = {0};
        set_up(&f, CPU_CGROUP_V2);
        g_autofree char *scope = g_build_filename(f.root, path, NULL),
                        *group = g_build_filename(scope, "emulator@v", NULL),
                        *note = g_build_filename(f.root, "scope", NULL),
                        *events = g_build_filename(scope, "cgroup.events", NULL),
                        *procs = g_build_filename(scope, "cgroup.procs", NULL);
        g_assert_cmpint(g_mkdir_with_parents(group, 0755), ==, 0);
        g_assert_true(g_file_set_contents(note, path, -1, NULL));
        g_assert_true(g_file_set_contents(events, "populated 1\n", -1, NULL));
        g_assert_true(g_file_set_contents(procs, "", -1, NULL));

        f.options.wants_scope = false;
        g_assert_cmpint(home_start(&f.home, &f.options, &f.cpu, &err), ==, 0);
        g_assert_true(f.home.has_scope && f.cpu.is_delegated);
        g_assert_cmpstr(f.cpu.prefix, ==, path);
        g_assert_nonnull(strstr(f.home.fallback, "VMs of before are in mete.slice/mete-vms.scope"));
        home_done(&f.home);
        g_assert_true(g_file_test(note, G_FILE_TEST_EXISTS));

        for (int wants = 0; wants < 2; wants++) {
                set_up_cpu(&f, CPU_CGROUP_V2);
                f.options.wants_scope = wants;
                f.options.scope.holder = lost_holder; /* it cannot be kept */
                g_assert_cmpint(home_start(&f.home, &f.options, &f.cpu, &err), ==, -EBUSY);
                g_assert_nonnull(strstr(err.sentence, "cannot be kept"));
                g_assert_false(f.home.has_scope || f.cpu.is_delegated);
        }

        /* Under another name they would be in nobody's; and that is so each time. */
        for (int again = 0; again < 2; again++) {
                set_up_cpu(&f, CPU_CGROUP_V2);
                f.options.wants_scope = again;
                f.options.scope.prefix = "other";
                g_assert_cmpint(home_start(&f.home, &f.options, &f.cpu, &err), ==, -EBUSY);
                g_assert_nonnull(strstr(err.sentence, "are in mete.slice/mete-vms.scope, not in other-vms"));
                g_assert_true(g_file_test(note, G_FILE_TEST_EXISTS));
        }
        f.options.scope.prefix = "mete";
        set_up_cpu(&f, CPU_CGROUP_V2);

        /* Without VMs it binds nobody. */
        g_assert_cmpint(g_rmdir(group), ==, 0);
        f.options.wants_scope = false;
        tear_down(&f, "as [keeper] scope=false says");
}

int main(int argc, char **argv)
{
        (void)signal(SIGPIPE, SIG_IGN); /* as in the keeper */
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/keeper/home/other-init", test_other_init);
        g_test_add_func("/keeper/home/affinity", test_affinity);
        g_test_add_func("/keeper/home/v1", test_v1);
        g_test_add_func("/keeper/home/unwanted", test_unwanted);
        g_test_add_func("/keeper/home/no-bus", test_no_bus);
        g_test_add_func("/keeper/home/old-groups", test_old_groups);
        g_test_add_func("/keeper/home/bound", test_bound);
        return g_test_run();
}
