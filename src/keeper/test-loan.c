/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "base/str.h"
#include "keeper/loan.h"
#include "keeper/look.h"
#include "keeper/place.h"

static struct loan some(void)
{
        struct loan l = {.lender = "v",
                         .borrower = "b..v",
                         .handover = "h-1",
                         .handle = "0123456789abcdef0123456789abcdef",
                         .tag = "fedcba9876543210",
                         .lender_uid = 70000,
                         .borrower_uid = 70128,
                         .lender_user = 900,
                         .borrower_user = 901,
                         .state = LOAN_BORROWED,
                         .serial = 7,
                         .n = 2};
        l.files[0] = (struct loan_file){"ram0", 0, 25, 4711, 1 << 20};
        l.files[1] = (struct loan_file){"dimm0-16M", 2 << 20, 26, 1, 16 << 20};
        return l;
}

/* Every cell. What is over, or is being ended, can never become anything else. */
static void test_table(void)
{
        static const enum loan_state expected[LOAN_STATE_N][LOAN_EV_N] = {
                [LOAN_LENT] = {0, LOAN_BORROWED, 0,            LOAN_BACKING, 0         },
                [LOAN_BORROWED] = {0, LOAN_BORROWED, LOAN_GIVING,  LOAN_BACKING, 0         },
                [LOAN_GIVING] = {0, 0,             LOAN_GIVING,  LOAN_GIVING,  LOAN_GIVEN},
                [LOAN_BACKING] = {0, 0,             LOAN_BACKING, LOAN_BACKING, LOAN_BACK },
                [LOAN_GIVEN] = {0, 0,             LOAN_GIVEN,   LOAN_GIVEN,   0         },
                [LOAN_BACK] = {0, 0,             LOAN_BACK,    LOAN_BACK,    0         },
        };
        for (int s = 0; s <= LOAN_STATE_N; s++)
                for (int e = 0; e <= LOAN_EV_N; e++) {
                        enum loan_state want = s < LOAN_STATE_N && e < LOAN_EV_N ? expected[s][e] : 0;
                        g_assert_cmpint(loan_next((enum loan_state)s, (enum loan_event)e), ==, want);
                }
}

static void assert_same(const struct loan *a, const struct loan *b)
{
        g_assert_cmpstr(a->lender, ==, b->lender);
        g_assert_cmpstr(a->borrower, ==, b->borrower);
        g_assert_cmpstr(a->handover, ==, b->handover);
        g_assert_cmpstr(a->handle, ==, b->handle);
        g_assert_cmpstr(a->tag, ==, b->tag);
        g_assert_cmpuint(a->lender_uid, ==, b->lender_uid);
        g_assert_cmpuint(a->borrower_uid, ==, b->borrower_uid);
        g_assert_cmpuint(a->lender_user, ==, b->lender_user);
        g_assert_cmpuint(a->borrower_user, ==, b->borrower_user);
        g_assert_cmpint(a->state, ==, b->state);
        g_assert_cmpuint(a->serial, ==, b->serial);
        g_assert_cmpuint(a->n, ==, b->n);
        for (size_t i = 0; i < a->n; i++) {
                g_assert_cmpstr(a->files[i].name, ==, b->files[i].name);
                g_assert_cmpint(a->files[i].page_bytes, ==, b->files[i].page_bytes);
                g_assert_cmpuint(a->files[i].device, ==, b->files[i].device);
                g_assert_cmpuint(a->files[i].inode, ==, b->files[i].inode);
                g_assert_cmpint(a->files[i].bytes, ==, b->files[i].bytes);
        }
}

static void test_round_trip(void)
{
        g_autofree char *dir = g_dir_make_tmp("mete-loan-XXXXXX", NULL);
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct err err = {0};
        struct loan l = some(), back;
        for (enum loan_state s = LOAN_LENT; s < LOAN_STATE_N; s++) {
                l.state = s;
                memset(&back, 0, sizeof(back));
                if (loan_write(fd, &l, &err) < 0 || loan_read(fd, "v.json", &back, &err) < 0)
                        g_error("%s", err.sentence);
                assert_same(&l, &back);
        }
        /* As many files as there may be, with names as long as there are. */
        for (l.n = 0; l.n < LOAN_FILES_MAX; l.n++) {
                l.files[l.n] = (struct loan_file){"", INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
                memset(l.files[l.n].name, 'x', RAMDIR_NAME - 1);
        }
        if (loan_write(fd, &l, &err) < 0 || loan_read(fd, "v.json", &back, &err) < 0)
                g_error("%s", err.sentence);
        g_assert_cmpuint(back.n, ==, LOAN_FILES_MAX);
        g_assert_cmpint(renameat(fd, "v.json", fd, "w.json"), ==, 0);
        g_assert_cmpint(loan_read(fd, "w.json", &back, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_cmpint(loan_read(fd, "v.json", &back, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        (void)unlinkat(fd, "w.json", 0);
        loan_remove(fd, &l);
        (void)close(fd);
        g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static char *replaced(const char *text, const char *what, const char *by)
{
        g_auto(GStrv) parts = g_strsplit(text, what, 2);
        g_assert_nonnull(parts[1]);
        return g_strjoinv(by, parts);
}

static void test_refused(void)
{
        static const struct {
                const char *what, *by;
        } rows[] = {
                {"\"v\"",            "\"../v\""            },
                {"\"b..v\"",         "\"/b\""              },
                {"\"b..v\"",         "\"\""                }, /* borrowed, and by nobody */
                {"\"h-1\"",          "\"\""                },
                {"0123456789abcdef", "0123456789abcdeg"    },
                {"fedcba9876543210", "../../../../../etc"  },
                {"\"borrowed\"",     "\"burrowed\""        },
                {"\"ram0\"",         "\"../ram0\""         },
                {"70000",            "-1"                  },
                {"70000",            "4294967295"          },
                {"4711",             "\"4711\""            },
                {"\"serial\":7",     "\"serial\":7,\"x\":1"},
                {"}",                "]"                   },
        };
        g_autofree char *dir = g_dir_make_tmp("mete-loan-XXXXXX", NULL), *text = NULL;
        g_autofree char *path = g_build_filename(dir, "v.json", NULL);
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct err err = {0};
        struct loan l = some(), back = {.n = 99};
        g_assert_cmpint(loan_write(fd, &l, &err), ==, 0);
        g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
        g_assert_cmpint(loan_parse(text, strlen(text), &l, &err), ==, 0);
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                g_autofree char *bad = replaced(text, rows[i].what, rows[i].by);
                g_test_message("%s", bad);
                g_assert_cmpint(loan_parse(bad, strlen(bad), &back, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_cmpuint(back.n, ==, 99);
        }
        loan_remove(fd, &l);
        (void)close(fd);
        g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static int look(const char *text, struct look *ret, struct err *err)
{
        static const char *const dirs[] = {"/ram/v", "/huge/mete/v"};
        FILE *f = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
        int r = look_parse(f, dirs, G_N_ELEMENTS(dirs), ret, err);
        (void)fclose(f);
        return r;
}

static void test_look(void)
{
        struct err err = {0};
        g_autofree struct look *l = g_new0(struct look, 1);
        g_assert_cmpint(
                look("7f0000000000-7f0000100000 rw-s 00000000 00:19 4711                       /ram/v/ram0\n"
                     "7f0000100000-7f0000200000 ---s 00100000 00:19 4711                       /ram/v/ram0\n"
                     "7f0000200000-7f0000300000 rw-s 00000000 00:19 4712                       /ram/v/ram0\n"
                     "7f0000300000-7f0000400000 rw-s 00000000 00:1a 5                    "
                     "/huge/mete/v/dimm0-2M\n"
                     /* not shared, another's, deeper, gone, no name of ours, none at all, a line cut off */
                     "7f0000400000-7f0000500000 rw-p 00000000 00:19 6 /ram/v/dimm1\n"
                     "7f0000400000-7f0000500000 rw-s 00000000 00:19 6 /ram/vv/dimm1\n"
                     "7f0000400000-7f0000500000 rw-s 00000000 00:19 6 /ram/v/deep/dimm1\n"
                     "7f0000400000-7f0000500000 rw-s 00000000 00:19 6 /ram/v/dimm1 (deleted)\n"
                     "7f0000400000-7f0000500000 rw-s 00000000 00:19 6 /ram/v/..\n"
                     "7f0000400000-7f0000500000 rw-s 00000000 00:19 6 /ram/v\n"
                     "7f0000400000-7f0000500000 rw-s 00000000 00:19 6\n"
                     "7f0000400000-7f0000500000 rw-s 00000000 00:19 6 /ram/v/dimm2",
                     l, &err),
                ==, 0);
        g_assert_cmpuint(l->n, ==, 3);
        g_assert_cmpstr(l->files[0].path, ==, "/ram/v/ram0");
        g_assert_cmpuint(l->files[0].inode, ==, 4711);
        g_assert_cmpuint(l->files[0].device, ==, makedev(0, 0x19));
        g_assert_cmpint(l->files[0].bytes, ==, 2 << 20);
        g_assert_cmpuint(l->files[1].inode, ==, 4712);
        g_assert_cmpuint(l->files[2].dir, ==, 1);
}

/* A path so long that a line of it does not fit, and which at the cut looks like one of ours. */
static void test_look_long(void)
{
        struct err err = {0};
        g_autofree struct look *l = g_new0(struct look, 1);
        g_autoptr(GString) text = g_string_new("7f00-7f01 rw-s 0 00:19 6 /");
        while (text->len < LOOK_PATH + 127)
                (void)g_string_append_c(text, 'x');
        (void)g_string_append(text, "7f00-7f01 rw-s 0 00:19 6 /ram/v/ram0\n");
        g_assert_cmpint(look(text->str, l, &err), ==, 0);
        g_assert_cmpuint(l->n, ==, 0);
        (void)g_string_truncate(text, 0);
        for (int i = 0; i <= LOOK_FILES_MAX; i++)
                g_string_append_printf(text, "7f00-7f01 rw-s 0 00:19 %d /ram/v/f%d\n", i, i);
        g_assert_cmpint(look(text->str, l, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
}

struct fixture {
        char *dir;
        int base, record;
        struct loan l;
};

/* This process is the keeper and both of the users; what depends on who they are is in tests/root. */
static bool begin(struct fixture *f)
{
        struct err err = {0};
        *f = (struct fixture){.dir = g_dir_make_tmp("mete-place-XXXXXX", NULL), .l = some()};
        f->l.lender_user = f->l.borrower_user = geteuid();
        f->l.lender_uid = f->l.borrower_uid = geteuid();
        f->base = place_open_base(f->dir, &err);
        g_assert_cmpint(f->base, >=, 0);
        int r = place_make(f->base, &f->l, &err);
        if (r == 0)
                r = place_make(f->base, &f->l, &err);
        if (r < 0 && err.reason == REASON_UNSUPPORTED) {
                g_test_skip("no access lists here");
                return false;
        }
        if (r < 0)
                g_error("%s", err.sentence);
        g_autofree char *path = g_build_filename(f->dir, "handover", f->l.tag, "record", NULL);
        f->record = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        g_assert_cmpint(f->record, >=, 0);
        return true;
}

static void end(struct fixture *f)
{
        struct err err = {0};
        g_assert_cmpint(place_remove(f->base, &f->l, &err), ==, 0);
        g_assert_false(place_has_record(f->base, &f->l));
        g_autofree char *path = g_build_filename(f->dir, "handover", NULL);
        (void)close(f->base);
        if (f->record > 0)
                (void)close(f->record);
        g_assert_cmpint(g_rmdir(path), ==, 0);
        g_assert_cmpint(g_rmdir(f->dir), ==, 0);
        g_free(f->dir);
}

static void put(const struct fixture *f, const char *name, const char *text)
{
        int fd = openat(f->record, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        g_assert_cmpint(write(fd, text, strlen(text)), ==, (int)strlen(text));
        (void)close(fd);
}

static enum place_word word(const struct fixture *f)
{
        struct err err = {0};
        enum place_word w = PLACE_NOTHING;
        if (place_read(f->base, &f->l, &w, &err) < 0)
                g_error("%s", err.sentence);
        return w;
}

static void test_words(void)
{
        struct fixture f;
        struct err err = {0};
        enum place_word w;
        if (begin(&f)) {
                g_assert_cmpint(word(&f), ==, PLACE_NOTHING);
                put(&f, "returned", "x\n"); /* before anything was committed it says nothing */
                g_assert_cmpint(word(&f), ==, PLACE_NOTHING);
                (void)unlinkat(f.record, "returned", 0);
                put(&f, "outcome", "committed target\n");
                g_assert_cmpint(word(&f), ==, PLACE_TARGETS);
                g_assert_cmpint(place_abort(f.base, &f.l, true, &w, &err), ==, 0); /* too late */
                g_assert_cmpint(w, ==, PLACE_TARGETS);
                f.l.borrower_user = geteuid() + 1; /* then it is the lender who wrote that */
                g_assert_cmpint(word(&f), ==, geteuid() == 0 ? PLACE_TARGETS : PLACE_SOURCES);
                f.l.borrower_user = geteuid();
                put(&f, "returned", "target\n");
                g_assert_cmpint(word(&f), ==, PLACE_SOURCES);
                (void)unlinkat(f.record, "returned", 0);
                for (const char **bad = (const char *[]){"committedx", "", "aborted", "\n", NULL}; *bad;
                     bad++) {
                        put(&f, "outcome", *bad);
                        g_assert_cmpint(word(&f), ==, PLACE_SOURCES);
                }
                (void)unlinkat(f.record, "outcome", 0);
                g_assert_cmpint(symlinkat("/etc/passwd", f.record, "outcome"), ==, 0);
                g_assert_cmpint(word(&f), ==, PLACE_SOURCES);
                (void)unlinkat(f.record, "outcome", 0);
                g_assert_cmpint(mkfifoat(f.record, "outcome", 0600), ==, 0);
                g_assert_cmpint(word(&f), ==, PLACE_SOURCES);
                (void)unlinkat(f.record, "outcome", 0);
                g_assert_cmpint(place_abort(f.base, &f.l, true, &w, &err), ==, 0);
                g_assert_cmpint(w, ==, PLACE_SOURCES);
                g_assert_cmpint(faccessat(f.record, "outcome", F_OK, 0), ==, 0);
        }
        end(&f);
}

/* Somebody removed it: what it said is not known any more. */
static void test_no_record(void)
{
        struct fixture f;
        struct err err = {0};
        enum place_word w = PLACE_NOTHING;
        if (begin(&f)) {
                put(&f, "outcome", "committed target\n");
                g_assert_cmpint(place_remove(f.base, &f.l, &err), ==, 0);
                g_assert_cmpint(word(&f), ==, PLACE_NOTHING);
                g_assert_cmpint(place_abort(f.base, &f.l, false, &w, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INTERNAL);
                g_assert_cmpint(w, ==, PLACE_NOTHING);
                g_assert_cmpint(place_abort(f.base, &f.l, true, &w, &err), ==, 0);
                g_assert_cmpint(w, ==, PLACE_SOURCES);
        }
        end(&f);
}

static void test_paths(void)
{
        struct loan l = some();
        struct err err = {0};
        char record[PLACE_PATH], transfer[PLACE_SOCKET];
        g_assert_cmpint(place_paths("/run/mete-keeper", &l, record, transfer, &err), ==, 0);
        g_assert_cmpstr(record, ==, "/run/mete-keeper/handover/fedcba9876543210/record");
        g_assert_cmpstr(transfer, ==, "/run/mete-keeper/handover/fedcba9876543210/vmm/t");
        char run_dir[80] = "/";
        memset(run_dir + 1, 'r', sizeof(run_dir) - 2);
        run_dir[sizeof(run_dir) - 1] = '\0';
        g_assert_cmpint(place_paths(run_dir, &l, record, transfer, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_nonnull(strstr(err.sentence, "67 bytes"));
        run_dir[67] = '\0';
        g_assert_cmpint(place_paths(run_dir, &l, record, transfer, &err), ==, 0);
        run_dir[67] = 'r';
        run_dir[68] = '\0';
        g_assert_cmpint(place_paths(run_dir, &l, record, transfer, &err), <, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/loan/table", test_table);
        g_test_add_func("/loan/round-trip", test_round_trip);
        g_test_add_func("/loan/refused", test_refused);
        g_test_add_func("/look/parse", test_look);
        g_test_add_func("/look/long", test_look_long);
        g_test_add_func("/place/words", test_words);
        g_test_add_func("/place/no-record", test_no_record);
        g_test_add_func("/place/paths", test_paths);
        return g_test_run();
}
