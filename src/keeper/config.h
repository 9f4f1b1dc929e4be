/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/config.h - what the operator lets the keeper do: keeper.conf. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

#define KEEPER_CONFIG_PATH "/etc/mete/keeper.conf"

enum {
        KEEPER_SLOTS_MAX = 1024, /* the contract lists no more VMMs at once */
        KEEPER_PATH_MAX = 160,   /* of a directory; with a VM's name it fits the contract's 255 */
        KEEPER_SOCKET_MAX = 107, /* what a socket's address holds */
};

enum { KEEPER_USERS_MAX = 8, KEEPER_PREFIX = 40, KEEPER_USER_NAME = KEEPER_PREFIX - 2 };

/* A meted that may speak to us, by its user; keeper/space.h. */
struct keeper_user {
        uid_t uid;
        gid_t gid;
        char name[KEEPER_USER_NAME];
        unsigned number;            /* of its space, below KEEPER_USERS_MAX */
        char prefix[KEEPER_PREFIX]; /* of the names of its VMs here; "" of space 0 */
};

struct keeper_config {
        char *run_dir;       /* records, logs, the lock: root's */
        char *socket;        /* default: RUN_DIR/keeper.sock */
        char *ram_dir;       /* the VMs' RAM files; a tmpfs or hugetlbfs */
        char **huge_dirs;    /* each a hugetlbfs, for memory on huge pages; NULL: not named */
        char *cgroup_prefix; /* below each hierarchy */
        bool wants_scope;    /* of systemd's, where that runs the host */
        char *cpus;          /* where threads may be placed; NULL: all that are on line */
        char *housekeeping;  /* where the rest of each VMM runs; NULL: the same */
        char **qemu;         /* paths that may be started */
        char *guard;         /* path of mete-guard */
        bool is_best_effort; /* shares may be promised where only affinity is had */
        struct keeper_user users[KEEPER_USERS_MAX];
        size_t n_users;  /* who may speak to us */
        size_t n_spaces; /* with those behind them who left, and of whom something is there still */
        uid_t uid_first; /* slot 0 */
        unsigned uid_count;
        bool manages_net;      /* [net] manage */
        char *bridge, *uplink; /* behind the one are the VMs' taps, the other leads out; NULL: not named */
        uint64_t link_bps;     /* of the uplink; 0: as it says itself */
        bool manages_resctrl;  /* [resctrl] manage */
        char *resctrl;         /* its root; NULL: as it is mounted */
};

/* Unknown keys are refused: a misspelt one would silently not hold. *ret is untouched on failure. */
int keeper_config_read(const char *path, struct keeper_config *ret, struct err *err);
int keeper_config_parse(const char *text, struct keeper_config *ret, struct err *err);
void keeper_config_done(struct keeper_config *c); /* idempotent */
