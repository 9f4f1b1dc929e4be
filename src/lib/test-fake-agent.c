/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/test-fake-agent.h"
#include <glib.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "wire/line.h"

static void say(int fd, const char *step, int id)
{
        char text[8192];
        const char *at = strstr(step, "%d");
        int n = at != NULL ? snprintf(text, sizeof(text), "%.*s%d%s\n", (int)(at - step), step, id, at + 2)
                           : snprintf(text, sizeof(text), "%s\n", step);

        g_assert_cmpint(send(fd, text, (size_t)n, MSG_NOSIGNAL), ==, n);
}

/* false: close this connection. */
static bool answer(struct fake_agent *a, int fd, const char *text)
{
        const char *id = strstr(text, "\"id\":");
        const char *step = a->script[a->step];

        g_strlcpy(a->seen[a->n_seen % 64], text, sizeof(a->seen[0]));
        a->n_seen++;
        if (step == NULL)
                return true;
        a->step++;
        if (strcmp(step, "!close") == 0)
                return false;
        if (strcmp(step, "!down") == 0) {
                close(a->listen_fd);
                a->listen_fd = -1;
                return false;
        }
        if (strcmp(step, "!silent") != 0)
                say(fd, step, id != NULL ? atoi(id + 5) : 0);
        while (a->script[a->step] != NULL && a->script[a->step][0] == '+')
                say(fd, a->script[a->step++] + 1, 0);
        return true;
}

/* false: stop. */
static bool serve(struct fake_agent *a, int fd)
{
        struct line line;
        bool goes_on = true, open = true;

        line_init(&line, 65536);
        while (open) {
                struct pollfd p[2] = {
                        {.fd = fd,            .events = POLLIN},
                        {.fd = a->stop_fd[0], .events = POLLIN}
                };
                g_assert_cmpint(poll(p, 2, -1), >, 0);
                if (p[1].revents) {
                        goes_on = false;
                        break;
                }
                size_t room, n;
                char *at = line_room(&line, &room), *text;
                ssize_t got = recv(fd, at, room, 0);
                if (got <= 0)
                        break;
                line_filled(&line, (size_t)got);
                while (open && line_next(&line, &text, &n) == LINE_READY)
                        open = answer(a, fd, text);
        }
        line_done(&line);
        close(fd);
        return goes_on;
}

static void *run(void *arg)
{
        struct fake_agent *a = arg;

        for (;;) {
                struct pollfd p[2] = {
                        {.fd = a->listen_fd,  .events = POLLIN},
                        {.fd = a->stop_fd[0], .events = POLLIN}
                };
                g_assert_cmpint(poll(p, 2, -1), >, 0);
                if (p[1].revents)
                        return NULL;
                int fd = accept(a->listen_fd, NULL, NULL);
                g_assert_cmpint(fd, >=, 0);
                if (!serve(a, fd))
                        return NULL;
        }
}

void fake_agent_start(struct fake_agent *a, const char *const *script)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        memset(a, 0, sizeof(*a));
        a->script = script;
        g_strlcpy(a->folder, "/tmp/mete-lib-XXXXXX", sizeof(a->folder));
        g_assert_nonnull(mkdtemp(a->folder));
        (void)snprintf(a->path, sizeof(a->path), "%s/s", a->folder);
        g_strlcpy(address.sun_path, a->path, sizeof(address.sun_path));
        a->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        g_assert_cmpint(bind(a->listen_fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
        g_assert_cmpint(listen(a->listen_fd, 8), ==, 0);
        g_assert_cmpint(pipe(a->stop_fd), ==, 0);
        g_assert_cmpint(pthread_create(&a->thread, NULL, run, a), ==, 0);
}

void fake_agent_stop(struct fake_agent *a)
{
        g_assert_cmpint(write(a->stop_fd[1], "", 1), ==, 1);
        pthread_join(a->thread, NULL);
        if (a->listen_fd >= 0)
                close(a->listen_fd);
        close(a->stop_fd[0]);
        close(a->stop_fd[1]);
        unlink(a->path);
        g_assert_cmpint(rmdir(a->folder), ==, 0);
}
