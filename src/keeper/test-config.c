/* SPDX-License-Identifier: Apache-2.0 */
#include <glib.h>
#include <string.h>
#include "keeper/config.h"

static void test_defaults(void)
{
        struct keeper_config c;
        struct err err = {0};
        if (keeper_config_parse("[keeper]\nmeted_user=root\n", &c, &err) < 0)
                g_error("%s", err.sentence);
        g_assert_cmpstr(c.run_dir, ==, "/run/mete-keeper");
        g_assert_cmpstr(c.socket, ==, "/run/mete-keeper/keeper.sock");
        g_assert_cmpstr(c.ram_dir, ==, "/dev/shm/mete");
        g_assert_cmpstr(c.cgroup_prefix, ==, "mete");
        g_assert_cmpstr(c.qemu[0], ==, "/usr/bin/qemu-system-x86_64");
        g_assert_true(g_str_has_suffix(c.guard, "/mete-guard"));
        g_assert_null(c.cpus);
        g_assert_cmpuint(c.uid_first, ==, 70000);
        g_assert_cmpuint(c.uid_count, ==, 1024);
        g_assert_cmpuint(c.users[0].uid, ==, 0);
        g_assert_true(c.wants_scope);
        keeper_config_done(&c);
        keeper_config_done(&c);
}

static void test_all(void)
{
        struct keeper_config c;
        struct err err = {0};
        if (keeper_config_parse(
                    "[keeper]\nmeted_user=0\nrun_dir=/r\nsocket=/s\nram_dir=/m\nguard=/g\nqemu=/a/q; /b/q\n"
                    "uid_first=2000\nuid_count=3\ncgroup_prefix=a/b\ncpus=0-1\nhousekeeping=0\n"
                    "best_effort=true\nscope=false\n[net]\nmanage=yes\nbridge=br0\nuplink=eth0\nrate=2.5G\n"
                    "[resctrl]\nmanage=yes\npath=/t/resctrl\n",
                    &c, &err) < 0)
                g_error("%s", err.sentence);
        g_assert_cmpstr(c.socket, ==, "/s");
        g_assert_cmpstr(c.qemu[1], ==, "/b/q");
        g_assert_cmpstr(c.guard, ==, "/g");
        g_assert_cmpuint(c.uid_count, ==, 3);
        g_assert_cmpstr(c.housekeeping, ==, "0");
        g_assert_true(c.is_best_effort);
        g_assert_false(c.wants_scope);
        g_assert_true(c.manages_net);
        g_assert_cmpstr(c.bridge, ==, "br0");
        g_assert_cmpstr(c.uplink, ==, "eth0");
        g_assert_cmpuint(c.link_bps, ==, 2500000000);
        g_assert_true(c.manages_resctrl);
        g_assert_cmpstr(c.resctrl, ==, "/t/resctrl");
        keeper_config_done(&c);
}

static void test_refused(void)
{
        static const char *const rows[] = {
                "nonsense",
                "[keeper]\nmeted_user=no-such-user-here\n",
                "[keeper]\nmeted_user=root\nrundir=/x\n",
                "[keeper]\nmeted_user=root\n[other]\nx=1\n",
                "[keeper]\nmeted_user=root\nrun_dir=relative\n",
                "[keeper]\nmeted_user=root\nrun_dir=/a/../b\n",
                "[keeper]\nmeted_user=root\nrun_dir=/a/\n",
                "[keeper]\nmeted_user=root\nqemu=qemu\n",
                "[keeper]\nmeted_user=root\nqemu=\n",
                "[keeper]\nmeted_user=root\nguard=mete-guard\n",
                "[keeper]\nmeted_user=root\nuid_first=0\n",
                "[keeper]\nmeted_user=root\nuid_first=999\n",
                "[keeper]\nmeted_user=root\nuid_first=4294967295\n",
                "[keeper]\nmeted_user=root\nuid_count=0\n",
                "[keeper]\nmeted_user=root\nuid_count=1025\n",
                "[keeper]\nmeted_user=root\nuid_count=-1\n",
                "[keeper]\nmeted_user=root\nbest_effort=perhaps\n",
                "[keeper]\nmeted_user=root\nscope=perhaps\n",
                "[keeper]\nmeted_user=root\n[net]\nmanage=true\nbridge=a\nuplink=b\n",
                "[keeper]\nmeted_user=root\n[net]\nmanage=yes\nbridge=a\n",
                "[keeper]\nmeted_user=root\n[net]\nmanage=yes\nuplink=a\n",
                "[keeper]\nmeted_user=root\n[net]\nbridge=a b\n",
                "[keeper]\nmeted_user=root\n[net]\nbridge=abcdefghijklmnop\n",
                "[keeper]\nmeted_user=root\n[net]\nrate=fast\n",
                "[keeper]\nmeted_user=root\n[net]\nqemu=/a\n",
                "[keeper]\nmeted_user=root\nbridge=a\n",
                "[keeper]\nmeted_user=root\n[resctrl]\nmanage=1\n",
                "[keeper]\nmeted_user=root\n[resctrl]\npath=sys\n",
                "[keeper]\nmeted_user=root\n[resctrl]\npath=\n",
                "[keeper]\nmeted_user=root\n[resctrl]\nrate=1\n",
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct keeper_config c = {.uid_count = 7};
                struct err err = {0};
                g_test_message("%s", rows[i]);
                g_assert_cmpint(keeper_config_parse(rows[i], &c, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_cmpuint(c.uid_count, ==, 7);
        }
        g_autofree char *path = g_strnfill(KEEPER_PATH_MAX, 'x');
        g_autofree char *text = g_strdup_printf("[keeper]\nmeted_user=root\nram_dir=/%s\n", path);
        struct keeper_config c;
        g_assert_cmpint(keeper_config_parse(text, &c, NULL), <, 0);
        struct err err = {0};
        g_assert_cmpint(keeper_config_read("/nonexistent.conf", &c, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/config/defaults", test_defaults);
        g_test_add_func("/config/all", test_all);
        g_test_add_func("/config/refused", test_refused);
        return g_test_run();
}
