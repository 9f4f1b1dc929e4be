/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet/handed.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "fleet/outcome.h"

static int name_return(const char *id, char ret[HANDOVER_ID], struct err *err)
{
        if (strnlen(id, HANDED_ID_MAX + 1) > HANDED_ID_MAX || !str_is_name(id))
                return err_set(err, REASON_INVALID, EINVAL, "\"%.60s\" is no id of a handover", id);
        (void)snprintf(ret, HANDOVER_ID, "%.*s.returned", (int)HANDED_ID_MAX, id);
        return 0;
}

int handed_read(int dir_fd, const char *id, enum handover_record *ret, struct err *err)
{
        char returned[HANDOVER_ID];
        enum outcome_is is = 0, back = 0;
        int bad = name_return(id, returned, err);
        if (bad)
                return bad;
        bad = outcome_read(dir_fd, id, &is, err);
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
        bad = outcome_read(dir_fd, returned, &back, err);
        if (bad && bad != -ENOENT)
                return bad;
        *ret = bad ? RECORD_COMMITTED : RECORD_RETURNED;
        return 0;
}

int handed_write(int dir_fd, const char *id, enum handover_record wanted, const char *by,
                 enum handover_record *ret, struct err *err)
{
        char returned[HANDOVER_ID];
        enum outcome_is is = 0;
        enum handover_record now;
        assert(wanted == RECORD_ABORTED || wanted == RECORD_COMMITTED || wanted == RECORD_RETURNED);
        int bad = name_return(id, returned, err);
        if (bad)
                return bad;
        if (wanted == RECORD_RETURNED) {
                if ((bad = handed_read(dir_fd, id, &now, err)))
                        return bad;
                if (now != RECORD_COMMITTED) {
                        *ret = now;
                        return 0;
                }
                bad = outcome_write(dir_fd, returned, OUTCOME_IS_ABORTED, by, &is, err);
        } else {
                bad = outcome_write(dir_fd, id,
                                    wanted == RECORD_COMMITTED ? OUTCOME_IS_COMMITTED : OUTCOME_IS_ABORTED,
                                    by, &is, err);
        }
        return bad ? bad : handed_read(dir_fd, id, ret, err);
}

int handed_forget(int dir_fd, const char *id, struct err *err)
{
        char returned[HANDOVER_ID];
        int bad = name_return(id, returned, err);
        /* What takes it back goes last: without it `committed` would be true again. */
        if (!bad)
                bad = outcome_forget(dir_fd, id, err);
        return bad ? bad : outcome_forget(dir_fd, returned, err);
}
