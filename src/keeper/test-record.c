/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>
#include "keeper/record.h"

static void test_round_trip(void)
{
        g_autofree char *dir = g_dir_make_tmp("mete-record-XXXXXX", NULL);
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct record r = {.vm = "a.b-c", .pid = 4242, .start_ticks = 123456789012, .uid = 70001}, back;
        struct err err = {0};
        if (record_write(fd, &r, &err) < 0 || record_read(fd, "a.b-c.json", &back, &err) < 0)
                g_error("%s", err.sentence);
        g_assert_cmpstr(r.vm, ==, back.vm);
        g_assert_cmpint(r.pid, ==, back.pid);
        g_assert_cmpuint(r.start_ticks, ==, back.start_ticks);
        g_assert_cmpuint(r.uid, ==, back.uid);
        /* Under another VM's name it is not believed. */
        g_assert_cmpint(renameat(fd, "a.b-c.json", fd, "d.json"), ==, 0);
        g_assert_cmpint(record_read(fd, "d.json", &back, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_cmpint(record_read(fd, "a.b-c.json", &back, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        record_remove(fd, "d");
        (void)close(fd);
        g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void test_refused(void)
{
        static const char *const rows[] = {
                "",
                "{}",
                "[1]",
                "{\"vm\":\"a\",\"pid\":1,\"start_ticks\":5,\"uid\":70000}",
                "{\"vm\":\"a\",\"pid\":0,\"start_ticks\":5,\"uid\":70000}",
                "{\"vm\":\"a\",\"pid\":-5,\"start_ticks\":5,\"uid\":70000}",
                "{\"vm\":\"a\",\"pid\":4294967296,\"start_ticks\":5,\"uid\":70000}",
                "{\"vm\":\"../a\",\"pid\":5,\"start_ticks\":5,\"uid\":70000}",
                "{\"vm\":\"a\",\"pid\":5,\"start_ticks\":5,\"uid\":0}",
                "{\"vm\":\"a\",\"pid\":5,\"start_ticks\":\"5\",\"uid\":70000}",
                "{\"vm\":\"a\",\"pid\":5,\"start_ticks\":5}",
                "{\"vm\":\"a\",\"pid\":5,\"start_ticks\":5,\"uid\":70000,\"x\":1}",
                "{\"vm\":\"a\",\"pid\":5,\"pid\":6,\"start_ticks\":5,\"uid\":70000}",
                "{\"vm\":\"a\",\"pid\":5,\"start_ti",
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct record r = {.pid = 77};
                struct err err = {0};
                g_test_message("%s", rows[i]);
                g_assert_cmpint(record_parse(rows[i], strlen(rows[i]), &r, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_cmpint(r.pid, ==, 77);
        }
}

static void test_stat(void)
{
        uint64_t ticks;
        char state;
        /* A program may call itself anything. */
        static const char hostile[] =
                "12 (a) R 1 (b) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987 1 1\n";
        g_assert_cmpint(record_parse_stat(hostile, &ticks, &state), ==, 0);
        g_assert_cmpuint(ticks, ==, 987);
        g_assert_true(state == 'S');
        static const char *const bad[] = {"",
                                          "12",
                                          "12 (a",
                                          "12 (a)",
                                          "12 (a) S 1 2 3",
                                          "1 (a) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 x"};
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_cmpint(record_parse_stat(bad[i], &ticks, &state), <, 0);
        struct err err = {0};
        g_assert_cmpint(record_start_ticks(getpid(), &ticks, &err), ==, 0);
        g_assert_cmpuint(ticks, >, 0);
        g_assert_cmpint(record_start_ticks(0x7ffffffe, &ticks, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/record/round-trip", test_round_trip);
        g_test_add_func("/record/refused", test_refused);
        g_test_add_func("/record/stat", test_stat);
        return g_test_run();
}
