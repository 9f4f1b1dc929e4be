/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/test-played.h"

#include <glib-unix.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "json/read.h"
#include "vm/pick.h"
#include "vm/socket.h"

struct played played;

void played_say(int i, json_t *v)
{
        size_t n;
        char *text = json_write(v, &n);
        json_decref(v);
        g_assert_nonnull(text);
        if (played.fd[i] >= 0) {
                send(played.fd[i], text, n, MSG_NOSIGNAL);
                send(played.fd[i], "\r\n", 2, MSG_NOSIGNAL);
        }
        free(text);
}

void played_answer(int i, const json_t *id, json_t *ret)
{
        json_t *reply =
                ret ? json_pack("{s:o}", "return", ret)
                    : json_pack("{s:{s:s, s:s}}", "error", "class", "GenericError", "desc", "cannot do that");
        json_object_set(reply, "id", (json_t *)(uintptr_t)id);
        played_say(i, reply);
}

void played_hang_up(void)
{
        for (int i = 0; i < MONITORS; i++) {
                if (played.reading[i])
                        g_source_remove(played.reading[i]);
                played.reading[i] = 0;
                if (played.fd[i] >= 0)
                        close(played.fd[i]);
                played.fd[i] = -1;
        }
}

static void serve(int i, const char *line, size_t n)
{
        json_t *message = json_read(line, n, NULL);
        g_assert_nonnull(message);
        const char *execute = pick_text(message, "execute");
        played.on_command(i, *execute ? execute : pick_text(message, "exec-oob"),
                          json_object_get(message, "arguments"), json_object_get(message, "id"));
        json_decref(message);
}

static void keep_passed(struct msghdr *m)
{
        for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
                if (played.passed_fd >= 0)
                        close(played.passed_fd);
                memcpy(&played.passed_fd, CMSG_DATA(h), sizeof(int));
        }
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer data)
{
        int i = GPOINTER_TO_INT(data);
        char buf[4096], control[CMSG_SPACE(sizeof(int))] = {0}, *newline;
        struct iovec part = {.iov_base = buf, .iov_len = sizeof(buf)};
        struct msghdr m = {
                .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n <= 0) {
                close(fd);
                played.fd[i] = -1;
                played.reading[i] = 0;
                return G_SOURCE_REMOVE;
        }
        keep_passed(&m);
        g_string_append_len(played.in[i], buf, n);
        while (played.fd[i] >= 0 && (newline = strchr(played.in[i]->str, '\n'))) {
                size_t length = (size_t)(newline - played.in[i]->str);
                g_autofree char *line = g_strndup(played.in[i]->str, length);
                g_string_erase(played.in[i], 0, (gssize)length + 1);
                serve(i, line, length);
        }
        return played.fd[i] >= 0 ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

/* One client at a time, as QEMU does it. */
static gboolean on_acceptable(gint fd, GIOCondition condition, gpointer data)
{
        int i = GPOINTER_TO_INT(data);
        if (played.fd[i] >= 0)
                return G_SOURCE_CONTINUE;
        played.fd[i] = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        g_string_truncate(played.in[i], 0);
        played.reading[i] = g_unix_fd_add(played.fd[i], G_IO_IN | G_IO_HUP, on_readable, data);
        played_say(i, json_pack("{s:{s:{s:{s:i, s:i, s:i}, s:s}, s:[s]}}", "QMP", "version", "qemu", "major",
                                played.major, "minor", 2, "micro", 22, "package", "", "capabilities", "oob"));
        return G_SOURCE_CONTINUE;
}

void played_open(const char *dir, int major, played_command *on_command)
{
        played = (struct played){.major = major, .passed_fd = -1, .on_command = on_command};
        for (int i = 0; i < MONITORS; i++) {
                played.path[i] = g_strdup_printf("%s/%d", dir, i);
                played.listener[i] = vm_listen(played.path[i], NULL);
                g_assert_cmpint(played.listener[i], >=, 0);
                played.fd[i] = -1;
                played.in[i] = g_string_new(NULL);
                played.accepting[i] =
                        g_unix_fd_add(played.listener[i], G_IO_IN, on_acceptable, GINT_TO_POINTER(i));
        }
}

void played_close(void)
{
        played_hang_up();
        for (int i = 0; i < MONITORS; i++) {
                g_source_remove(played.accepting[i]);
                close(played.listener[i]);
                g_string_free(played.in[i], TRUE);
                g_unlink(played.path[i]);
                g_free(played.path[i]);
        }
        if (played.passed_fd >= 0)
                close(played.passed_fd);
}
