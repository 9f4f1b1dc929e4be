/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/boot-file.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *dir;

static void put(const char *name, const void *bytes, size_t n)
{
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_assert_true(g_file_set_contents(path, bytes, (gssize)n, NULL));
}

static void drop(const char *name)
{
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_assert_cmpint(g_remove(path), ==, 0);
}

static struct api_peer_file see(const char *name)
{
        struct api_peer_file f = {0};
        struct err err = {0};
        g_assert_cmpint(boot_file_see(dir, "kernel", name, &f, &err), ==, 0);
        g_assert_cmpuint(strlen(f.digest), ==, 64);
        return f;
}

/* Of a small one every byte counts: it is the plain SHA-256. */
static void test_small(void)
{
        put("vmlinuz", "abc", 3);
        struct api_peer_file f = see("vmlinuz");
        g_assert_cmpint(f.bytes, ==, 3);
        g_assert_cmpstr(f.digest, ==, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        put("empty", "", 0);
        f = see("empty");
        g_assert_cmpint(f.bytes, ==, 0);
        g_assert_cmpstr(f.digest, ==, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        drop("empty");
        drop("vmlinuz");
}

static gboolean differs_at(guchar *bytes, size_t n, size_t at)
{
        put("one", bytes, n);
        struct api_peer_file one = see("one");
        bytes[at] ^= 1;
        put("two", bytes, n);
        bytes[at] ^= 1;
        struct api_peer_file two = see("two");
        drop("one");
        drop("two");
        struct err err = {0};
        int bad = boot_file_compare("initial RAM disk", "two", &two, &one, &err);
        g_assert_true(bad == 0 || (bad == -EXDEV && err.reason == REASON_INCOMPATIBLE));
        if (bad)
                g_assert_cmpstr(
                        err.sentence, ==,
                        "the initial RAM disk two is another one: its contents are not those that its "
                        "host has");
        return bad != 0;
}

/* By the contract: the first 64 KiB, 4 KiB at each 63rd of the size, the last 64 KiB. What lies between is
 * not looked at. */
static void test_samples(void)
{
        const size_t sizes[] = {(384 << 10) + 1, 1000003, 5 << 20};
        for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
                size_t n = sizes[i];
                guchar *bytes = g_malloc(n);
                for (size_t k = 0; k < n; k++)
                        bytes[k] = (guchar)(k * 7 + k / 251);
                g_assert_true(differs_at(bytes, n, 0));
                g_assert_true(differs_at(bytes, n, (64 << 10) - 1));
                g_assert_true(differs_at(bytes, n, n - (64 << 10)));
                g_assert_true(differs_at(bytes, n, n - 1));
                for (size_t piece = 1; piece <= 62; piece += 61) {
                        g_assert_true(differs_at(bytes, n, n * piece / 63));
                        g_assert_true(differs_at(bytes, n, n * piece / 63 + 4095));
                }
                if (n > 4 << 20) /* the pieces are far apart then */
                        g_assert_false(differs_at(bytes, n, n * 31 / 63 + 4096));
                g_free(bytes);
        }
        guchar *all = g_malloc0(384 << 10);
        for (size_t at = 0; at < 384 << 10; at += 4096)
                g_assert_true(differs_at(all, 384 << 10, at));
        g_free(all);
}

static void test_size(void)
{
        struct api_peer_file here = {.bytes = 7, .digest = "x"}, there = {.bytes = 8, .digest = "x"};
        struct err err = {0};
        g_assert_cmpint(boot_file_compare("kernel", "vmlinuz", &here, &there, &err), ==, -EXDEV);
        g_assert_cmpint(err.reason, ==, REASON_INCOMPATIBLE);
        g_assert_cmpstr(err.sentence, ==,
                        "the kernel vmlinuz is another one: its size is 7 here, 8 at its host");
        here.bytes = 8;
        g_assert_cmpint(boot_file_compare("kernel", "vmlinuz", &here, &there, &err), ==, 0);
}

/* Nothing that lies there holds anybody up. */
static void test_no_file(void)
{
        struct api_peer_file f = {.bytes = 77};
        struct err err = {0};
        g_assert_cmpint(boot_file_see(dir, "kernel", "none", &f, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        g_assert_cmpstr(err.sentence, ==, "the kernel none: No such file or directory");
        g_autofree char *fifo = g_build_filename(dir, "fifo", NULL),
                        *folder = g_build_filename(dir, "folder", NULL);
        g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
        g_assert_cmpint(g_mkdir(folder, 0700), ==, 0);
        const char *names[] = {"fifo", "folder"};
        for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
                err = (struct err){0};
                g_assert_cmpint(boot_file_see(dir, "kernel", names[i], &f, &err), ==, -ENODEV);
                g_assert_cmpint(err.reason, ==, REASON_INCOMPATIBLE);
                g_assert_true(g_str_has_suffix(err.sentence, "is not a regular file"));
        }
        g_autofree char *long_name = g_strnfill(5000, 'x');
        g_assert_cmpint(boot_file_see(dir, "kernel", long_name, &f, &err), ==, -ENAMETOOLONG);
        g_assert_cmpint(f.bytes, ==, 77);
        drop("fifo");
        g_assert_cmpint(g_rmdir(folder), ==, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-test-boot-file-XXXXXX", NULL);
        g_assert_nonnull(dir);
        g_test_add_func("/vm/boot-file/small", test_small);
        g_test_add_func("/vm/boot-file/samples", test_samples);
        g_test_add_func("/vm/boot-file/size", test_size);
        g_test_add_func("/vm/boot-file/no-file", test_no_file);
        int status = g_test_run();
        g_assert_cmpint(g_rmdir(dir), ==, 0);
        g_free(dir);
        return status;
}
