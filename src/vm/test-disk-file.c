/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/disk-file.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *dir;

static char *in_dir(const char *name)
{
        return g_build_filename(dir, name, NULL);
}

static void make(const char *name, const char *text)
{
        g_autofree char *path = in_dir(name);
        g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void drop(const char *name)
{
        g_autofree char *path = in_dir(name);
        g_assert_cmpint(g_remove(path), ==, 0);
}

static struct api_peer_disk see(const char *name)
{
        struct api_peer_disk d = {0};
        struct err err = {0};
        g_assert_cmpint(disk_file_see(dir, name, &d, &err), ==, 0);
        return d;
}

static void refuse(const struct api_peer_disk *here, const struct api_peer_disk *there, const char *words)
{
        struct err err = {0};
        g_assert_cmpint(disk_file_compare("v.raw", here, there, &err), ==, -EXDEV);
        g_assert_cmpint(err.reason, ==, REASON_INCOMPATIBLE);
        g_assert_cmpstr(err.sentence, ==, words);
}

/* By another name, through a link, written to: it is one file. What was copied from it is another. */
static void test_one_file(void)
{
        make("v.raw", "a disk");
        g_autofree char *v = in_dir("v.raw"), *hard = in_dir("hard.raw"), *soft = in_dir("soft.raw");
        g_assert_cmpint(link(v, hard), ==, 0);
        g_assert_cmpint(symlink("v.raw", soft), ==, 0);
        struct api_peer_disk d = see("v.raw"), by_hard = see("hard.raw"), by_soft = see("soft.raw");
        g_assert_cmpint(d.bytes, ==, (gint64)strlen("a disk"));
        g_assert_cmpint(disk_file_compare("v.raw", &d, &by_hard, NULL), ==, 0);
        g_assert_cmpint(disk_file_compare("v.raw", &d, &by_soft, NULL), ==, 0);
        FILE *f = g_fopen(v, "r+");
        g_assert_cmpint(fputs("A", f), >=, 0);
        g_assert_cmpint(fclose(f), ==, 0);
        struct api_peer_disk later = see("v.raw");
        g_assert_cmpint(disk_file_compare("v.raw", &d, &later, NULL), ==, 0);
        make("copy.raw", "A disk");
        struct api_peer_disk copy = see("copy.raw");
        g_assert_cmpint(disk_file_compare("v.raw", &d, &copy, NULL), ==, -EXDEV);
        g_assert_cmpint(truncate(v, 4096), ==, 0);
        struct api_peer_disk grown = see("v.raw");
        refuse(&grown, &d, "the disk v.raw is not the same file: its size is 4096 here, 6 at its host");
        drop("copy.raw");
        drop("soft.raw");
        drop("hard.raw");
        drop("v.raw");
}

static void test_differences(void)
{
        const struct api_peer_disk d = {.inode = "ffffffffffffffff",
                                        .bytes = 1 << 20,
                                        .has_born_us = true,
                                        .born_us = 1700000000000001};
        struct api_peer_disk other = d;
        (void)g_strlcpy(other.inode, "c", sizeof(other.inode));
        refuse(&d, &other,
               "the disk v.raw is not the same file: its inode is ffffffffffffffff here, c at its host");
        other = d;
        other.born_us++;
        refuse(&d, &other,
               "the disk v.raw is not the same file: its birth (us) is 1700000000000001 here, "
               "1700000000000002 at its host");
        /* One of them is not told when: that says nothing. */
        other.has_born_us = false;
        other.born_us = 0;
        g_assert_cmpint(disk_file_compare("v.raw", &d, &other, NULL), ==, 0);
        g_assert_cmpint(disk_file_compare("v.raw", &other, &d, NULL), ==, 0);
}

static void test_no_file(void)
{
        struct api_peer_disk d = {.bytes = 7};
        struct err err = {0};
        g_assert_cmpint(disk_file_see(dir, "v.raw", &d, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        g_assert_cmpstr(err.sentence, ==, "the disk v.raw: No such file or directory");
        g_autofree char *path = in_dir("dir.raw");
        g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
        g_assert_cmpint(disk_file_see(dir, "dir.raw", &d, &err), ==, -ENODEV);
        g_assert_cmpint(err.reason, ==, REASON_INCOMPATIBLE);
        g_assert_cmpstr(err.sentence, ==, "the disk dir.raw is not a regular file");
        drop("dir.raw");
        g_autofree char *deep = g_strnfill(5000, 'x');
        g_assert_cmpint(disk_file_see(deep, "v.raw", &d, &err), ==, -ENAMETOOLONG);
        g_assert_cmpint(d.bytes, ==, 7);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-test-XXXXXX", NULL);
        g_test_add_func("/disk-file/one", test_one_file);
        g_test_add_func("/disk-file/differences", test_differences);
        g_test_add_func("/disk-file/none", test_no_file);
        int status = g_test_run();
        g_rmdir(dir);
        g_free(dir);
        return status;
}
