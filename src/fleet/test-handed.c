/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet/handed.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char *path;
static int fd;

static void place_init(void)
{
        path = g_dir_make_tmp("mete-handed-XXXXXX", NULL);
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
}

static unsigned clear(bool removes)
{
        unsigned n = 0;
        GDir *d = g_dir_open(path, 0, NULL);
        const char *name;
        while ((name = g_dir_read_name(d))) {
                g_autofree char *file = g_build_filename(path, name, NULL);
                n++;
                if (removes)
                        (void)g_unlink(file);
        }
        g_dir_close(d);
        return n;
}

static void place_done(void)
{
        (void)clear(true);
        close(fd);
        g_rmdir(path);
        g_free(path);
}

static enum handover_record is_now(void)
{
        struct err err = {0};
        enum handover_record is = RECORD_NONE;
        g_assert_cmpint(handed_read(fd, &is, &err), ==, 0);
        return is;
}

static enum handover_record write_it(enum handover_record wanted)
{
        struct err err = {0};
        enum handover_record is = RECORD_NONE;
        g_assert_cmpint(handed_write(fd, wanted, "test", &is, &err), ==, 0);
        g_assert_cmpint(is, ==, is_now());
        return is;
}

/* Every word after every other. */
static void test_words(void)
{
        static const enum handover_record words[] = {RECORD_ABORTED, RECORD_COMMITTED, RECORD_RETURNED};
        /* clang-format off */
        static const enum handover_record after[4][4] = {
                [RECORD_NONE] = {[RECORD_ABORTED] = RECORD_ABORTED,
                                     [RECORD_COMMITTED] = RECORD_COMMITTED,
                                     [RECORD_RETURNED] = RECORD_NONE},
                [RECORD_ABORTED] = {[RECORD_ABORTED] = RECORD_ABORTED,
                                     [RECORD_COMMITTED] = RECORD_ABORTED,
                                     [RECORD_RETURNED] = RECORD_ABORTED},
                [RECORD_COMMITTED] = {[RECORD_ABORTED] = RECORD_COMMITTED,
                                     [RECORD_COMMITTED] = RECORD_COMMITTED,
                                     [RECORD_RETURNED] = RECORD_RETURNED},
                [RECORD_RETURNED] = {[RECORD_ABORTED] = RECORD_RETURNED,
                                     [RECORD_COMMITTED] = RECORD_RETURNED,
                                     [RECORD_RETURNED] = RECORD_RETURNED},
        };
        /* clang-format on */
        place_init();
        for (int i = 0; i < 81; i++) { /* four words, each of three */
                enum handover_record now = RECORD_NONE;
                g_assert_cmpint(is_now(), ==, RECORD_NONE);
                for (int n = i, k = 0; k < 4; n /= 3, k++) {
                        enum handover_record word = words[n % 3];
                        g_assert_cmpint(write_it(word), ==, after[now][word]);
                        now = after[now][word];
                }
                (void)clear(true);
        }
        place_done();
}

/* Who writes with others at once learns the word that counts, and it is one of those written. */
static void test_race(void)
{
        place_init();
        for (int round = 0; round < 40; round++) {
                pid_t pids[4];
                bool saw[2] = {false, false};
                for (int i = 0; i < 4; i++) {
                        if ((pids[i] = fork()) == 0) {
                                enum handover_record is = 0;
                                struct err err = {0};
                                if (handed_write_of(fd, HANDED_ANYBODYS,
                                                    i % 2 ? RECORD_COMMITTED : RECORD_ABORTED, "one", &is,
                                                    &err))
                                        _exit(9);
                                _exit(is == RECORD_COMMITTED);
                        }
                }
                for (int i = 0; i < 4; i++) {
                        int status;
                        g_assert_cmpint(waitpid(pids[i], &status, 0), ==, pids[i]);
                        g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
                        saw[WEXITSTATUS(status)] = true;
                }
                g_assert_true(saw[0] != saw[1]);
                g_assert_cmpint(is_now(), ==, saw[1] ? RECORD_COMMITTED : RECORD_ABORTED);
                g_assert_cmpint(clear(true), ==, 1); /* nobody left anything beside it */
        }
        place_done();
}

/* What makes no sense says `aborted`: else all three would wait for ever, and anybody could make it so. */
static void test_bad(void)
{
        struct err err = {0};
        place_init();
        g_autofree char *file = g_build_filename(path, HANDED_OUTCOME, NULL),
                        *back = g_build_filename(path, HANDED_RETURNED, NULL);
        g_assert_cmpint(handed_open("/no/such/folder", &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INTERNAL);
        int dir = handed_open(path, &err);
        g_assert_cmpint(dir, >=, 0);
        close(dir);
        for (const char **word = (const char *[]){"perhaps\n", "", "committedly\n", NULL}; *word; word++) {
                g_assert_true(g_file_set_contents(file, *word, -1, NULL));
                g_assert_cmpint(handed_open(file, &err), <, 0);
                g_assert_cmpint(is_now(), ==, RECORD_ABORTED);
                g_assert_cmpint(write_it(RECORD_COMMITTED), ==, RECORD_ABORTED);
                g_assert_cmpint(write_it(RECORD_RETURNED), ==, RECORD_ABORTED);
        }
        (void)g_unlink(file);
        g_assert_cmpint(symlink("/etc/passwd", file), ==, 0);
        g_assert_cmpint(write_it(RECORD_COMMITTED), ==, RECORD_ABORTED);
        (void)g_unlink(file);
        g_assert_cmpint(mkfifo(file, 0600), ==, 0);
        g_assert_cmpint(write_it(RECORD_ABORTED), ==, RECORD_ABORTED);
        (void)g_unlink(file);
        g_assert_cmpint(g_mkdir(file, 0700), ==, 0);
        g_assert_cmpint(write_it(RECORD_COMMITTED), ==, RECORD_ABORTED);
        g_rmdir(file);
        g_assert_true(g_file_set_contents(file, "committed target\n", -1, NULL));
        g_assert_cmpint(g_mkdir(back, 0700), ==, 0);
        g_assert_cmpint(is_now(), ==, RECORD_COMMITTED);
        g_rmdir(back);
        g_assert_true(g_file_set_contents(back, "perhaps\n", -1, NULL)); /* as the keeper has it */
        g_assert_cmpint(is_now(), ==, RECORD_RETURNED);
        place_done();
}

static enum handover_record is_to(enum handed_whose whose)
{
        struct err err = {0};
        enum handover_record is = RECORD_NONE;
        g_assert_cmpint(handed_read_of(fd, whose, &is, &err), ==, 0);
        return is;
}

static bool stands_to(enum handed_whose whose)
{
        struct err err = {0};
        bool is = false;
        g_assert_cmpint(handed_stands_of(fd, whose, &is, &err), ==, 0);
        return is;
}

/* Beside what is decided; once; and no word of who reads it, of which it would have to be another's. */
static void test_stands(void)
{
        struct err err = {0};
        place_init();
        g_autofree char *file = g_build_filename(path, HANDED_STANDS, NULL);
        g_assert_false(stands_to(HANDED_ANYBODYS));
        for (int i = 0; i < 2; i++) {
                g_assert_cmpint(handed_stand(fd, &err), ==, 0);
                g_assert_true(stands_to(HANDED_ANYBODYS));
                g_assert_true(stands_to(HANDED_MINE));
                g_assert_false(stands_to(HANDED_OTHERS));
        }
        g_assert_cmpuint(clear(false), ==, 1);
        g_assert_cmpint(is_now(), ==, RECORD_NONE);
        g_assert_cmpint(write_it(RECORD_COMMITTED), ==, RECORD_COMMITTED);
        (void)clear(true);
        g_assert_cmpint(g_mkdir(file, 0700), ==, 0); /* no word, and nobody says it any more */
        g_assert_cmpint(handed_stand(fd, &err), ==, 0);
        g_assert_false(stands_to(HANDED_ANYBODYS));
        g_rmdir(file);
        g_assert_cmpint(symlink("/etc/passwd", file), ==, 0);
        g_assert_false(stands_to(HANDED_ANYBODYS));
        (void)g_unlink(file);
        if (geteuid() == 0) {
                g_assert_cmpint(handed_stand(fd, &err), ==, 0);
                g_assert_cmpint(chown(file, 12345, 12345), ==, 0);
                g_assert_true(stands_to(HANDED_OTHERS));
                g_assert_false(stands_to(HANDED_MINE));
        }
        place_done();
}

/* `committed` and `returned` count by who wrote them: the target's own to it, not the source's own to that.
 */
static void test_owners(void)
{
        struct err err = {0};
        enum handover_record is = RECORD_NONE;
        place_init();
        g_assert_cmpint(is_to(HANDED_MINE), ==, RECORD_NONE);
        g_assert_cmpint(is_to(HANDED_OTHERS), ==, RECORD_NONE);
        g_assert_cmpint(handed_write_of(fd, HANDED_MINE, RECORD_COMMITTED, "target", &is, &err), ==, 0);
        g_assert_cmpint(is, ==, RECORD_COMMITTED);
        g_assert_cmpint(is_to(HANDED_MINE), ==, RECORD_COMMITTED);
        g_assert_cmpint(is_to(HANDED_OTHERS), ==, RECORD_ABORTED);
        g_assert_cmpint(handed_write_of(fd, HANDED_OTHERS, RECORD_ABORTED, "source", &is, &err), ==, 0);
        g_assert_cmpint(is, ==, RECORD_ABORTED);
        g_assert_cmpint(handed_write_of(fd, HANDED_MINE, RECORD_RETURNED, "target", &is, &err), ==, 0);
        g_assert_cmpint(is, ==, RECORD_RETURNED);
        g_assert_cmpint(is_to(HANDED_MINE), ==, RECORD_RETURNED);
        (void)clear(true);
        g_assert_cmpint(handed_write_of(fd, HANDED_MINE, RECORD_ABORTED, "target", &is, &err), ==, 0);
        g_assert_cmpint(is_to(HANDED_OTHERS), ==, RECORD_ABORTED); /* that is anybody's to say */
        if (geteuid() == 0) {                                      /* so that it can be another's */
                g_autofree char *file = g_build_filename(path, HANDED_OUTCOME, NULL),
                                *back = g_build_filename(path, HANDED_RETURNED, NULL);
                (void)clear(true);
                g_assert_true(g_file_set_contents(file, "committed other\n", -1, NULL));
                g_assert_cmpint(chown(file, 12345, 12345), ==, 0);
                g_assert_cmpint(is_to(HANDED_MINE), ==, RECORD_ABORTED);
                g_assert_cmpint(is_to(HANDED_OTHERS), ==, RECORD_COMMITTED);
                g_assert_true(g_file_set_contents(back, "aborted me\n", -1, NULL));
                g_assert_cmpint(is_to(HANDED_OTHERS), ==, RECORD_COMMITTED);
                g_assert_cmpint(chown(back, 12345, 12345), ==, 0);
                g_assert_cmpint(is_to(HANDED_OTHERS), ==, RECORD_RETURNED);
                g_assert_cmpint(chown(file, 0, 0), ==, 0);
                g_assert_cmpint(is_to(HANDED_MINE), ==, RECORD_COMMITTED);
                g_assert_cmpint(handed_write_of(fd, HANDED_MINE, RECORD_RETURNED, "target", &is, &err), ==,
                                0);
                g_assert_cmpint(is, ==, RECORD_RETURNED);
        }
        place_done();
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/handed/words", test_words);
        g_test_add_func("/handed/race", test_race);
        g_test_add_func("/handed/bad", test_bad);
        g_test_add_func("/handed/stands", test_stands);
        g_test_add_func("/handed/owners", test_owners);
        return g_test_run();
}
