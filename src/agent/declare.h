/* SPDX-License-Identifier: Apache-2.0 */
/* agent/declare.h - what programs say in advance that they will need: windows of time, once or again and
 * again.
 *
 * They belong to a user, not to a process, and are kept in one file of the state folder, written whole with
 * each change. A window that is over and does not come again is forgotten. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "core/need.h"
#include "json/api.h"

#define DECLARE_FILE "declarations"

enum { DECLARE_MAX = 64, DECLARE_PER_USER_MAX = 16 };
#define DECLARE_AHEAD_MS ((int64_t)366 * 86400000) /* a window begins so far from now at most */

struct declarations {
        char path[288];
        size_t n;
        struct api_app_declaration
                rows[DECLARE_MAX]; /* each need was checked: cpu or memory, an amount alone */
};

/* Reads what is kept; a file that is none of ours is logged, and set aside by the next change. */
void declarations_init(struct declarations *d, const char *folder);
/* What this user has by that name is replaced. The last DECLARE_PER_USER_MAX places are root's. Its row, or
 * NULL with *err: nothing has changed then. The row moves with the next change. */
const struct api_app_declaration *declarations_add(struct declarations *d, uid_t uid,
                                                   const struct api_app_declare *q, int64_t now_ms,
                                                   struct err *err);
/* The user's own; of root, else another's. -ENOENT, -EPERM, or that it could not be written. */
int declarations_drop(struct declarations *d, uid_t uid, const char *name, struct err *err);
/* Forgets what is over. */
void declarations_tidy(struct declarations *d, int64_t now_ms);
/* All of that kind that is declared for any moment from now_ms until then_ms; *ret_name: the largest of them,
 * or "". */
int64_t declarations_need(const struct declarations *d, enum component_kind kind, int64_t now_ms,
                          int64_t then_ms, const char **ret_name);
