/* SPDX-License-Identifier: Apache-2.0 */
/* sp/config.h - sp.conf (mete.conf(5)): where the service processor keeps what is its own. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

#define SP_CONFIG_PATH "/etc/mete/sp.conf"

enum { SP_OPERATORS_MAX = 16 };

struct sp_config {
        char name[64];       /* [sp] name: of the server; the kernel's host name where absent */
        char state_dir[128]; /* [sp] state_dir: its store, and NAME/ for each hypervisor */
        char run_dir[128];   /* [sp] run_dir: likewise */
        char socket[108];    /* [sp] socket */
        unsigned socket_mode;
        char lock[256];  /* [sp] lock: one a server */
        char meted[256]; /* [sp] meted: the program */
        char base[256];  /* [sp] hypervisor_conf: what all hypervisors are configured with, mete.conf(5) */
        char keeper_run_dir[128]; /* [keeper] run_dir: as in keeper.conf; records of handovers are under it */
        char source[512];         /* [host] source */
        int64_t reserve_bytes;    /* [host] reserve: left to the server itself */
        uid_t operators[SP_OPERATORS_MAX]; /* [roles] operators; root always is */
        int n_operators;
        bool observers; /* [roles] observers */
};

/* Over the defaults; a file that is not there is REASON_NOT_FOUND. An unknown key is REASON_INVALID. */
int sp_config_read(const char *path, struct sp_config *ret, struct err *err);
