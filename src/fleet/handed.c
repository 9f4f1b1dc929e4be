/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet/handed.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "fleet/outcome.h"

int handed_open(const char *path, struct err *err)
{
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd >= 0 ? fd
                       : err_set(err, REASON_INTERNAL, errno, "the record %.120s: %s", path, strerror(errno));
}

int handed_read(int dir_fd, enum handover_record *ret, struct err *err)
{
        enum outcome_is is = 0, back = 0;
        int bad = outcome_read(dir_fd, HANDED_OUTCOME, &is, err);
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
        bad = outcome_read(dir_fd, HANDED_RETURNED, &back, err);
        if (bad && bad != -ENOENT)
                return bad;
        *ret = bad ? RECORD_COMMITTED : RECORD_RETURNED;
        return 0;
}

int handed_write(int dir_fd, enum handover_record wanted, const char *by, enum handover_record *ret,
                 struct err *err)
{
        enum outcome_is is = 0;
        enum handover_record now;
        int bad;
        assert(wanted == RECORD_ABORTED || wanted == RECORD_COMMITTED || wanted == RECORD_RETURNED);
        if (wanted == RECORD_RETURNED) {
                if ((bad = handed_read(dir_fd, &now, err)))
                        return bad;
                if (now != RECORD_COMMITTED) {
                        *ret = now;
                        return 0;
                }
                bad = outcome_write(dir_fd, HANDED_RETURNED, OUTCOME_IS_ABORTED, by, &is, err);
        } else {
                bad = outcome_write(dir_fd, HANDED_OUTCOME,
                                    wanted == RECORD_COMMITTED ? OUTCOME_IS_COMMITTED : OUTCOME_IS_ABORTED,
                                    by, &is, err);
        }
        return bad ? bad : handed_read(dir_fd, ret, err);
}
