/* SPDX-License-Identifier: Apache-2.0 */
/* A made-up /sys and /proc: what the kernel's files say is read as it stands, and nothing is made of what
 * they do not say; what the real kernel sends can be heard. */
#include "host/presence.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static char *root;

static void begin(void)
{
        root = g_dir_make_tmp("mete-presence-XXXXXX", NULL);
        g_assert_nonnull(root);
}

static void put(const char *path, const char *text)
{
        g_autofree char *file = g_build_filename(root, path, NULL), *dir = g_path_get_dirname(file);
        g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
        g_assert_true(g_file_set_contents(file, text, -1, NULL));
}

static void clear(const char *dir)
{
        GDir *d = g_dir_open(dir, 0, NULL);
        for (const char *name; d && (name = g_dir_read_name(d));) {
                g_autofree char *path = g_build_filename(dir, name, NULL);
                if (g_file_test(path, G_FILE_TEST_IS_DIR))
                        clear(path);
                else
                        g_assert_cmpint(g_unlink(path), ==, 0);
        }
        g_dir_close(d);
        g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void end(void)
{
        clear(root);
        g_clear_pointer(&root, g_free);
}

static void test_cpus(void)
{
        struct cpulist l;
        struct err err = {0};
        begin();
        g_assert_cmpint(presence_cpus(root, "online", &l, &err), <, 0);
        put("devices/system/cpu/online", "0,2-3\n");
        g_assert_cmpint(presence_cpus(root, "online", &l, &err), ==, 0);
        g_assert_true(cpulist_count(&l) == 3 && !cpulist_has(&l, 1));
        put("devices/system/cpu/online", "some\n");
        g_assert_cmpint(presence_cpus(root, "online", &l, &err), <, 0);
        end();
}

static void test_node(void)
{
        begin();
        g_assert_cmpint(presence_node(root, 3), ==, -1);
        put("devices/system/cpu/cpu3/topology/x", "");
        put("devices/system/cpu/cpu3/nodes/x", "");
        g_assert_cmpint(presence_node(root, 3), ==, -1);
        put("devices/system/cpu/cpu3/node12/x", "");
        g_assert_cmpint(presence_node(root, 3), ==, 12);
        end();
}

static void test_memory(void)
{
        begin();
        g_assert_cmpint(presence_memory(root, 0), ==, -ENOENT);
        put("devices/system/node/node0/meminfo", "Node 0 MemTotal:       1048576 kB\nNode 0 MemFree: 7 kB\n");
        g_assert_cmpint(presence_memory(root, 0), ==, INT64_C(1) << 30);
        put("devices/system/node/node0/meminfo", "");
        g_assert_cmpint(presence_memory(root, 0), ==, -EBADMSG); /* that is not to be gone */
        put("devices/system/node/node1/meminfo/x", "");
        g_assert_cmpint(presence_memory(root, 1), ==, -EISDIR);
        end();
}

static void test_poisoned(void)
{
        begin();
        g_assert_cmpint(presence_poisoned(root, root, 0, 1), ==, -ENOENT);
        put("meminfo", "MemTotal: 8 kB\n"); /* a kernel that does not look */
        g_assert_cmpint(presence_poisoned(root, root, 0, 1), ==, 0);
        put("meminfo", "MemTotal: 8 kB\nHardwareCorrupted:     0 kB\n");
        g_assert_cmpint(presence_poisoned(root, root, 0, 2), ==, 0);
        put("meminfo", "MemTotal: 8 kB\nHardwareCorrupted:     12 kB\n");
        g_assert_cmpint(presence_poisoned(root, root, 0, 1), ==, 12288);
        g_assert_cmpint(presence_poisoned(root, root, 1, 2), ==, -ENODATA); /* whose? */
        put("devices/system/node/node1/memory_failure/total", "3\n");
        g_assert_cmpint(presence_poisoned(root, root, 1, 2), ==, 12288);
        put("devices/system/node/node0/memory_failure/total/x", "");
        g_assert_cmpint(presence_poisoned(root, root, 0, 2), ==, -EISDIR);
        end();
}

static void test_link(void)
{
        g_assert_cmpint(presence_link("no-such-link"), ==, -ENODEV);
        g_assert_cmpint(presence_link("a-name-that-is-longer-than-any"), ==, -ENODEV);
        g_assert_cmpint(presence_link("lo"), >=, 0); /* it may be down */
}

static void test_carrier(void)
{
        struct presence_carrier c = {0};
        g_assert_false(presence_is_down(&c, true, 1)); /* it was never down */
        g_assert_true(presence_is_down(&c, false, 10));
        g_assert_true(presence_is_down(&c, true, 100));
        g_assert_true(presence_is_down(&c, true, 100 + PRESENCE_CARRIER_MS - 1));
        g_assert_true(presence_is_down(&c, false, 100 + PRESENCE_CARRIER_MS)); /* and all of it anew */
        g_assert_true(presence_is_down(&c, true, 3000));
        g_assert_true(presence_is_down(&c, true, 3000 + PRESENCE_CARRIER_MS - 1));
        g_assert_false(presence_is_down(&c, true, 3000 + PRESENCE_CARRIER_MS));
        g_assert_false(presence_is_down(&c, true, 3000 + PRESENCE_CARRIER_MS));
}

static void test_devices(void)
{
        begin();
        uint64_t none = presence_devices(root);
        put("bus/pci/devices/0000:00:01.0/class", "");
        put("block/sda/device/x", "");
        uint64_t two = presence_devices(root);
        g_assert_cmpuint(two, !=, none);
        put("block/loop0/size", ""); /* of no device */
        g_assert_cmpuint(presence_devices(root), ==, two);
        put("block/sdb/device/x", "");
        g_assert_cmpuint(presence_devices(root), !=, two);
        end();
}

/* It may be forbidden; what there is can be read without waiting. */
static void test_listen(void)
{
        int fds[PRESENCE_SOURCES], n = 0;
        int said = presence_listen(fds);
        for (size_t i = 0; i < PRESENCE_SOURCES; i++) {
                n += fds[i] >= 0;
                if (fds[i] < 0)
                        continue;
                presence_drain(fds[i]);
                g_assert_cmpint(close(fds[i]), ==, 0);
        }
        g_assert_cmpint(said, ==, n);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/presence/cpus", test_cpus);
        g_test_add_func("/presence/node", test_node);
        g_test_add_func("/presence/memory", test_memory);
        g_test_add_func("/presence/poisoned", test_poisoned);
        g_test_add_func("/presence/link", test_link);
        g_test_add_func("/presence/carrier", test_carrier);
        g_test_add_func("/presence/devices", test_devices);
        g_test_add_func("/presence/listen", test_listen);
        return g_test_run();
}
