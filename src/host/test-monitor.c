/* SPDX-License-Identifier: Apache-2.0 */
#include <glib.h>
#include <glib/gstdio.h>
#include "host/monitor.h"

static char *dir;

static void put(const char *name, const char *text)
{
        g_autofree char *path = g_build_filename(dir, name, NULL), *parent = g_path_get_dirname(path);
        g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
        g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void clean(void)
{
        g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
        g_free(dir);
}

static void test_figures(void)
{
        struct monitor a = {0}, b = {0};
        struct err err = {0};
        dir = g_dir_make_tmp("mete-monitor-XXXXXX", NULL);
        put("stat",
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 0 50 800 50 0 0 0 70 0\ncpu2 1 1 1 1 1 1 1 1 0 0\nintr 5\n");
        put("pressure/cpu", "some avg10=1.25 avg60=0.07 avg300=0.00 total=123456\nfull avg10=0.00 avg60=0.00 "
                            "avg300=0.00 total=0\n");
        put("pressure/memory", "some avg10=100.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=2.50 avg60=3.00 "
                               "avg300=0.00 total=1\n");
        put("meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n");
        g_assert_cmpint(monitor_read(&a, dir, 1000, &err), ==, 0);
        g_assert_cmpuint(a.n_cpus, ==, 3);
        g_assert_true(a.cpus[0].is_online && !a.cpus[1].is_online && a.cpus[2].is_online);
        g_assert_cmpuint(a.cpus[0].idle_ticks, ==, 850);
        g_assert_cmpuint(a.cpus[0].total_ticks, ==, 1000);
        g_assert_true(a.psi[MONITOR_CPU].is_known && !a.psi[MONITOR_IO].is_known);
        g_assert_cmpint(a.psi[MONITOR_CPU].some_avg10, ==, 125);
        g_assert_cmpint(a.psi[MONITOR_CPU].some_avg60, ==, 7);
        g_assert_cmpuint(a.psi[MONITOR_CPU].some_total_us, ==, 123456);
        g_assert_cmpint(a.psi[MONITOR_MEMORY].some_avg10, ==, 10000);
        g_assert_cmpint(a.psi[MONITOR_MEMORY].full_avg60, ==, 300);
        g_assert_cmpint(a.memory_total_bytes, ==, 1024000);
        g_assert_cmpint(a.memory_available_bytes, ==, 409600);

        put("stat", "cpu0 350 0 50 1550 50 0 0 0 0 0\ncpu1 1 0 0 1 0 0 0 0 0 0\ncpu3 1 0 0 1 0 0 0 0 0 0\n");
        put("meminfo", "nonsense\n");
        put("pressure/cpu", "nonsense\n");
        g_assert_cmpint(monitor_read(&b, dir, 2000, &err), ==, 0);
        g_assert_cmpint(monitor_busy_milli(&a, &b, 0), ==, 250);
        for (uint32_t cpu = 1; cpu < 6; cpu++) /* off line before, off line now, new, unknown */
                g_assert_cmpint(monitor_busy_milli(&a, &b, cpu), ==, -1);
        g_assert_cmpint(monitor_busy_milli(&a, &a, 0), ==, -1);
        g_assert_cmpint(b.memory_total_bytes, ==, -1);
        g_assert_false(b.psi[MONITOR_CPU].is_known);
        g_assert_cmpint(monitor_read(&b, "/nonexistent", 0, &err), <, 0);
        monitor_done(&a);
        monitor_done(&b);
        monitor_done(&b);
        clean();
}

static void test_live(void)
{
        struct monitor m = {0};
        struct err err = {0};
        g_assert_cmpint(monitor_read(&m, "/proc", 0, &err), ==, 0);
        g_assert_cmpuint(m.n_cpus, >=, 1);
        g_assert_cmpuint(m.cpus[0].total_ticks, >, 0);
        g_assert_cmpint(m.memory_available_bytes, >, 0);
        g_assert_cmpint(m.memory_available_bytes, <=, m.memory_total_bytes);
        monitor_done(&m);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/monitor/figures", test_figures);
        g_test_add_func("/monitor/live", test_live);
        return g_test_run();
}
