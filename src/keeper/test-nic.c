/* SPDX-License-Identifier: Apache-2.0 */
/* Records of network cards, and a keeper that manages no network. What the kernel has to do with it is in
 * tests/root/test_nic.py. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>
#include "keeper/nic-record.h"
#include "keeper/nic.h"

static void count(const struct nic_record *r, void *arg)
{
        g_assert_cmpuint(r->tap, ==, 7);
        (*(unsigned *)arg)++;
}

static void test_record(void)
{
        g_autofree char *dir = g_dir_make_tmp("mete-nic-XXXXXX", NULL);
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct err err = {0};
        struct nic_record r = {.vm = "v", .tap = 7}, again;
        uint64_t rate = 0;
        unsigned n = 0;
        g_assert_cmpint(nic_record_read(fd, "v", &again, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        for (int i = 0; i < NIC_ITEMS_MAX; i++) {
                g_autofree char *name = g_strdup_printf("nic%d", i);
                g_assert_cmpint(nic_record_set(&r, name, &(struct net_rate){64000 + (uint64_t)i, 0}, &err),
                                ==, 0);
        }
        g_assert_cmpint(nic_record_set(&r, "nic3", &(struct net_rate){100000, 9000000}, &err), ==,
                        0); /* another rate, not another item */
        g_assert_cmpint(nic_record_set(&r, "nic64", &(struct net_rate){64000, 0}, &err), ==, -E2BIG);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        g_assert_cmpint(nic_record_write(fd, &r, &err), ==, 0);
        g_assert_cmpint(nic_record_read(fd, "v", &again, &err), ==, 0);
        g_assert_cmpuint(again.tap, ==, 7);
        g_assert_cmpuint(again.n_items, ==, NIC_ITEMS_MAX);
        g_assert_true(nic_record_has(&again, "nic3", &rate));
        g_assert_cmpuint(rate, ==, 100000);
        g_assert_cmpuint(nic_record_rate(&again).rate_bps, ==, 64 * 64000 + 63 * 64 / 2 - 3 + 36000);
        g_assert_cmpuint(nic_record_rate(&again).ceiling_bps, ==, 9000000);
        nic_record_take_out(&again, "nic3");
        nic_record_take_out(&again, "nic3");
        g_assert_false(nic_record_has(&again, "nic3", &rate));
        g_assert_cmpuint(nic_record_rate(&again).ceiling_bps, ==, 0); /* it was that item's alone */
        for (int i = 4; i < 6; i++) {
                g_autofree char *name = g_strdup_printf("nic%d", i);
                struct net_rate each = {64000, 6000000 - 1000000 * (uint64_t)i};
                g_assert_cmpint(nic_record_set(&again, name, &each, &err), ==, 0);
        }
        g_assert_cmpuint(nic_record_rate(&again).ceiling_bps, ==, 1000000);
        g_assert_cmpuint(again.n_items, ==, NIC_ITEMS_MAX - 1);
        g_assert_cmpuint(nic_records_each(fd, count, &n), ==, 0);
        g_assert_cmpuint(n, ==, 1);
        /* What is not a record is counted, and another VM's is none. */
        g_assert_cmpint(renameat(fd, "v.json", fd, "w.json"), ==, 0);
        g_assert_cmpint(nic_record_read(fd, "w", &again, &err), ==, -EINVAL);
        g_assert_cmpuint(nic_records_each(fd, count, &n), ==, 1);
        g_assert_cmpuint(nic_records_each(-1, count, &n), ==, 1); /* where nothing can be known */
        for (int i = 0; i < 2; i++)
                g_assert_cmpint(nic_record_remove(fd, "w", &err), ==, 0);
        (void)close(fd);
        g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void test_refused(void)
{
        static const char *const rows[] = {
                "",
                "{}",
                "[]",
                "{\"vm\":\"v\",\"tap\":0}",
                "{\"vm\":\"v\",\"tap\":0,\"items\":{}}",
                "{\"vm\":\"v\",\"tap\":-1,\"items\":{\"a\":{\"rate_bps\":64000,\"ceiling_bps\":0}}}",
                "{\"vm\":\"v\",\"tap\":4096,\"items\":{\"a\":{\"rate_bps\":64000,\"ceiling_bps\":0}}}",
                "{\"vm\":\"../v\",\"tap\":0,\"items\":{\"a\":{\"rate_bps\":64000,\"ceiling_bps\":0}}}",
                "{\"vm\":\"v\",\"tap\":0,\"items\":{\"a\":{\"rate_bps\":64000,\"ceiling_bps\":-1}}}",
                "{\"vm\":\"v\",\"tap\":0,\"items\":{\"a\":{\"rate_bps\":64000}}}",
                "{\"vm\":\"v\",\"tap\":0,\"items\":{\"a\":{\"rate_bps\":64000,\"ceiling_bps\":0,\"x\":1}}}",
                "{\"vm\":\"v\",\"tap\":0,\"items\":{\"a\":64000}}",
                "{\"vm\":\"v\",\"tap\":0,\"items\":{\"a\":{\"rate_bps\":63999,\"ceiling_bps\":0}}}",
                "{\"vm\":\"v\",\"tap\":0,\"items\":{\"a b\":{\"rate_bps\":64000,\"ceiling_bps\":0}}}",
                "{\"vm\":\"v\",\"tap\":0,\"items\":[{\"rate_bps\":64000,\"ceiling_bps\":0}]}",
                "{\"vm\":\"v\",\"tap\":0,\"items\":{\"a\":{\"rate_bps\":64000,\"ceiling_bps\":0}},\"x\":1}",
        };
        static const char good[] =
                "{\"vm\":\"v\",\"tap\":0,\"items\":{\"a\":{\"rate_bps\":64000,\"ceiling_bps\":0}}}";
        struct nic_record r;
        struct err err = {0};
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                g_test_message("%s", rows[i]);
                g_assert_cmpint(nic_record_parse(rows[i], strlen(rows[i]), &r, &err), <, 0);
        }
        g_assert_cmpint(nic_record_parse(good, strlen(good), &r, &err), ==, 0);
}

static void test_unmanaged(void)
{
        struct keeper_config c = {.run_dir = (char *)"/nonexistent"};
        struct nics n;
        struct err err = {0};
        struct nic_live live;
        struct nic_said said;
        int fd;
        g_assert_cmpint(nics_init(&n, &c, &err), ==, 0);
        nics_say(&n, &said);
        g_assert_cmpstr(said.fallback, ==, "");
        g_assert_false(said.is_ready);
        g_assert_cmpint(nics_hold(&n, "v", "nic0", &(struct net_rate){1000000, 0}, false, &err), ==,
                        -EOPNOTSUPP);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(strstr(err.sentence, "manage=yes"));
        g_assert_cmpint(nics_let_go(&n, "v", "nic0", &err), ==, 0);
        g_assert_cmpint(nics_drop(&n, "v", &err), ==, 0);
        g_assert_cmpint(nics_read(&n, "v", "nic0", &live, &err), ==, -ENOENT);
        g_assert_cmpint(nics_tap(&n, "v", &fd, &err), ==, -ENOENT);
        nics_done(&n);
        nics_done(&n);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/nic/record", test_record);
        g_test_add_func("/nic/refused", test_refused);
        g_test_add_func("/nic/unmanaged", test_unmanaged);
        return g_test_run();
}
