/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet/outcome.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <sys/wait.h>
#include <unistd.h>

struct place {
        char *path;
        int fd;
};

static void place_init(struct place *p)
{
        p->path = g_dir_make_tmp("mete-outcome-XXXXXX", NULL);
        p->fd = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        g_assert_cmpint(p->fd, >=, 0);
}

static unsigned files_in(const struct place *p)
{
        unsigned n = 0;
        GDir *d = g_dir_open(p->path, 0, NULL);
        while (g_dir_read_name(d))
                n++;
        g_dir_close(d);
        return n;
}

static void place_done(struct place *p)
{
        GDir *d = g_dir_open(p->path, 0, NULL);
        const char *name;
        while ((name = g_dir_read_name(d))) {
                g_autofree char *file = g_build_filename(p->path, name, NULL);
                (void)g_unlink(file);
        }
        g_dir_close(d);
        close(p->fd);
        g_rmdir(p->path);
        g_free(p->path);
}

static void put(const struct place *p, const char *name, const char *text)
{
        g_autofree char *file = g_build_filename(p->path, name, NULL);
        g_assert_true(g_file_set_contents(file, text, -1, NULL));
}

static void test_first_wins(void)
{
        struct place p;
        struct err err = {0};
        enum outcome_is is = 0;
        place_init(&p);
        g_assert_cmpint(outcome_read(p.fd, "m.1", &is, NULL, &err), ==, -ENOENT);
        g_assert_cmpint(outcome_write(p.fd, "m.1", OUTCOME_IS_COMMITTED, "source", &is, &err), ==, 0);
        g_assert_cmpint(is, ==, OUTCOME_IS_COMMITTED);
        g_assert_cmpint(outcome_write(p.fd, "m.1", OUTCOME_IS_ABORTED, "source", &is, &err), ==, 0);
        g_assert_cmpint(is, ==, OUTCOME_IS_COMMITTED);
        put(&p, "m.2", "aborted guard\n"); /* what mete-guard writes */
        g_assert_cmpint(outcome_write(p.fd, "m.2", OUTCOME_IS_COMMITTED, "source", &is, &err), ==, 0);
        g_assert_cmpint(is, ==, OUTCOME_IS_ABORTED);
        char by[OUTCOME_BY] = "";
        g_assert_cmpint(outcome_read(p.fd, "m.2", &is, by, &err), ==, 0);
        g_assert_cmpstr(by, ==, OUTCOME_BY_GUARD);
        g_assert_cmpint(outcome_read(p.fd, "m.1", &is, by, &err), ==, 0);
        g_assert_cmpstr(by, ==, "source");
        put(&p, "m.3", "aborted"); /* by nobody who says so */
        g_assert_cmpint(outcome_read(p.fd, "m.3", &is, by, &err), ==, 0);
        g_assert_cmpstr(by, ==, "");
        g_assert_cmpint(outcome_forget(p.fd, "m.3", &err), ==, 0);
        g_assert_cmpuint(files_in(&p), ==, 2); /* nothing beside them */
        g_assert_cmpint(outcome_forget(p.fd, "m.1", &err), ==, 0);
        g_assert_cmpint(outcome_forget(p.fd, "m.1", &err), ==, 0);
        g_assert_cmpint(outcome_read(p.fd, "m.1", &is, NULL, &err), ==, -ENOENT);
        place_done(&p);
}

static void test_bad(void)
{
        static const char *const bad_names[] = {"", ".", "..", "../m", "a/b", "a b"};
        static const char *const bad_texts[] = {"", "\n", "commit", "committedx\n", "yes\n"};
        struct place p;
        enum outcome_is is = 0;
        place_init(&p);
        for (size_t i = 0; i < G_N_ELEMENTS(bad_names); i++) {
                struct err err = {0};
                g_assert_cmpint(outcome_write(p.fd, bad_names[i], OUTCOME_IS_ABORTED, "t", &is, &err), ==,
                                -EINVAL);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
        }
        for (size_t i = 0; i < G_N_ELEMENTS(bad_texts); i++) {
                struct err err = {0};
                put(&p, "m", bad_texts[i]);
                g_assert_cmpint(outcome_read(p.fd, "m", &is, NULL, &err), ==, -EBADMSG);
                g_assert_cmpint(outcome_write(p.fd, "m", OUTCOME_IS_ABORTED, "t", &is, &err), ==, -EBADMSG);
        }
        g_assert_cmpint(is, ==, 0);
        struct err err = {0};
        put(&p, "left.source1", "x");
        g_assert_cmpint(symlinkat("/etc/passwd", p.fd, "link"), ==, 0); /* never followed */
        g_assert_cmpint(outcome_read(p.fd, "link", &is, NULL, &err), ==, -ELOOP);
        place_done(&p);
}

/* Many processes at once, each wanting something: all of them find the same. */
static void test_race(void)
{
        enum { WRITERS = 8, ROUNDS = 40 };
        struct place p;
        place_init(&p);
        for (int round = 0; round < ROUNDS; round++) {
                g_autofree char *name = g_strdup_printf("m.%d", round);
                pid_t pids[WRITERS];
                int found[OUTCOME_IS_N] = {0};
                for (int i = 0; i < WRITERS; i++) {
                        pids[i] = fork();
                        if (pids[i] == 0) {
                                enum outcome_is is = 0;
                                int bad = outcome_write(p.fd, name,
                                                        i % 2 ? OUTCOME_IS_ABORTED : OUTCOME_IS_COMMITTED,
                                                        "t", &is, NULL);
                                _exit(bad ? 99 : (int)is);
                        }
                }
                for (int i = 0; i < WRITERS; i++) {
                        int status = 0;
                        g_assert_cmpint(waitpid(pids[i], &status, 0), ==, pids[i]);
                        g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) < OUTCOME_IS_N);
                        found[WEXITSTATUS(status)]++;
                }
                g_assert_true(found[OUTCOME_IS_COMMITTED] == WRITERS || found[OUTCOME_IS_ABORTED] == WRITERS);
        }
        g_assert_cmpuint(files_in(&p), ==, ROUNDS);
        place_done(&p);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/outcome/first-wins", test_first_wins);
        g_test_add_func("/outcome/bad", test_bad);
        g_test_add_func("/outcome/race", test_race);
        return g_test_run();
}
