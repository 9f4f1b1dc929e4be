/* SPDX-License-Identifier: Apache-2.0 */
/* sp/launch.h - starts a program as another user, without a privilege and without a way back to one. It
 * outlives us. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>
#include "base/err.h"

enum { LAUNCH_GROUPS_MAX = 64, LAUNCH_USER = 32 };

struct launch_user {
        char name[LAUNCH_USER];
        uid_t uid;
        gid_t gid;
        gid_t groups[LAUNCH_GROUPS_MAX];
        int n_groups;
};

/* REASON_NOT_FOUND; REASON_POLICY: root. */
int launch_user(const char *name, struct launch_user *ret, struct err *err);
/* argv[0] is a path. *ret_pid is a child, to be waited for, *ret_pid_fd its descriptor, the caller's. That it
 * could not be executed is told by its end. */
int launch(const struct launch_user *u, char *const argv[], pid_t *ret_pid, int *ret_pid_fd, struct err *err);
