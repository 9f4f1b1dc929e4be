/* SPDX-License-Identifier: Apache-2.0 */
/* manager/config.h - the configuration file of mete-manager (MANAGER.CONF in mete.conf(5)). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "manager/record.h"
#include "wire/cert.h"
#include "wire/tcp.h"

struct manager_config {
        char state_dir[256];            /* [manager] state_dir: the store */
        char socket[256];               /* [manager] socket: the API */
        unsigned socket_mode;           /* [manager] socket_mode, octal */
        char tls[160];                  /* [listen] tls: where operators connect; "" for nowhere */
        struct tcp_address tls_address; /* the same */
        struct cert_files files;        /* [listen] cert, key, ca: also shown to hosts */
        char etcd_at[1024];             /* [store] etcd: where it is; "": the store is a file */
        struct record_etcd etcd;        /* the same, with [store] prefix, cert, key, ca, lease */
        char hosts[256];                /* [hosts] file, as peers.conf */
        int64_t poll_ms;                /* [hosts] poll */
        int64_t floor_total_ms;         /* [policy] floor_time; 0: what is asked for */
        int64_t floor_downtime_ms;      /* [policy] floor_downtime; likewise */
        int64_t wait_ms;                /* [policy] wait: for so long it is asked again */
        uid_t operators[16];            /* [roles] operators; root and the manager's own uid always are */
        int n_operators;
        bool observers; /* [roles] observers: "all" lets everyone look who can open the socket */
};

/* Reads path over the defaults. An unknown group or key is REASON_INVALID. */
int manager_config_read(const char *path, struct manager_config *ret, struct err *err);
