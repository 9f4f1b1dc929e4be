/* SPDX-License-Identifier: Apache-2.0 */
/* What is used, of a /proc that is ours. */
#include "agent/demand.h"

#include <glib.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/mete-demand-XXXXXX";
static struct demand d;
static struct demand_said said;

static void put(const char *file, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(const char *file, const char *format, ...)
{
        g_autofree char *path = g_build_filename(dir, file, NULL), *folder = g_path_get_dirname(path);
        va_list ap;
        va_start(ap, format);
        g_autofree char *text = g_strdup_vprintf(format, ap);
        va_end(ap);
        g_assert_cmpint(g_mkdir_with_parents(folder, 0700), ==, 0);
        g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void begin(void)
{
        strcpy(dir + strlen(dir) - 6, "XXXXXX");
        g_assert_nonnull(g_mkdtemp(dir));
        demand_init(&d, dir);
}

static void end(void)
{
        g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
}

static bool knows(enum demand_kind kind)
{
        return said.is_known & 1U << kind;
}

static void look(int64_t ms)
{
        demand_look(&d, ms, 2, &said);
}

static void test_nothing(void)
{
        begin();
        look(1000);
        look(2000);
        g_assert_cmpuint(said.is_known, ==, 0);
        put("stat", "cpu none\n");
        put("meminfo", "MemTotal: 10 kB\nMemFree: 1 kB\nMemAvailable: 11 kB\n");
        put("net/dev", "rubbish\n");
        look(3000);
        look(4000);
        g_assert_false(knows(DEMAND_CPU));
        g_assert_false(knows(DEMAND_MEMORY));
        for (int kind = 0; kind < DEMAND_N; kind++)
                g_assert_cmpstr(demand_name((enum demand_kind)kind), !=, "");
        end();
}

static void test_cpu(void)
{
        double tick_ms = 1000.0 / (double)sysconf(_SC_CLK_TCK);
        begin();
        put("stat", "cpu  100 0 0 5000 77 0 0 0 0 0\ncpu0 1 2 3\n");
        look(1000);
        g_assert_false(knows(DEMAND_CPU)); /* a rate has two ends */
        /* 60 ticks of all kinds in 10 s; idle, waiting for a disk and guests of ours are none */
        put("stat", "cpu  110 10 10 9000 99 10 10 10 500 500\n");
        put("loadavg", "9.0 9.0 9.0 2/100 7\n");
        look(11000);
        g_assert_true(knows(DEMAND_CPU));
        g_assert_cmpfloat_with_epsilon(said.amount[DEMAND_CPU], 60 * tick_ms / 10, 0.01);
        /* Without PSI, who waits: five run, one of them this one, on two CPUs. */
        put("loadavg", "9.0 9.0 9.0 5/100 7\n");
        look(21000);
        g_assert_cmpfloat_with_epsilon(said.amount[DEMAND_CPU], 2000, 0.01);
        /* With it, the part of the time in which anybody waited. */
        put("pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\nfull avg10=0 total=3\n");
        look(31000);
        put("pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=6000000\n");
        look(41000);
        g_assert_cmpfloat_with_epsilon(said.amount[DEMAND_CPU], 1000, 0.01);
        /* Counters that go back have counted nothing. */
        put("stat", "cpu  1 0 0 1 0 0 0 0 0 0\n");
        put("pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n");
        look(51000);
        g_assert_cmpfloat(said.amount[DEMAND_CPU], ==, 0);
        end();
}

static void test_memory(void)
{
        begin();
        put("meminfo", "MemTotal:     1000 kB\nMemFree:       10 kB\nMemAvailable:  400 kB\n");
        look(1000);
        g_assert_true(knows(DEMAND_MEMORY));
        g_assert_cmpfloat(said.amount[DEMAND_MEMORY], ==, 600 * 1024);
        g_assert_cmpfloat(said.memory_total, ==, 1000 * 1024);
        put("pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
        look(2000);
        put("pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n");
        look(3000);
        g_assert_cmpfloat_with_epsilon(said.amount[DEMAND_MEMORY], 900 * 1024, 1);
        end();
}

static void test_rates(void)
{
        const char *head = "Inter-|   Receive |  Transmit\n face |bytes packets |bytes\n";
        begin();
        put("net/dev",
            "%s    lo: 900 1 0 0 0 0 0 0 900 1 0 0 0 0 0 0\n  eth0:1000 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0\n",
            head);
        put("diskstats", " 254 0 vda 10 0 100 0 10 0 200 0 0 0 0\n 254 1 vda1 9 0 999 0 9 0 999 0 0 0 0\n"
                         " 7 0 loop0 1 0 888 0 0 0 0 0 0 0 0\n 259 0 nvme0n1 1 0 0 0 1 0 0 0 0 0 0\n");
        look(1000);
        g_assert_false(knows(DEMAND_NET) || knows(DEMAND_BLOCK));
        put("net/dev",
            "%s    lo: 99900 1 0 0 0 0 0 0 99900 1 0 0 0 0 0 0\n  eth0: 2000 1 0 0 0 0 0 0 4500 1 0 0 0 0 0 "
            "0\n",
            head);
        put("diskstats", " 254 0 vda 10 0 110 0 10 0 210 0 0 0 0\n 254 1 vda1 9 0 1999 0 9 0 1999 0 0 0 0\n"
                         " 7 0 loop0 1 0 1888 0 0 0 0 0 0 0 0\n 259 0 nvme0n1 1 0 4 0 1 0 6 0 0 0 0\n 259 1 "
                         "nvme0n1p1 1 0 4 0 1 0 6 0 0\n");
        look(3000);
        g_assert_cmpfloat_with_epsilon(said.amount[DEMAND_NET], 4000 * 8 / 2.0, 0.01); /* sent, in 2 s */
        g_assert_cmpfloat_with_epsilon(said.amount[DEMAND_BLOCK], 30 * 512 / 2.0, 0.01);
        end();
}

/* The kernel's own, of the machine of the test: all of it can be read. */
static void test_real(void)
{
        demand_init(&d, "/proc");
        look(1000);
        g_assert_true(knows(DEMAND_MEMORY));
        g_assert_cmpfloat(said.amount[DEMAND_MEMORY], >, 0);
        look(2000);
        g_assert_true(knows(DEMAND_CPU));
        g_assert_cmpfloat(said.amount[DEMAND_CPU], >=, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/agent/demand/nothing", test_nothing);
        g_test_add_func("/agent/demand/cpu", test_cpu);
        g_test_add_func("/agent/demand/memory", test_memory);
        g_test_add_func("/agent/demand/rates", test_rates);
        g_test_add_func("/agent/demand/real", test_real);
        return g_test_run();
}
