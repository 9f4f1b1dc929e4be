/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/socket.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static char *dir;

static void test_listen(void)
{
        char *path = g_build_filename(dir, "sock", NULL), *file = g_build_filename(dir, "file", NULL);
        struct err err = {0};
        struct stat st;
        int first = vm_listen(path, &err), client = vm_connect(path, &err);
        g_assert_cmpint(first, >=, 0);
        g_assert_cmpint(client, >=, 0);
        g_assert_cmpint(stat(path, &st), ==, 0);
        g_assert_cmpint(st.st_mode & 07777, ==, 0600);
        close(client);
        close(first);
        /* Nobody listens any more: the dead refuse. */
        g_assert_cmpint(vm_connect(path, &err), ==, -ECONNREFUSED);
        g_assert_cmpint(err.reason, ==, REASON_PEER_LOST);
        /* What it left is replaced. */
        int second = vm_listen(path, &err);
        g_assert_cmpint(second, >=, 0);
        /* So many wait that nobody can be accepting: busy, and we do not block. */
        int waiting[64], n = 0;
        while (n < 64 && (waiting[n] = vm_connect(path, &err)) >= 0)
                n++;
        g_assert_cmpint(n, <, 64);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        while (n > 0)
                close(waiting[--n]);
        close(second);
        g_unlink(path);
        g_assert_cmpint(vm_connect(path, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_PEER_LOST);
        /* Not to be had at all is another thing than dead. */
        g_assert_cmpint(vm_connect_guard(path, &err), ==, -ENOENT);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        /* Somebody's file is not. */
        g_assert_true(g_file_set_contents(file, "precious", -1, NULL));
        g_assert_cmpint(vm_listen(file, &err), ==, -EEXIST);
        g_assert_true(g_file_test(file, G_FILE_TEST_IS_REGULAR));
        g_unlink(file);
        char *name = g_strnfill(200, 'x');
        g_assert_cmpint(vm_listen(name, &err), ==, -ENAMETOOLONG);
        g_assert_cmpint(vm_connect(name, &err), ==, -ENAMETOOLONG);
        g_free(name);
        g_free(path);
        g_free(file);
}

static void test_console(void)
{
        char *path = g_build_filename(dir, "console", NULL), *old = g_strconcat(path, ".1", NULL), *text;
        struct err err = {0};
        gsize n;
        int fd = vm_console_open(path, &err);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(write(fd, "0123456789", 10), ==, 10);
        g_assert_cmpint(vm_console_trim(path, 10, &err), ==, 0);
        g_assert_cmpint(write(fd, "abcde", 5), ==, 5);
        g_assert_cmpint(vm_console_trim(path, 10, &err), ==, 1);
        g_assert_true(g_file_get_contents(old, &text, &n, NULL));
        g_assert_cmpstr(text, ==, "56789abcde"); /* the end of it */
        g_free(text);
        /* The same descriptor goes on at the new start. */
        g_assert_cmpint(write(fd, "new", 3), ==, 3);
        g_assert_true(g_file_get_contents(path, &text, &n, NULL));
        g_assert_cmpstr(text, ==, "new");
        g_free(text);
        close(fd);
        /* Opened again it is appended to; a link is not followed. */
        fd = vm_console_open(path, &err);
        g_assert_cmpint(write(fd, "er", 2), ==, 2);
        close(fd);
        g_assert_true(g_file_get_contents(path, &text, &n, NULL));
        g_assert_cmpstr(text, ==, "newer");
        g_free(text);
        g_unlink(old);
        g_assert_cmpint(symlink(path, old), ==, 0);
        g_assert_cmpint(vm_console_open(old, &err), ==, -ELOOP);
        g_assert_cmpint(vm_console_trim(path, 1, &err), ==, -ELOOP);
        g_unlink(old);
        g_unlink(path);
        g_assert_cmpint(vm_console_trim(path, 1, &err), ==, -ENOENT);
        g_free(old);
        g_free(path);
}

/* What nobody reads is acknowledged while there is room for it, and then no more. */
static void test_acked(void)
{
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t n = sizeof(at);
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 4096, pair[2];
        g_assert_cmpint(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), ==, 0);
        g_assert_cmpint(bind(listener, (struct sockaddr *)&at, sizeof(at)), ==, 0);
        g_assert_cmpint(listen(listener, 1), ==, 0);
        g_assert_cmpint(getsockname(listener, (struct sockaddr *)&at, &n), ==, 0);
        int from = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        g_assert_cmpint(connect(from, (struct sockaddr *)&at, sizeof(at)), ==, 0);
        int to = accept(listener, NULL, NULL);
        g_assert_cmpint(to, >=, 0);
        int64_t before = vm_socket_acked_bytes(from), sent = 0;
        g_assert_cmpint(before, >=, 0);
        char bytes[1024] = {0};
        g_assert_cmpint(send(from, bytes, sizeof(bytes), 0), ==, sizeof(bytes));
        while (vm_socket_acked_bytes(from) < before + (int64_t)sizeof(bytes)) /* the other end's kernel */
                g_usleep(1000);
        for (ssize_t k = 0; (k = send(from, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0;)
                sent += k;
        g_assert_cmpint(vm_socket_acked_bytes(from), <, before + (int64_t)sizeof(bytes) + sent);
        close(to);
        close(from);
        close(listener);
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
        g_assert_cmpint(vm_socket_acked_bytes(pair[0]), <, 0);
        close(pair[0]);
        close(pair[1]);
        g_assert_cmpint(vm_socket_acked_bytes(-1), <, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-socket-XXXXXX", NULL);
        g_test_add_func("/socket/listen", test_listen);
        g_test_add_func("/socket/console", test_console);
        g_test_add_func("/socket/acked", test_acked);
        int r = g_test_run();
        g_rmdir(dir);
        g_free(dir);
        return r;
}
