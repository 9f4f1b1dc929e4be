/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/nic.h - the VMs' network cards on the host: a tap each behind the operator's bridge, and the rates
 * that it is held to.
 *
 * The first item that is activated for a VM makes its tap, whose descriptor stays here until the VMM starts
 * and takes it; from then on the tap lives as long as the VMM. The guarantees of a VM's items add up. What
 * was activated is recorded (keeper/nic-record.h), so that after a restart of the keeper, which loses the
 * taps that no VMM has yet, each call goes on from there: it makes anew what is missing.
 *
 * Any thread may call these; one at a time gets through. Each is idempotent. */
#pragma once
#include <glib.h>
#include <pthread.h>
#include "base/err.h"
#include "host/cpu.h"
#include "host/net.h"
#include "keeper/config.h"

struct nic_said {
        bool is_ready; /* VMs can have bandwidth, as far as is known */
        char uplink[IFNAMSIZ];
        uint64_t rate_bps;           /* of the link */
        char fallback[NET_SENTENCE]; /* what is lacking here, in words; "" where nothing is */
};

struct nics {
        const struct keeper_config *config;
        struct net_host net;
        bool is_ready;    /* net_host_init() succeeded once */
        bool is_started;  /* net_host_start() did */
        int dir_fd;       /* of the records; owned; -1 where nothing is managed */
        int flow_fd;      /* likewise, of flows (keeper/flow.h) */
        GHashTable *taps; /* name of a VM -> descriptor, for those that no VMM has taken yet */
        pthread_mutex_t lock;
        pthread_mutex_t said_lock;
        struct nic_said said; /* under said_lock, which nobody has for long */
};

struct nic_live {
        uint64_t rate_bps;   /* of the item */
        struct net_rate set; /* of the VM, as the kernel has it */
};

/* Where [net] manage is not yes, nothing is looked at, and all calls that want something are refused with a
 * sentence. A network that is not as configured is no failure either: it is tried again by each call. */
int nics_init(struct nics *n, const struct keeper_config *config, struct err *err);
/* The uplink is as it was, where no VM has anything. */
void nics_done(struct nics *n);
/* Waits for nothing that another thread does with the kernel. All is empty where there is no kind net. */
void nics_say(struct nics *n, struct nic_said *ret);

/* On failure all is as before. The lowest of the ceilings of a VM's items holds. ceiling_bps 0: the link's
 * rate. is_running: its VMM does, so REASON_BUSY where there is no tap, as that cannot be given to it any
 * more. */
int nics_hold(struct nics *n, const char *vm, const char *item, const struct net_rate *rate, bool is_running,
              struct err *err);
/* With the last item of a VM go its rates and its tap. REASON_BUSY: a VMM has that tap. */
int nics_let_go(struct nics *n, const char *vm, const char *item, struct err *err);
/* REASON_NOT_FOUND: not activated. REASON_STALE: changed behind our back. */
int nics_read(struct nics *n, const char *vm, const char *item, struct nic_live *ret, struct err *err);
/* All items of the VM but these. */
int nics_prune(struct nics *n, const char *vm, const char (*keep)[CPU_ITEM_SIZE], size_t n_keep,
               struct err *err);
/* All items of the VM. */
int nics_drop(struct nics *n, const char *vm, struct err *err);

/* The tap of a VM that starts, and of which no VMM runs; *ret_fd is the caller's, who closes it when the VMM
 * has it. REASON_NOT_FOUND: nothing is activated for it. */
int nics_tap(struct nics *n, const char *vm, int *ret_fd, struct err *err);
/* The VMM did not start; takes fd. */
void nics_tap_back(struct nics *n, const char *vm, int fd);
