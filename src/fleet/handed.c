/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet/handed.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fleet/outcome.h"

int handed_open(const char *path, struct err *err)
{
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd >= 0 ? fd
                       : err_set(err, REASON_INTERNAL, errno, "the record %.120s: %s", path, strerror(errno));
}

/* The word of whoever may say it. OUTCOME_IS_ABORTED: of anybody else, and of what is none. -ENOENT. */
static int read_of(int dir_fd, const char *name, enum handed_whose whose, bool needs_word,
                   enum outcome_is *ret, struct err *err)
{
        struct stat st;
        if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? -ENOENT
                                       : err_set(err, REASON_INTERNAL, errno, "the outcome %s: %s", name,
                                                 strerror(errno));
        bool is_my_own = st.st_uid == geteuid();
        bool counts =
                S_ISREG(st.st_mode) && (whose == HANDED_ANYBODYS || is_my_own == (whose == HANDED_MINE));
        *ret = counts ? OUTCOME_IS_COMMITTED : OUTCOME_IS_ABORTED;
        if (!counts || !needs_word)
                return 0;
        int bad = outcome_read(dir_fd, name, ret, NULL, err);
        if (bad != -EBADMSG && bad != -ELOOP && bad != -ENXIO && bad != -EISDIR)
                return bad;
        *ret = OUTCOME_IS_ABORTED;
        return 0;
}

int handed_read_of(int dir_fd, enum handed_whose whose, enum handover_record *ret, struct err *err)
{
        enum outcome_is is = 0, back = 0;
        int bad = read_of(dir_fd, HANDED_OUTCOME, whose, true, &is, err);
        if (bad == -ENOENT) {
                *ret = RECORD_NONE;
                return 0;
        }
        if (bad)
                return bad;
        if (is == OUTCOME_IS_ABORTED) {
                *ret = RECORD_ABORTED;
                return 0;
        }
        /* Whatever it says. */
        bad = read_of(dir_fd, HANDED_RETURNED, whose, false, &back, err);
        if (bad && bad != -ENOENT)
                return bad;
        *ret = !bad && back == OUTCOME_IS_COMMITTED ? RECORD_RETURNED : RECORD_COMMITTED;
        return 0;
}

/* Of a name that is taken nothing more comes, whatever is there: so it is no failure that it makes no sense.
 */
static int write_to(int dir_fd, const char *name, enum outcome_is wanted, const char *by, struct err *err)
{
        enum outcome_is is = 0;
        struct stat st;
        int bad = outcome_write_volatile(dir_fd, name, wanted, by, &is, err);
        return bad && fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : bad;
}

int handed_write_of(int dir_fd, enum handed_whose whose, enum handover_record wanted, const char *by,
                    enum handover_record *ret, struct err *err)
{
        enum handover_record now;
        int bad;
        assert(wanted == RECORD_ABORTED || wanted == RECORD_COMMITTED || wanted == RECORD_RETURNED);
        if (wanted != RECORD_RETURNED) {
                bad = write_to(dir_fd, HANDED_OUTCOME,
                               wanted == RECORD_COMMITTED ? OUTCOME_IS_COMMITTED : OUTCOME_IS_ABORTED, by,
                               err);
                return bad ? bad : handed_read_of(dir_fd, whose, ret, err);
        }
        if ((bad = handed_read_of(dir_fd, whose, &now, err)))
                return bad;
        if (now == RECORD_COMMITTED) {
                if ((bad = write_to(dir_fd, HANDED_RETURNED, OUTCOME_IS_ABORTED, by, err)))
                        return bad;
                now = RECORD_RETURNED; /* also where another was first, who had no say: it is over here */
        }
        *ret = now;
        return 0;
}

/* That it is there is all that it says: so nobody can see a part of it, and there is nothing to be made
 * durable. */
int handed_stand(int dir_fd, struct err *err)
{
        int fd = openat(dir_fd, HANDED_STANDS, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "the word %s: %s", HANDED_STANDS,
                               strerror(errno));
        if (fd >= 0)
                (void)close(fd);
        return 0;
}

int handed_stands_of(int dir_fd, enum handed_whose whose, bool *ret, struct err *err)
{
        enum outcome_is is = 0;
        int bad = read_of(dir_fd, HANDED_STANDS, whose, false, &is, err);
        if (bad && bad != -ENOENT)
                return bad;
        *ret = !bad && is == OUTCOME_IS_COMMITTED;
        return 0;
}

int handed_read(int dir_fd, enum handover_record *ret, struct err *err)
{
        return handed_read_of(dir_fd, HANDED_ANYBODYS, ret, err);
}

int handed_write(int dir_fd, enum handover_record wanted, const char *by, enum handover_record *ret,
                 struct err *err)
{
        return handed_write_of(dir_fd, HANDED_ANYBODYS, wanted, by, ret, err);
}
