/* SPDX-License-Identifier: Apache-2.0 */
/* On plain directories; and on this kernel, where its disks can be bounded. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include "host/block.h"

struct tree {
        char *dir, *mountinfo;
        struct block_host host;
};

static void put(struct tree *t, const char *path, const char *text)
{
        g_autofree char *p = g_build_filename(t->dir, path, NULL), *parent = g_path_get_dirname(p);
        g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
        g_assert_true(g_file_set_contents(p, text, -1, NULL));
}

static void is(struct tree *t, const char *path, const char *expected)
{
        g_autofree char *p = g_build_filename(t->dir, path, NULL), *text = NULL;
        g_test_message("%s", path);
        g_assert_true(g_file_get_contents(p, &text, NULL, NULL));
        g_assert_cmpstr(g_strstrip(text), ==, expected);
}

static bool is_there(struct tree *t, const char *path)
{
        g_autofree char *p = g_build_filename(t->dir, path, NULL);
        return g_file_test(p, G_FILE_TEST_EXISTS);
}

static void ok(int r, struct err *err)
{
        if (r != 0)
                g_error("%s", err->sentence);
}

static void set_up(struct tree *t, bool is_v2)
{
        struct err err = {0};
        t->dir = g_dir_make_tmp("mete-block-XXXXXX", NULL);
        t->mountinfo = g_build_filename(t->dir, "mountinfo", NULL);
        put(t, "v1/tasks", "");
        put(t, "v2/cgroup.controllers", "cpuset cpu io memory\n");
        g_autofree char *text = g_strdup_printf(is_v2 ? "30 23 0:27 / %s/v2 rw - cgroup2 cgroup2 rw\n"
                                                      : "31 25 0:28 / %s/v1 rw - cgroup cgroup rw,blkio\n",
                                                t->dir);
        put(t, "mountinfo", text);
        struct block_options o = {
                .prefix = "mete", .sysfs = t->dir, .mountinfo = t->mountinfo, .is_fake = true};
        ok(block_host_init(&t->host, &o, &err), &err);
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return remove(path);
}

static void tear_down(struct tree *t)
{
        g_assert_cmpint(nftw(t->dir, drop, 16, FTW_DEPTH | FTW_PHYS), ==, 0);
        g_free(t->dir);
        g_free(t->mountinfo);
}

static const struct block_device disk = {.major = 8, .minor = 16};
static const struct block_limits some =
                                         {
                                                 .at = {1048576, 0, 0, 120}
},
                                 more = {.at = {2097152, 1, 2, 3}}, none;

static void test_v2(void)
{
        struct tree t;
        struct err err = {0};
        struct block_limits now;
        set_up(&t, true);
        g_assert_cmpstr(t.host.fallback, ==, "");
        for (int again = 0; again < 2; again++)
                ok(block_limit_set(&t.host, "a", disk, &some, &err), &err);
        is(&t, "v2/mete/a/io.max", "8:16 rbps=1048576 wbps=max riops=max wiops=120");
        is(&t, "v2/cgroup.subtree_control", "+io");
        is(&t, "v2/mete/cgroup.subtree_control", "+io");
        ok(block_limit_enter(&t.host, "a", 4000, &err), &err);
        ok(block_limit_verify(&t.host, "a", disk, &some, 4000, &err), &err);
        g_assert_cmpint(block_limit_verify(&t.host, "a", disk, &some, 4001, &err), ==, 1);
        g_assert_cmpint(block_limit_verify(&t.host, "a", disk, &more, 0, &err), ==, 1);
        g_assert_cmpint(err.reason, ==, REASON_STALE);
        /* Other devices do not disturb; nor do those whose number begins alike. */
        put(&t, "v2/mete/a/io.max",
            "8:160 rbps=7 wbps=7 riops=7 wiops=7\n18:16 rbps=7 wbps=7 riops=7 wiops=7\n"
            "8:16 rbps=1048576 wbps=max riops=max wiops=120\n");
        ok(block_limit_verify(&t.host, "a", disk, &some, 0, &err), &err);
        put(&t, "v2/mete/a/io.stat",
            "8:0 rbytes=1 wbytes=1 rios=1 wios=1\n"
            "8:16 rbytes=4096 wbytes=8192 rios=3 wios=4 dbytes=5 dios=6\n");
        ok(block_usage_read(&t.host, "a", disk, &now, &err), &err);
        g_assert_true(now.at[0] == 4096 && now.at[1] == 8192 && now.at[2] == 3 && now.at[3] == 4);
        put(&t, "v2/mete/a/io.max", "");
        ok(block_limit_read(&t.host, "a", disk, &now, &err), &err);
        g_assert_cmpmem(&now, sizeof(now), &none, sizeof(none));
        g_assert_cmpint(block_limit_lift(&t.host, "a", disk, &err), ==, -EBUSY);
        put(&t, "v2/mete/a/cgroup.procs", "");
        for (int again = 0; again < 2; again++)
                ok(block_limit_lift(&t.host, "a", disk, &err), &err);
        g_assert_false(is_there(&t, "v2/mete/a"));
        g_assert_cmpint(block_limit_verify(&t.host, "a", disk, &some, 0, &err), ==, 1);
        /* All threads in one domain: for all VMs only. */
        put(&t, "v2/mete/cgroup.type", "domain threaded\n");
        g_assert_cmpint(block_limit_set(&t.host, "a", disk, &some, &err), ==, -EOPNOTSUPP);
        ok(block_limit_set(&t.host, NULL, disk, &some, &err), &err);
        ok(block_limit_lift(&t.host, NULL, disk, &err), &err);
        is(&t, "v2/mete/io.max", "8:16 rbps=max wbps=max riops=max wiops=max");
        tear_down(&t);
}

static void test_v1(void)
{
        struct tree t;
        struct err err = {0};
        struct block_limits now;
        set_up(&t, false);
        g_assert_cmpstr(t.host.fallback, !=, "");
        for (int again = 0; again < 2; again++)
                ok(block_limit_set(&t.host, "a", disk, &some, &err), &err);
        is(&t, "v1/mete/a/blkio.throttle.read_bps_device", "8:16 1048576");
        is(&t, "v1/mete/a/blkio.throttle.write_iops_device", "8:16 120");
        ok(block_limit_read(&t.host, "a", disk, &now, &err), &err);
        g_assert_cmpmem(&now, sizeof(now), &some, sizeof(some));
        put(&t, "v1/mete/a/blkio.throttle.io_service_bytes",
            "8:0 Read 1\n8:16 Read 4096\n8:16 Write 8192\n8:16 Sync 1\n8:16 Total 12288\nTotal 12289\n");
        put(&t, "v1/mete/a/blkio.throttle.io_serviced", "8:16 Read 3\n8:16 Write 4");
        ok(block_usage_read(&t.host, "a", disk, &now, &err), &err);
        g_assert_true(now.at[0] == 4096 && now.at[1] == 8192 && now.at[2] == 3 && now.at[3] == 4);
        ok(block_limit_lift(&t.host, "a", disk, &err), &err);
        g_assert_false(is_there(&t, "v1/mete"));
        for (int i = 0; i < BLOCK_KINDS; i++) {
                struct block_limits bad = some;
                bad.at[i] = -1;
                g_assert_cmpint(block_limit_set(&t.host, "a", disk, &bad, &err), ==, -EINVAL);
                bad.at[i] = INT64_MAX;
                g_assert_cmpint(block_limit_set(&t.host, "a", disk, &bad, &err), ==, -EINVAL);
        }
        g_assert_cmpint(block_limit_set(&t.host, "../a", disk, &some, &err), ==, -EINVAL);
        g_assert_false(is_there(&t, "v1/mete"));
        tear_down(&t);
}

static int left, with;

static int fault(const char *path)
{
        return --left == 0 ? with : 0;
}

static void test_every_failure(void)
{
        static const int errors[] = {ENOSPC, EINVAL, EACCES, ENODEV};
        int n_cases = 0;
        for (int is_v2 = 0; is_v2 < 2; is_v2++)
                for (int is_new = 0; is_new < 2; is_new++)
                        for (size_t e = 0; e < G_N_ELEMENTS(errors); e++)
                                for (int nth = 1;; nth++) {
                                        struct tree t;
                                        struct err err = {0};
                                        set_up(&t, is_v2);
                                        if (!is_new)
                                                ok(block_limit_set(&t.host, "a", disk, &some, &err), &err);
                                        left = nth;
                                        with = errors[e];
                                        cgroupfs_fault = fault;
                                        int r = block_limit_set(&t.host, "a", disk, &more, &err);
                                        cgroupfs_fault = NULL;
                                        if (left > 0) {
                                                ok(r, &err);
                                                tear_down(&t);
                                                break;
                                        }
                                        g_assert_cmpint(r, ==, -errors[e]);
                                        if (is_new)
                                                g_assert_false(is_there(&t, is_v2 ? "v2/mete/a" : "v1/mete"));
                                        else
                                                ok(block_limit_verify(&t.host, "a", disk, &some, 0, &err),
                                                   &err);
                                        tear_down(&t);
                                        n_cases++;
                                }
        g_test_message("%d cases", n_cases);
        g_assert_cmpint(n_cases, >=, 50);
}

static void test_device(void)
{
        struct tree t;
        struct err err = {0};
        struct block_device d;
        struct stat st;
        set_up(&t, true);
        g_assert_cmpint(block_device_of(&t.host, t.dir, &d, &err), ==, -EOPNOTSUPP);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        g_assert_cmpint(block_device_of(&t.host, "/nonexistent", &d, &err), ==, -ENOENT);
        /* The file system is on a partition: its disk counts. */
        g_assert_cmpint(stat(t.dir, &st), ==, 0);
        put(&t, "devices/vdx/dev", "254:32\n");
        put(&t, "devices/vdx/vdx1/dev", "254:33\n");
        put(&t, "devices/vdx/vdx1/partition", "1\n");
        g_autofree char *folder = g_build_filename(t.dir, "dev/block", NULL);
        g_autofree char *link = g_strdup_printf("%s/%u:%u", folder, major(st.st_dev), minor(st.st_dev));
        g_assert_cmpint(g_mkdir_with_parents(folder, 0755), ==, 0);
        g_assert_cmpint(symlink("../../devices/vdx/vdx1", link), ==, 0);
        ok(block_device_of(&t.host, t.dir, &d, &err), &err);
        g_assert_true(d.major == 254 && d.minor == 32);
        tear_down(&t);
}

static void test_not_there(void)
{
        struct tree t;
        struct err err = {0};
        set_up(&t, true);
        put(&t, "mountinfo", "25 1 0:22 / / rw - ext4 /dev/vda rw\n");
        ok(block_host_init(&t.host, &(struct block_options){.prefix = "mete", .mountinfo = t.mountinfo},
                           &err),
           &err);
        g_assert_cmpstr(t.host.fallback, !=, "");
        g_assert_cmpint(block_limit_set(&t.host, "a", disk, &some, &err), ==, -EOPNOTSUPP);
        ok(block_limit_lift(&t.host, "a", disk, &err), &err);
        g_assert_cmpint(block_host_init(&t.host, &(struct block_options){.prefix = "../x"}, &err), ==,
                        -EINVAL);
        tear_down(&t);
}

/* A child of ours is bounded, writes 256 KiB past the page cache, and the kernel counted them. */
static void test_real(void)
{
        struct block_host h;
        struct err err = {0};
        struct block_device d;
        struct block_limits used;
        const struct block_limits l = {
                .at = {100 << 20, 100 << 20, 5000, 5000}
        };
        g_autofree char *prefix = g_strdup_printf("mete-test-block-%d", (int)getpid());
        ok(block_host_init(&h, &(struct block_options){.prefix = prefix}, &err), &err);
        g_autofree char *path = g_strdup("mete-block-test-XXXXXX");
        if (geteuid() != 0 || !*h.confine.root || block_device_of(&h, ".", &d, &err) < 0) {
                g_test_skip(geteuid() != 0 ? "needs root" : *h.confine.root ? err.sentence : h.fallback);
                return;
        }
        ok(block_limit_set(&h, "a", d, &l, &err), &err);
        ok(block_limit_set(&h, "a", d, &l, &err), &err);
        int fd = mkostemp(path, O_DIRECT), wait[2];
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(unlink(path), ==, 0);
        g_assert_cmpint(pipe(wait), ==, 0);
        pid_t pid = fork();
        if (pid == 0) {
                void *page = NULL;
                char go;
                bool is_fine = read(wait[0], &go, 1) == 1 && posix_memalign(&page, 4096, 65536) == 0;
                for (int i = 0; is_fine && i < 4; i++)
                        is_fine = write(fd, memset(page, i, 65536), 65536) == 65536;
                _exit(is_fine ? 0 : 1);
        }
        int status;
        ok(block_limit_enter(&h, "a", pid, &err), &err);
        ok(block_limit_verify(&h, "a", d, &l, pid, &err), &err);
        g_assert_cmpint(block_limit_lift(&h, "a", d, &err), ==, -EBUSY);
        g_assert_cmpint(write(wait[1], "x", 1), ==, 1);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_cmpint(status, ==, 0);
        ok(block_usage_read(&h, "a", d, &used, &err), &err);
        g_assert_cmpint(used.at[BLOCK_WRITE_BYTES], >=, 256 << 10);
        g_assert_cmpint(used.at[BLOCK_WRITE_OPS], >=, 1);
        for (int i = 0; i < 100 && block_limit_lift(&h, "a", d, &err) < 0; i++)
                g_usleep(10000);
        ok(block_limit_lift(&h, "a", d, &err), &err);
        char dir[CGROUPFS_PATH];
        g_assert_cmpint(access(confine_path(&h.confine, NULL, dir), F_OK), <, 0);
        (void)close(fd);
        (void)close(wait[0]);
        (void)close(wait[1]);
}

int main(int argc, char **argv)
{
        if (access("/dev/shm", W_OK) == 0) /* thousands of small files, of which many are synced */
                (void)g_setenv("TMPDIR", "/dev/shm", TRUE);
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/block/v2", test_v2);
        g_test_add_func("/block/v1", test_v1);
        g_test_add_func("/block/every-failure", test_every_failure);
        g_test_add_func("/block/device", test_device);
        g_test_add_func("/block/not-there", test_not_there);
        g_test_add_func("/block/real", test_real);
        return g_test_run();
}
