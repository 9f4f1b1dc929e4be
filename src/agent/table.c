/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/table.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "json/read.h"

enum { FILE_MAX = 65536, FINISHED_PER_USER_MAX = 32 };

/* An id may be "..", so it never is a whole file name. */
static void file_name(const char *id, char ret[80])
{
        (void)snprintf(ret, 80, "r.%s", id);
}

/* ---- files ---- */

/* Without fsync: a row is for the boot it was written in, and what was written outlives the agent all the
 * same. */
static int write_all(int fd, const char *text, size_t n)
{
        while (n > 0) {
                ssize_t done = write(fd, text, n);
                if (done < 0 && errno == EINTR)
                        continue;
                if (done < 0)
                        return -errno;
                text += done;
                n -= (size_t)done;
        }
        return 0;
}

static int write_file(const struct table *t, const char *name, const char *text, size_t n, struct err *err)
{
        int fd = openat(t->dir_fd, "new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        int r = fd < 0 ? -errno : write_all(fd, text, n);

        if (fd >= 0)
                (void)close(fd);
        if (r == 0 && renameat(t->dir_fd, "new", t->dir_fd, name) < 0)
                r = -errno;
        if (r < 0) {
                (void)unlinkat(t->dir_fd, "new", 0); /* a full disk gets its room back */
                return err_set(err, REASON_INTERNAL, -r, "cannot record the request: %s", strerror(-r));
        }
        return 0;
}

/* Bytes read, or a negative errno. */
static ssize_t read_file(const struct table *t, const char *name, char *buf, size_t size)
{
        int fd = openat(t->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        size_t n = 0;

        if (fd < 0)
                return -errno;
        for (;;) {
                ssize_t got = read(fd, buf + n, size - n);
                if (got < 0 && errno == EINTR)
                        continue;
                if (got <= 0 || n + (size_t)got == size) {
                        int r = got < 0 ? -errno : got > 0 ? -EFBIG : 0;
                        (void)close(fd);
                        return r < 0 ? r : (ssize_t)n;
                }
                n += (size_t)got;
        }
}

int table_save(struct table *t, struct row *row, struct err *err)
{
        char name[80];
        size_t n = 0;

        if (!row->is_dirty)
                return 0;
        json_t *v = row_emit(row);
        char *text = v != NULL ? json_write(v, &n) : NULL;
        json_decref(v);
        file_name(row->id, name);
        int r = text != NULL ? write_file(t, name, text, n, err)
                             : err_set(err, REASON_INTERNAL, ENOMEM, "no memory to record the request");
        free(text);
        t->saves += r == 0;
        t->save_failures += r < 0;
        row->is_dirty = r < 0;
        return r;
}

/* ---- rows ---- */

struct row *table_find(const struct table *t, const char *id)
{
        for (size_t i = 0; i < t->n; i++)
                if (strcmp(t->rows[i]->id, id) == 0)
                        return t->rows[i];
        return NULL;
}

size_t table_open_rows(const struct table *t, uid_t uid)
{
        size_t n = 0;

        for (size_t i = 0; i < t->n; i++)
                n += t->rows[i]->uid == uid && row_is_open(t->rows[i]);
        return n;
}

static void row_free(struct row *row)
{
        assert(row->process.life == NULL && row->ask.n == 0 && row->done.n == 0);
        loop_timer_cancel(&row->timer);
        free(row);
}

static void drop(struct table *t, size_t at)
{
        struct row *row = t->rows[at];
        char name[80];

        file_name(row->id, name);
        (void)unlinkat(t->dir_fd, name, 0);
        t->n--;
        memmove(&t->rows[at], &t->rows[at + 1], (t->n - at) * sizeof(t->rows[0]));
        row_free(row);
}

/* The oldest finished row of this user; (uid_t)-1: of anybody. false: there is none. */
static bool drop_finished(struct table *t, uid_t uid)
{
        for (size_t i = 0; i < t->n; i++) {
                const struct row *row = t->rows[i];
                if (row_is_open(row) || row->done.n > 0 || row->ask.n > 0 ||
                    (uid != (uid_t)-1 && row->uid != uid))
                        continue;
                drop(t, i);
                return true;
        }
        return false;
}

int table_add(struct table *t, struct row *row, struct err *err)
{
        size_t finished = 0;

        for (size_t i = 0; i < t->n; i++)
                finished += t->rows[i]->uid == row->uid && !row_is_open(t->rows[i]);
        if (finished >= FINISHED_PER_USER_MAX)
                (void)drop_finished(t, row->uid);
        if (t->n == TABLE_ROWS_MAX && !drop_finished(t, row->uid) && !drop_finished(t, (uid_t)-1))
                return err_set(err, REASON_BUSY, EBUSY, "the agent's table is full: %d requests are open",
                               TABLE_ROWS_MAX);
        row->is_dirty = true;
        int r = table_save(t, row, err);
        if (r < 0)
                return r;
        t->rows[t->n++] = row;
        return 0;
}

/* ---- opening ---- */

static int load_row(struct table *t, const char *name, struct err *err)
{
        static char text[FILE_MAX];
        ssize_t n = read_file(t, name, text, sizeof(text));

        if (n < 0)
                return err_set(err, REASON_INTERNAL, (int)-n, "%s", strerror((int)-n));
        json_t *v = json_read(text, (size_t)n, err);
        if (v == NULL)
                return -EINVAL;
        struct row *row = calloc(1, sizeof(*row));
        if (row == NULL) {
                json_decref(v);
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a row");
        }
        int r = row_parse(v, row, err);
        json_decref(v);
        if (r == 0 && strcmp(row->id, name + 2) != 0)
                r = err_set(err, REASON_INVALID, EINVAL, "is the row of %s", row->id);
        if (r == 0 && t->n == TABLE_ROWS_MAX)
                r = err_set(err, REASON_BUSY, EBUSY, "more than %d rows", TABLE_ROWS_MAX);
        if (r < 0) {
                free(row);
                return r;
        }
        t->rows[t->n++] = row;
        return 0;
}

static int older(const void *a, const void *b)
{
        const struct row *x = *(struct row *const *)a, *y = *(struct row *const *)b;

        return x->since_ms < y->since_ms ? -1 : x->since_ms > y->since_ms ? 1 : strcmp(x->id, y->id);
}

static void load_all(struct table *t, DIR *dir, bool is_same_boot)
{
        const struct dirent *e;

        while ((e = readdir(dir)) != NULL) {
                struct err why = {0};
                char bad[80];
                if (strncmp(e->d_name, "r.", 2) != 0 || strlen(e->d_name) >= sizeof(bad) - 4)
                        continue;
                if (!is_same_boot) {
                        (void)unlinkat(t->dir_fd, e->d_name, 0);
                        t->dropped_files++;
                        continue;
                }
                if (load_row(t, e->d_name, &why) == 0)
                        continue;
                log_warn("request %s cannot be read back, set aside: %s", e->d_name + 2, why.sentence);
                (void)snprintf(bad, sizeof(bad), "bad.%.70s", e->d_name + 2);
                (void)renameat(t->dir_fd, e->d_name, t->dir_fd, bad);
        }
}

int table_open(struct table *t, const char *folder, const char *boot_id, struct err *err)
{
        char before[80] = "";

        *t = (struct table){.dir_fd = -1};
        if (mkdir(folder, 0700) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", folder, strerror(errno));
        t->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = t->dir_fd >= 0 ? fdopendir(fcntl(t->dir_fd, F_DUPFD_CLOEXEC, 0)) : NULL;
        if (dir == NULL) {
                int code = errno;
                table_done(t);
                return err_set(err, REASON_INTERNAL, code, "%s: %s", folder, strerror(code));
        }
        ssize_t n = read_file(t, "boot", before, sizeof(before));
        if (n >= 0)
                before[n] = '\0';
        bool is_same_boot = n > 0 && strcmp(before, boot_id) == 0;
        load_all(t, dir, is_same_boot);
        (void)closedir(dir);
        qsort(t->rows, t->n, sizeof(t->rows[0]), older);
        if (is_same_boot)
                return 0;
        int r = write_file(t, "boot", boot_id, strlen(boot_id), err);
        if (r < 0)
                table_done(t);
        return r < 0 ? err_note(err, "%s", folder) : 0;
}

void table_done(struct table *t)
{
        for (size_t i = 0; i < t->n; i++)
                row_free(t->rows[i]);
        t->n = 0;
        if (t->dir_fd >= 0)
                (void)close(t->dir_fd);
        t->dir_fd = -1;
}
