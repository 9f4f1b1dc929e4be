/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/unix.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *dir, *path;

static void assert_flags(int fd)
{
        g_assert_cmpint(fd, >=, 0);
        g_assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        g_assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

static void test_meet(void)
{
        struct err err = {0};
        struct stat st;
        struct unix_peer peer;
        int l = unix_listen(path, 0620, &err);
        assert_flags(l);
        g_assert_cmpint(stat(path, &st), ==, 0);
        g_assert_cmpint(st.st_mode & 07777, ==, 0620);
        g_assert_cmpint(unix_accept(l, &err), ==, -EAGAIN);
        g_assert_cmpint(err.reason, ==, 0);
        int c = unix_connect(path, &err);
        assert_flags(c);
        int a = unix_accept(l, &err);
        assert_flags(a);
        g_assert_cmpint(unix_peer_get(a, &peer, &err), ==, 0);
        g_assert_cmpint(peer.pid, ==, getpid());
        g_assert_cmpuint(peer.uid, ==, getuid());
        g_assert_cmpuint(peer.gid, ==, getgid());
        close(a);
        close(c);
        close(l);
        unlink(path);
}

static void test_in_use(void)
{
        struct err err = {0};
        int l = unix_listen(path, 0600, &err);
        g_assert_cmpint(unix_listen(path, 0600, &err), ==, -EADDRINUSE);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        g_assert_nonnull(strstr(err.sentence, "another process already does"));
        /* The one that is there was not disturbed. */
        int c = unix_connect(path, &err);
        g_assert_cmpint(c, >=, 0);
        close(c);
        close(l);
        /* Dead now: replaced. */
        g_assert_cmpint(unix_connect(path, &err), ==, -ECONNREFUSED);
        g_assert_cmpint(err.reason, ==, REASON_PEER_LOST);
        l = unix_listen(path, 0600, &err);
        g_assert_cmpint(l, >=, 0);
        close(l);
        unlink(path);
}

static void test_full_queue_is_alive(void)
{
        struct err err = {0};
        int l = unix_listen(path, 0600, &err), fds[5000], n = 0;
        while (n < 5000 && (fds[n] = unix_connect(path, &err)) >= 0)
                n++;
        g_assert_cmpint(n, <, 5000);
        g_assert_true(err.code == EAGAIN || err.code == EMFILE);
        if (err.code == EAGAIN) {
                g_assert_cmpint(err.reason, ==, REASON_BUSY);
                g_assert_cmpint(unix_listen(path, 0600, &err), ==, -EADDRINUSE);
        }
        while (n > 0)
                close(fds[--n]);
        close(l);
        unlink(path);
}

static void test_not_a_socket(void)
{
        struct err err = {0};
        g_assert_true(g_file_set_contents(path, "precious", -1, NULL));
        g_assert_cmpint(unix_listen(path, 0600, &err), ==, -EEXIST);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_true(g_file_test(path, G_FILE_TEST_IS_REGULAR));
        unlink(path);
        g_assert_cmpint(symlink("/dev/null", path), ==, 0);
        g_assert_cmpint(unix_listen(path, 0600, &err), ==, -EEXIST);
        unlink(path);
}

static void test_bad_paths(void)
{
        struct err err = {0};
        char *tail = g_strnfill(120, 'x'), *longer = g_build_filename(dir, tail, NULL);
        g_assert_cmpint(unix_listen(longer, 0600, &err), ==, -ENAMETOOLONG);
        g_assert_nonnull(strstr(err.sentence, "too long"));
        g_assert_cmpint(unix_connect(longer, &err), ==, -ENAMETOOLONG);
        g_assert_cmpint(unix_listen("", 0600, &err), ==, -EINVAL);
        char *nowhere = g_build_filename(dir, "no", "such", NULL);
        g_assert_cmpint(unix_listen(nowhere, 0600, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        g_assert_cmpint(unix_connect(nowhere, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_PEER_LOST);
        g_assert_cmpint(unix_peer_get(-1, NULL, &err), ==, -EBADF);
        g_free(nowhere);
        g_free(longer);
        g_free(tail);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-unix-XXXXXX", NULL);
        path = g_build_filename(dir, "s", NULL);
        g_test_add_func("/unix/meet", test_meet);
        g_test_add_func("/unix/in-use", test_in_use);
        g_test_add_func("/unix/full-queue-is-alive", test_full_queue_is_alive);
        g_test_add_func("/unix/not-a-socket", test_not_a_socket);
        g_test_add_func("/unix/bad-paths", test_bad_paths);
        int r = g_test_run();
        g_rmdir(dir);
        g_free(path);
        g_free(dir);
        return r;
}
