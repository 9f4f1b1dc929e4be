/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet/outcome.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"

static const char *const names[OUTCOME_IS_N] = {
        [OUTCOME_IS_COMMITTED] = "committed", [OUTCOME_IS_ABORTED] = "aborted"};

const char *outcome_is_name(enum outcome_is o)
{
        return o > 0 && o < OUTCOME_IS_N ? names[o] : "none";
}

static int check_name(const char *name, struct err *err)
{
        return str_is_name(name)
                       ? 0
                       : err_set(err, REASON_INVALID, EINVAL, "\"%.60s\" is no name of an outcome", name);
}

static int failed(const char *name, struct err *err)
{
        int code = errno;
        return err_set(err, REASON_INTERNAL, code, "the outcome %s: %s", name, strerror(code));
}

int outcome_read(int dir_fd, const char *name, enum outcome_is *ret, char by[OUTCOME_BY], struct err *err)
{
        char text[64];
        int bad = check_name(name, err);
        if (bad)
                return bad;
        /* Whoever else may write there may have put a FIFO in its place. */
        int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
                return errno == ENOENT ? -ENOENT : failed(name, err);
        ssize_t n = read(fd, text, sizeof(text) - 1);
        (void)close(fd);
        if (n < 0)
                return failed(name, err);
        text[n] = '\0';
        char *end = text + strcspn(text, " \n"), *writer = *end == ' ' ? end + 1 : end;
        writer[strcspn(writer, "\n")] = '\0';
        *end = '\0';
        for (enum outcome_is o = OUTCOME_IS_COMMITTED; o < OUTCOME_IS_N; o++) {
                if (strcmp(text, names[o]) == 0) {
                        *ret = o;
                        if (by)
                                (void)snprintf(by, OUTCOME_BY, "%.15s", writer);
                        return 0;
                }
        }
        return err_set(err, REASON_INTERNAL, EBADMSG, "the outcome %s says \"%.40s\"", name, text);
}

/* Under a name of its own. */
static int write_beside(int dir_fd, const char *beside, const char *text, const char *name, bool is_durable,
                        struct err *err)
{
        (void)unlinkat(dir_fd, beside, 0); /* of a crash */
        int fd = openat(dir_fd, beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0)
                return failed(name, err);
        errno = EIO;
        bool is_written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
        int bad = is_written && (!is_durable || fsync(fd) == 0) ? 0 : failed(name, err);
        (void)close(fd);
        return bad;
}

static int write_once(int dir_fd, const char *name, enum outcome_is wanted, const char *by, bool is_durable,
                      enum outcome_is *ret, struct err *err)
{
        char beside[NAME_MAX + 1], text[48];
        int bad = check_name(name, err);
        if (bad)
                return bad;
        (void)snprintf(beside, sizeof(beside), "%s.%.15s%ld", name, by, (long)getpid());
        (void)snprintf(text, sizeof(text), "%s %.15s\n", outcome_is_name(wanted), by);
        if ((bad = write_beside(dir_fd, beside, text, name, is_durable, err)))
                return bad;
        if (linkat(dir_fd, beside, dir_fd, name, 0) < 0 && errno != EEXIST)
                bad = failed(name, err);
        (void)unlinkat(dir_fd, beside, 0);
        /* Also of what another wrote: it may not have got that far. */
        if (!bad && is_durable && fsync(dir_fd) < 0)
                bad = failed(name, err);
        if (!bad && (bad = outcome_read(dir_fd, name, ret, NULL, err)) == -ENOENT)
                bad = err_set(err, REASON_INTERNAL, ENOENT, "the outcome %s was removed", name);
        return bad;
}

int outcome_write(int dir_fd, const char *name, enum outcome_is wanted, const char *by, enum outcome_is *ret,
                  struct err *err)
{
        return write_once(dir_fd, name, wanted, by, true, ret, err);
}

int outcome_write_volatile(int dir_fd, const char *name, enum outcome_is wanted, const char *by,
                           enum outcome_is *ret, struct err *err)
{
        return write_once(dir_fd, name, wanted, by, false, ret, err);
}

int outcome_forget(int dir_fd, const char *name, struct err *err)
{
        int bad = check_name(name, err);
        if (!bad && unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
                bad = failed(name, err);
        return bad;
}
