/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "keeper/ramdir.h"

static char *base;
static int base_fd;
static const struct ramdir_keep none;

static void begin(void)
{
        struct err err = {0};
        /* On a tmpfs as in use; ext4 takes 0.1 ms a file. */
        base = g_strdup("/dev/shm/mete-ramdir-XXXXXX");
        g_assert_nonnull(g_mkdtemp(base));
        base_fd = ramdir_open_base(base, &err);
        g_assert_cmpint(base_fd, >=, 0);
}

static void end(void)
{
        (void)close(base_fd);
        g_assert_cmpint(g_rmdir(base), ==, 0); /* only if nothing was left in it */
        g_free(base);
}

static void drop(const char *vm)
{
        struct err err = {0};
        if (ramdir_drop(base_fd, vm, &err) < 0)
                g_error("%s", err.sentence);
}

static void test_make(void)
{
        struct err err = {0};
        struct stat st;
        begin();
        for (int again = 0; again < 2; again++) {
                if (ramdir_make(base_fd, "v", getuid(), getgid(), 4096, &none, &err) < 0)
                        g_error("%s", err.sentence);
                g_assert_cmpint(fstatat(base_fd, "v/ram0", &st, 0), ==, -1); /* what was there is gone */
                g_autofree char *file = g_build_filename(base, "v", "ram0", NULL);
                g_assert_true(g_file_set_contents(file, "x", 1, NULL));
        }
        g_assert_cmpint(fstatat(base_fd, "v", &st, AT_SYMLINK_NOFOLLOW), ==, 0);
        g_assert_cmpint(st.st_mode & 07777, ==, 0750);
        g_assert_cmpint(ramdir_make(base_fd, "w", getuid(), getgid(), INT64_C(1) << 52, &none, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NO_CAPACITY);
        drop("v");
        drop("v");
        end();
}

/* Only plain files of the VM's own stay, by their names; they count as its own room. */
static void test_keep(void)
{
        static const char names[][RAMDIR_NAME] = {"ram0", "ram1", "ram2"};
        const struct ramdir_keep keep = {names, G_N_ELEMENTS(names)};
        struct err err = {0};
        struct stat st;
        begin();
        g_assert_cmpint(ramdir_make(base_fd, "v", getuid(), getgid(), 4096, &keep, &err), ==, 0);
        int fd = openat(base_fd, "v", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (int again = 0; again < 2; again++) {
                g_autofree char *file = g_build_filename(base, "v", "ram0", NULL);
                g_autofree char *other = g_build_filename(base, "v", "dimm0", NULL);
                g_autofree char *longer = g_build_filename(base, "v", "ram00", NULL);
                if (!again)
                        g_assert_true(g_file_set_contents(file, "x", 1, NULL));
                g_assert_true(g_file_set_contents(other, "x", 1, NULL));
                g_assert_true(g_file_set_contents(longer, "x", 1, NULL));
                g_assert_cmpint(symlinkat("/etc", fd, "ram1"), ==, 0);
                g_assert_cmpint(mkdirat(fd, "ram2", 0700), ==, 0);
                g_assert_cmpint(mkdirat(fd, "ram2/ram0", 0700), ==, 0);
                if (again)
                        g_assert_cmpint(ramdir_make(base_fd, "v", getuid(), getgid(), 4096, &keep, &err), ==,
                                        0);
                else
                        g_assert_cmpint(ramdir_prune(base_fd, "v", &keep, &err), ==, 0);
                g_assert_cmpint(fstatat(fd, "ram0", &st, AT_SYMLINK_NOFOLLOW), ==, 0);
                g_assert_cmpint(st.st_size, ==, 1);
                static const char *const gone[] = {"ram00", "ram1", "ram2", "dimm0", ".up-0"};
                for (size_t i = 0; i < G_N_ELEMENTS(gone); i++)
                        g_assert_cmpint(fstatat(fd, gone[i], &st, AT_SYMLINK_NOFOLLOW), ==, -1);
        }
        g_assert_cmpint(ramdir_prune(base_fd, "w", &keep, &err), ==, 0); /* not there */
        if (getuid() == 0) {                                             /* of another uid: none of its own */
                g_assert_cmpint(fchownat(fd, "ram0", 70001, 70001, 0), ==, 0);
                g_assert_cmpint(ramdir_prune(base_fd, "v", &keep, &err), ==, 0);
                g_assert_cmpint(fstatat(fd, "ram0", &st, AT_SYMLINK_NOFOLLOW), ==, -1);
                g_assert_cmpint(mknodat(fd, "ram0", S_IFREG | 0600, 0), ==, 0);
                g_assert_cmpint(ramdir_make(base_fd, "v", 70001, getgid(), 4096, &keep, &err), ==, 0);
                g_assert_cmpint(fstatat(base_fd, "v/ram0", &st, AT_SYMLINK_NOFOLLOW), ==, -1);
        }
        (void)close(fd);
        drop("v");
        end();
}

/* A link out of the directory is removed, not followed; so is one in the directory's own place. */
static void test_links(void)
{
        begin();
        g_autofree char *outside = g_dir_make_tmp("mete-outside-XXXXXX", NULL);
        g_autofree char *kept = g_build_filename(outside, "kept", NULL),
                        *link = g_build_filename(base, "v", "out", NULL);
        g_autofree char *vm = g_build_filename(base, "v", NULL), *swapped = g_build_filename(base, "w", NULL);
        g_assert_true(g_file_set_contents(kept, "x", 1, NULL));
        g_assert_cmpint(g_mkdir(vm, 0700), ==, 0);
        g_assert_cmpint(symlink(outside, link), ==, 0);
        drop("v");
        g_assert_cmpint(symlink(outside, swapped), ==, 0);
        struct err err = {0};
        g_assert_cmpint(ramdir_drop(base_fd, "w", &err), <, 0);
        g_assert_true(g_file_test(kept, G_FILE_TEST_EXISTS));
        (void)g_unlink(swapped);
        (void)g_unlink(kept);
        (void)g_rmdir(outside);
        end();
}

/* Deeper than any path or stack, and with names that the removal itself uses. */
static void test_deep(void)
{
        begin();
        g_assert_cmpint(mkdirat(base_fd, "v", 0700), ==, 0);
        int fd = openat(base_fd, "v", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (int i = 0; i < 3000; i++) {
                g_assert_cmpint(mkdirat(fd, "d", 0700), ==, 0);
                g_assert_cmpint(mkdirat(fd, ".up-0", 0700), ==, 0);
                g_assert_cmpint(mkdirat(fd, ".up-1", 0700), ==, 0);
                int inner = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                (void)close(fd);
                fd = inner;
        }
        (void)close(fd);
        drop("v");
        end();
}

static void test_many(void)
{
        begin();
        g_assert_cmpint(mkdirat(base_fd, "v", 0700), ==, 0);
        int fd = openat(base_fd, "v", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (int i = 0; i < RAMDIR_BUDGET + 1; i++) { /* one more than a call removes */
                char name[16];
                (void)g_snprintf(name, sizeof(name), "%d", i);
                g_assert_cmpint(mknodat(fd, name, S_IFREG | 0600, 0), ==, 0);
        }
        (void)close(fd);
        struct err err = {0};
        g_assert_cmpint(ramdir_drop(base_fd, "v", &err), ==, -EAGAIN);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        drop("v");
        end();
}

static void test_base_refused(void)
{
        struct err err = {0};
        g_autofree char *open_to_all = g_dir_make_tmp("mete-ramdir-XXXXXX", NULL);
        g_assert_cmpint(g_chmod(open_to_all, 0777), ==, 0);
        g_assert_cmpint(ramdir_open_base(open_to_all, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_POLICY);
        g_autofree char *link = g_strconcat(open_to_all, "/link", NULL);
        g_assert_cmpint(symlink("/tmp", link), ==, 0);
        g_assert_cmpint(ramdir_open_base(link, &err), <, 0);
        (void)g_unlink(link);
        (void)g_rmdir(open_to_all);
}

static void put(const char *name, size_t bytes)
{
        g_autofree char *path = g_build_filename(base, name, NULL), *text = g_strnfill(bytes, 'x');
        g_assert_true(g_file_set_contents(path, text, (gssize)bytes, NULL));
}

/* Of an item's own files, whatever else the VM put beside them. */
static void test_taken(void)
{
        struct err err = {0};
        int64_t bytes = -1;
        begin();
        g_assert_cmpint(ramdir_taken(base_fd, "v", "dimm1", &bytes, &err), ==, 0); /* no such VM */
        g_assert_cmpint(ramdir_make(base_fd, "v", getuid(), getgid(), 0, &none, &err), ==, 0);
        g_assert_cmpint(ramdir_taken(base_fd, "v", "dimm1", &bytes, &err), ==, 0);
        g_assert_cmpint(bytes, ==, -1);
        put("v/dimm1-1M", 1 << 20);
        put("v/dimm10-1M", 1 << 20);
        put("v/dimm", 1 << 20);
        g_assert_cmpint(symlinkat("dimm10-1M", base_fd, "v/dimm1-link"), ==, 0);
        g_assert_cmpint(mkdirat(base_fd, "v/dimm1-dir", 0700), ==, 0);
        g_assert_cmpint(ramdir_taken(base_fd, "v", "dimm1", &bytes, &err), ==, 1);
        g_assert_cmpint(bytes, ==, 1 << 20);
        put("v/ram0", 1 << 16);
        g_assert_cmpint(ramdir_taken(base_fd, "v", "ram0", &bytes, &err), ==, 1);
        g_assert_cmpint(bytes, ==, 1 << 16);
        /* More than it looks at: it ends, with what it saw. */
        for (int i = 0; i < RAMDIR_BUDGET + 10; i++) {
                g_autofree char *name = g_strdup_printf("v/x%d", i);
                g_assert_cmpint(mknodat(base_fd, name, S_IFREG | 0600, 0), ==, 0);
        }
        g_assert_cmpint(ramdir_taken(base_fd, "v", "dimm1", &bytes, &err), >=, 0);
        while (ramdir_drop(base_fd, "v", &err) == -EAGAIN)
                ;
        end();
}

static void check_open(const char *item, bool is_found, int64_t bytes)
{
        struct ramdir_file f = {.fd = -1};
        struct err err = {0};
        (void)g_strlcpy(f.item, item, sizeof(f.item));
        g_assert_cmpint(ramdir_open(base_fd, "v", getuid(), &f, 1, &err), ==, is_found);
        g_assert_cmpint(f.fd >= 0, ==, is_found);
        if (!is_found)
                return;
        char byte = 0;
        g_assert_cmpint(f.bytes, ==, bytes);
        g_assert_cmpint(fcntl(f.fd, F_GETFL) & O_ACCMODE, ==, O_RDONLY);
        g_assert_cmpint(fcntl(f.fd, F_GETFD) & FD_CLOEXEC, ==, FD_CLOEXEC);
        g_assert_cmpint(pread(f.fd, &byte, 1, 0), ==, 1);
        g_assert_cmpint(byte, ==, 'x');
        (void)close(f.fd);
}

/* Of what the VM put there, only plain files of its own that nobody has under another name. */
static void test_open(void)
{
        struct err err = {0};
        begin();
        check_open("ram0", false, 0); /* no such VM */
        g_assert_cmpint(ramdir_make(base_fd, "v", getuid(), getgid(), 0, &none, &err), ==, 0);
        put("v/ram0", 1000);
        put("v/dimm1-1M", 2000);
        put("v/dimm10-1M", 3000);
        put("v/twice", 1);
        put("outside", 1);
        g_assert_cmpint(linkat(base_fd, "v/twice", base_fd, "v/again", 0), ==, 0);
        g_assert_cmpint(linkat(base_fd, "outside", base_fd, "v/others", 0), ==, 0);
        g_assert_cmpint(symlinkat("ram0", base_fd, "v/link"), ==, 0);
        g_assert_cmpint(mkdirat(base_fd, "v/dir", 0700), ==, 0);
        g_assert_cmpint(mknodat(base_fd, "v/pipe", S_IFIFO | 0600, 0), ==, 0);
        check_open("ram0", true, 1000);
        check_open("dimm1", true, 2000);
        check_open("dimm10", true, 3000);
        static const char *const not [] = {"dimm", "twice", "again", "others", "link", "dir", "pipe", "none"};
        for (size_t i = 0; i < G_N_ELEMENTS(not ); i++)
                check_open(not [i], false, 0);
        struct ramdir_file other = {.item = "ram0", .fd = -1};
        g_assert_cmpint(ramdir_open(base_fd, "v", getuid() + 1, &other, 1, &err), ==, 0);
        drop("v");
        g_assert_cmpint(unlinkat(base_fd, "outside", 0), ==, 0);
        end();
}

static void put_node(const char *sysfs, int node, int free_mib)
{
        g_autofree char *dir = g_strdup_printf("%s/devices/system/node/node%d", sysfs, node);
        g_autofree char *path = g_build_filename(dir, "meminfo", NULL);
        g_autofree char *text =
                g_strdup_printf("\nNode %d MemTotal:       9999999 kB\nNode %d MemFree:  %d kB\nNode %d "
                                "Inactive(anon):  999999999 kB\n"
                                "Node %d Inactive(file):    1024 kB\nNode %d SReclaimable:     1024 kB\n",
                                node, node, (free_mib - 2) * 1024, node, node, node);
        g_assert_cmpint(g_mkdir_with_parents(dir, 0755), ==, 0);
        g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void test_node(void)
{
        struct err err = {0};
        begin();
        g_autofree char *sysfs = g_dir_make_tmp("mete-node-XXXXXX", NULL);
        put_node(sysfs, 0, 100);
        /* The only one: the machine's own figures, which surely differ. */
        g_assert_cmpint(ramdir_check_node(base_fd, sysfs, 0, 1, &err), ==, 0);
        g_assert_cmpint(ramdir_check_node(base_fd, sysfs, 0, INT64_C(1) << 52, &err), ==, -ENOSPC);
        g_assert_cmpint(ramdir_check_node(base_fd, sysfs, 1, 1, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        put_node(sysfs, 1, 200);
        for (int node = 0; node < 2; node++) {
                int64_t most = (100 + 100 * node) * INT64_C(1048576);
                g_assert_cmpint(ramdir_check_node(base_fd, sysfs, node, most, &err), ==, 0);
                g_assert_cmpint(ramdir_check_node(base_fd, sysfs, node, most + 1, &err), ==, -ENOSPC);
                g_assert_cmpint(err.reason, ==, REASON_NO_CAPACITY);
        }
        g_assert_cmpint(ramdir_check_node(base_fd, sysfs, 2, 1, &err), ==, -ENOENT);
        g_autofree char *command = g_strdup_printf("rm -r '%s'", sysfs);
        g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
        end();
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/ramdir/make", test_make);
        g_test_add_func("/ramdir/keep", test_keep);
        g_test_add_func("/ramdir/taken", test_taken);
        g_test_add_func("/ramdir/open", test_open);
        g_test_add_func("/ramdir/node", test_node);
        g_test_add_func("/ramdir/links", test_links);
        g_test_add_func("/ramdir/deep", test_deep);
        g_test_add_func("/ramdir/many", test_many);
        g_test_add_func("/ramdir/base-refused", test_base_refused);
        return g_test_run();
}
