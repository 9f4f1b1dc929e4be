/* SPDX-License-Identifier: Apache-2.0 */
/* The guard beside a VMM that is played here, line by line: what it does at the bound, and when it does
 * nothing. */
#include "guard/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}"
#define STOP     "{\"timestamp\": {}, \"event\": \"STOP\"}"
#define RESUME   "{\"timestamp\": {}, \"event\": \"RESUME\"}"
#define MIGRATION(status)                                                                                    \
        "{\"timestamp\": {}, \"event\": \"MIGRATION\", \"data\": {\"status\": \"" status "\"}}"
enum { LONG_US = 2000000000, SHORT_US = 20000, LATE_US = 250000 };

struct world {
        struct guard guard;
        struct guard_options o;
        char dir[64], outcome[96], control[96];
        int vmm, client; /* our ends */
        GThread *thread;
};

static gpointer run(gpointer arg)
{
        return GINT_TO_POINTER(guard_run(arg));
}

static void say(struct world *w, const char *line)
{
        g_autofree char *text = g_strconcat(line, "\n", NULL);
        g_assert_cmpint(send(w->vmm, text, strlen(text), MSG_NOSIGNAL), ==, strlen(text));
}

/* The next line that comes there. */
static char *hear(int fd)
{
        GString *line = g_string_new(NULL);
        for (char c; recv(fd, &c, 1, 0) == 1 && c != '\n';)
                g_string_append_c(line, c);
        return g_string_free(line, FALSE);
}

static void expect(int fd, const char *part)
{
        g_autofree char *line = hear(fd);
        if (!strstr(line, part))
                g_error("\"%s\" is not in \"%s\"", part, line);
}

static void connect_to(struct world *w)
{
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        (void)g_strlcpy(a.sun_path, w->control, sizeof(a.sun_path));
        w->client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        g_assert_cmpint(connect(w->client, (struct sockaddr *)&a, sizeof(a)), ==, 0);
}

/* Until it says what it is at after the greeting. decided: its outcome, which is there before it begins. */
static struct world *begin_after(int64_t bound_us, const char *decided)
{
        struct world *w = g_new0(struct world, 1);
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        struct err err = {0};
        int pair[2];
        (void)g_strlcpy(w->dir, "/tmp/mete-guard-XXXXXX", sizeof(w->dir));
        g_assert_nonnull(g_mkdtemp(w->dir));
        (void)g_snprintf(w->outcome, sizeof(w->outcome), "%s/outcome", w->dir);
        (void)g_snprintf(w->control, sizeof(w->control), "%s/control", w->dir);
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
        w->vmm = pair[0];
        w->o = (struct guard_options){.monitor_fd = pair[1],
                                      .control_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
                                      .bound_us = bound_us,
                                      .dir_fd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                                      .move = "outcome"};
        (void)g_strlcpy(a.sun_path, w->control, sizeof(a.sun_path));
        g_assert_cmpint(bind(w->o.control_fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
        g_assert_cmpint(listen(w->o.control_fd, 4), ==, 0);
        if (decided)
                g_assert_true(g_file_set_contents(w->outcome, decided, -1, NULL));
        g_assert_cmpint(guard_prepare(&w->guard, &w->o, &err), ==, 0);
        w->thread = g_thread_new("guard", run, &w->guard);
        say(w, "{\"event\": \"left over from another client");
        say(w, GREETING);
        expect(w->vmm, "qmp_capabilities");
        connect_to(w);
        expect(w->client, "negotiating");
        say(w, "{\"return\": {}, \"id\": \"guard\"}");
        return w;
}

static struct world *begin(int64_t bound_us)
{
        struct world *w = begin_after(bound_us, NULL);
        for (g_autofree char *line = hear(w->client); !g_str_has_prefix(line, "watching");) {
                g_free(line);
                line = hear(w->client);
        }
        return w;
}

static void finish(struct world *w, enum guard_state wanted)
{
        if (w->thread)
                g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(w->thread)), ==, wanted);
        guard_done(&w->guard);
        guard_done(&w->guard);
        close(w->client);
        if (w->vmm >= 0)
                close(w->vmm);
        (void)g_unlink(w->outcome);
        (void)g_unlink(w->control);
        g_assert_cmpint(g_rmdir(w->dir), ==, 0); /* nothing of its own stays */
        g_free(w);
}

static bool is_outcome(const struct world *w, const char *text)
{
        g_autofree char *found = NULL;
        return g_file_get_contents(w->outcome, &found, NULL, NULL) && strcmp(found, text) == 0;
}

/* It said nothing to the VMM, and left the outcome as it was. */
static void finish_unheard(struct world *w, const char *outcome)
{
        char byte;
        g_assert_true(is_outcome(w, outcome));
        g_assert_cmpint(recv(w->vmm, &byte, 1, MSG_DONTWAIT), ==, -1);
        finish(w, GUARD_OVER);
}

static void dismiss(struct world *w)
{
        g_assert_cmpint(send(w->client, "done\n", 5, MSG_NOSIGNAL), ==, 5);
        finish(w, GUARD_DISMISSED);
}

static void test_cut(void)
{
        struct world *w = begin(SHORT_US);
        say(w, STOP);
        expect(w->vmm, "\"exec-oob\":\"yank\"");
        g_assert_true(is_outcome(w, "aborted guard\n"));
        expect(w->client, "stopped");
        expect(w->client, "cut");
        say(w, "{\"return\": {}, \"id\": \"cut\"}");
        say(w, MIGRATION("failed"));
        say(w, RESUME);
        expect(w->client, "resumed");
        g_assert_cmpint(w->guard.cut_us - w->guard.stopped_us, >=, SHORT_US);
        finish(w, GUARD_RESUMED);
}

/* All of it had gone over, and nobody took it: the source does not run by itself. */
static void test_complete(void)
{
        for (int is_late = 0; is_late < 2; is_late++) {
                struct world *w = begin(SHORT_US);
                say(w, STOP);
                if (!is_late)
                        say(w, MIGRATION("completed"));
                expect(w->vmm, "yank");
                if (is_late)
                        say(w, MIGRATION("completed"));
                for (int i = 0; i < 5; i++) { /* it is about to finish still, and says nothing when it has */
                        expect(w->vmm, "\"execute\":\"cont\"");
                        g_assert_true(is_outcome(w, "aborted guard\n"));
                        say(w,
                            i < 4 ? "{\"error\": {}, \"id\": \"run\"}" : "{\"return\": {}, \"id\": \"run\"}");
                }
                say(w, RESUME);
                finish(w, GUARD_RESUMED);
        }
}

/* A copy is under way, and it knows: who connects is answered behind what the VMM said before. */
static void has_begun(struct world *w)
{
        say(w, MIGRATION("active"));
        close(w->client);
        connect_to(w);
        expect(w->client, "watching");
}

/* Somebody else has decided: not a word to the VMM. */
static void test_yields(void)
{
        struct world *w = begin(SHORT_US);
        has_begun(w);
        g_assert_true(g_file_set_contents(w->outcome, "committed\n", -1, NULL));
        say(w, STOP);
        say(w, MIGRATION("completed"));
        expect(w->client, "stopped");
        expect(w->client, "yielded");
        g_assert_true(is_outcome(w, "committed\n"));
        char byte;
        g_assert_cmpint(recv(w->vmm, &byte, 1, MSG_DONTWAIT), ==, -1);
        g_assert_cmpint(shutdown(w->vmm, SHUT_WR), ==, 0);
        finish(w, GUARD_GONE);
}

/* Somebody else has decided that it is to run here: at the bound it is, also if nobody else sees to it. */
static void test_aborted_before(void)
{
        struct world *w = begin(SHORT_US);
        has_begun(w);
        g_assert_true(g_file_set_contents(w->outcome, "aborted source\n", -1, NULL));
        say(w, STOP);
        expect(w->vmm, "yank");
        say(w, MIGRATION("failed"));
        say(w, RESUME);
        finish(w, GUARD_RESUMED);
}

/* It counts from when the guest stopped, however late that is heard; and believes no nonsense. */
static void test_late(void)
{
        static const char *const nonsense[] = {"",
                                               "\"seconds\": -1, \"microseconds\": -1",
                                               "\"seconds\": 99999999999, \"microseconds\": 0",
                                               "\"seconds\": 1, \"microseconds\": 99999999999999999999",
                                               "\"seconds\": 0, \"microseconds\": 0",
                                               "\"seconds\": x"};
        for (size_t i = 0; i <= G_N_ELEMENTS(nonsense); i++) {
                bool is_true = i == G_N_ELEMENTS(nonsense);
                struct world *w = begin(SHORT_US);
                int64_t begun_us = g_get_monotonic_time();
                if (is_true)
                        g_usleep(LATE_US + LATE_US / 5);
                int64_t at_us = g_get_real_time() - LATE_US;
                g_autofree char *stamp = g_strdup_printf("\"seconds\": %" G_GINT64_FORMAT
                                                         ", \"microseconds\": %" G_GINT64_FORMAT,
                                                         at_us / 1000000, at_us % 1000000);
                g_autofree char *stop = g_strdup_printf("{\"timestamp\": {%s}, \"event\": \"STOP\"}",
                                                        is_true ? stamp : nonsense[i]);
                say(w, stop);
                expect(w->vmm, "yank");
                say(w, RESUME);
                struct guard *g = &w->guard;
                g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(w->thread)), ==, GUARD_RESUMED);
                g_assert_cmpint(g->cut_us - g->stopped_us, >=, is_true ? LATE_US : SHORT_US);
                g_assert_cmpint(g->stopped_us, >=, is_true ? begun_us : begun_us - G_USEC_PER_SEC * 60);
                g_assert_cmpint(g->resumed_us, >=, g->cut_us);
                w->thread = NULL;
                finish(w, GUARD_RESUMED);
        }
}

/* The attempt ends without it, and so does it. */
static void test_over(void)
{
        for (int i = 0; i < 4; i++) {
                struct world *w = begin(i == 3 ? SHORT_US : LONG_US);
                if (i == 0) {
                        say(w, MIGRATION("failed"));
                } else if (i == 1) {
                        say(w, MIGRATION("cancelled"));
                } else {
                        if (i == 3) {
                                has_begun(w);
                                g_assert_true(g_file_set_contents(w->outcome, "committed\n", -1, NULL));
                        }
                        say(w, STOP);
                        expect(w->client, "stopped");
                        if (i == 3)
                                expect(w->client, "yielded");
                        else
                                say(w, MIGRATION("failed"));
                        say(w, RESUME);
                }
                expect(w->client, "over");
                finish(w, GUARD_OVER);
        }
}

/* Who started it gave up while it was on its way: it must not keep the downtime of whatever comes later. */
static void test_too_late(void)
{
        static const char *const decided[] = {"aborted source\n", "committed\n"};
        for (size_t i = 0; i < 2 * G_N_ELEMENTS(decided); i++) {
                bool is_before = i % 2;
                const char *outcome = decided[i / 2];
                struct world *w = is_before ? begin_after(SHORT_US, outcome) : begin(SHORT_US);
                if (!is_before) { /* a guest that is stopped, or a later copy */
                        g_assert_true(g_file_set_contents(w->outcome, outcome, -1, NULL));
                        say(w, i == 0 ? STOP : MIGRATION("setup"));
                }
                expect(w->client, "over");
                finish_unheard(w, outcome);
        }
        struct world *w = begin(SHORT_US);
        g_assert_true(g_file_set_contents(w->outcome, decided[0], -1, NULL));
        expect(w->client, "over"); /* with nobody saying anything */
        finish_unheard(w, decided[0]);
}

/* Whoever started it may come again, and dismisses it. */
static void test_in_time(void)
{
        struct world *w = begin(LONG_US);
        say(w, MIGRATION("active"));
        say(w, STOP);
        expect(w->client, "stopped");
        close(w->client);
        connect_to(w);
        expect(w->client, "stopped");
        g_assert_false(g_file_test(w->outcome, G_FILE_TEST_EXISTS));
        g_assert_cmpint(send(w->client, "nonsense that is long\nno\n", 25, MSG_NOSIGNAL), ==, 25);
        dismiss(w);
}

static void test_hostile(void)
{
        /* A line without end, then one that counts. */
        struct world *w = begin(SHORT_US);
        g_autofree char *much = g_strnfill(3 * GUARD_LINE_MAX, 'x');
        say(w, much);
        say(w, "");
        say(w, "{\"event\": 7}");
        say(w, STOP);
        expect(w->vmm, "yank");
        say(w, "{\"error\": {}, \"id\": \"cut\"}");
        close(w->vmm);
        w->vmm = -1;
        finish(w, GUARD_GONE);
        g_autofree struct guard *g = g_new(struct guard, 1);
        static const char *const wrong[] = {"", "../x", "a/b", ".", "a b"};
        struct guard_options o = {.monitor_fd = -1, .control_fd = -1, .dir_fd = -1, .move = "x"};
        struct err err = {0};
        g_assert_cmpint(guard_prepare(g, &o, &err), ==, -ERANGE);
        o.bound_us = 1;
        g_assert_cmpint(guard_prepare(g, &o, &err), ==, -EBADF);
        for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
                o.move = wrong[i];
                g_assert_cmpint(guard_prepare(g, &o, &err), ==, -EINVAL);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/guard/cut", test_cut);
        g_test_add_func("/guard/complete", test_complete);
        g_test_add_func("/guard/yields", test_yields);
        g_test_add_func("/guard/aborted-before", test_aborted_before);
        g_test_add_func("/guard/late", test_late);
        g_test_add_func("/guard/over", test_over);
        g_test_add_func("/guard/too-late", test_too_late);
        g_test_add_func("/guard/in-time", test_in_time);
        g_test_add_func("/guard/hostile", test_hostile);
        for (enum guard_state s = GUARD_GREETING; s < GUARD_STATE_N; s++)
                g_assert_cmpstr(guard_state_name(s), !=, "");
        return g_test_run();
}
