/* SPDX-License-Identifier: Apache-2.0 */
/* host/net.h - bandwidth of a link, guaranteed and limited: for each VM, and for purposes of the host.
 *
 * Where VMs meet the network: a tap each, behind a bridge that the operator made, whose way out is the
 * uplink.
 *
 *   to a VM      HTB on its tap: a class with the rate and the ceiling. On the tap the VM is alone, so the
 *                guarantee holds by itself; what others send to it fills it no further than the ceiling.
 *   from a VM    what comes in at the tap is sent through an ifb of its own, with HTB: the ceiling, wherever
 *                the frames go. Then the uplink, where VMs and purposes really compete: a class with the
 *                guaranteed rate and the ceiling.
 *   a purpose    a class on the uplink, for sockets that carry its priority (migration).
 *
 * On the uplink:   4d45:    HTB
 *                  4d45:1   the link; all others are below it and borrow from it what is left, in equal parts
 *                  4d45:2   the rest: everything without a class, guaranteed a fiftieth of the link
 *                  4d45:10+PURPOSE, 4d45:1000+SLOT
 * The sum of the guarantees never exceeds the link.
 *
 * Interfaces: mete-SLOT is the tap, mete-SLOTi its ifb. Nothing of the operator's is replaced: a root
 * queueing discipline with a handle (the kernel's defaults have none) that is not ours is refused.
 *
 * Every function may be called from any thread, but one VM, or purpose, by one thread at a time. Each is
 * idempotent: repeated, or begun again after a crash, it ends in the same state. One that fails undoes what
 * it did; what was active before is as it was. The kernel holds the whole state: nothing has to be remembered
 * over a restart but what was asked for. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>
#include "base/err.h"
#include "host/net-link.h"
#include "host/net-tc.h"

enum {
        NET_SLOT_MAX = 4096,
        NET_PURPOSE_MAX = 0xfef, /* classes up to 4d45:fff */
        NET_RATE_MIN_BPS = 64000,
        NET_LINK_MIN_BPS = 10000000,
        NET_SENTENCE = 256,
};

enum net_purpose { NET_PURPOSE_MIGRATION = 1 };

struct net_host {
        bool is_managed;       /* false: there is no kind `net`; `fallback` says why */
        bool is_holding_from;  /* what VMs send is held to a ceiling */
        bool is_holding_share; /* VMs are guaranteed their rate on the uplink, against each other and purposes
                                */
        bool is_best_effort;   /* rates are taken that cannot be held */
        char bridge[IFNAMSIZ], uplink[IFNAMSIZ]; /* uplink "": none */
        uint64_t rate_bps;                       /* of the link */
        bool is_port;                            /* the uplink is one of the bridge */
        char fallback[NET_SENTENCE];             /* what this platform lacks, in words; "" where nothing */
        pthread_mutex_t lock;                    /* of the sum of guarantees on the uplink */
};

struct net_host_options {
        const char *bridge; /* required */
        const char *uplink; /* NULL: none; no purposes, no guarantees on it */
        uint64_t rate_bps;  /* of the link; 0: as the uplink says */
        bool is_managed;    /* `manage`; false: nothing is looked at */
        bool is_best_effort;
};

/* Finds out what there is, with a tap and an ifb that are gone when it returns. On failure nothing is to be
 * done. */
int net_host_init(struct net_host *h, const struct net_host_options *o, struct err *err);
void net_host_done(struct net_host *h);
/* Finds out again, where bridge or uplink may be other ones than before. On failure all is as before. */
int net_host_renew(struct net_host *h, const struct net_host_options *o, struct err *err);
/* What VMs and purposes may be guaranteed together. */
uint64_t net_host_room_bps(const struct net_host *h);
/* The uplink's queueing discipline, made, or taken over with all that it has. From then on the bridge keeps
 * the address that it has, whatever its ports do. */
int net_host_start(struct net_host *h, struct err *err);
/* All of ours goes, also what is not known of; but taps stay with the VMMs that hold them. Continues after a
 * failure, and returns the first. */
int net_host_finish(struct net_host *h, struct err *err);
/* 0: as net_host_start() made it. 1: changed behind our back, *ret_difference says what. */
int net_host_verify(struct net_host *h, char ret_difference[NET_SENTENCE], struct err *err);

/* A tap of the VM, with virtio-net headers, up, behind the bridge. The descriptor (not blocking, close on
 * exec; the caller's) is all that holds it: the tap goes when the last copy is closed. REASON_BUSY: there is
 * one. */
int net_tap_make(struct net_host *h, unsigned slot, uid_t uid, int *ret_fd, struct err *err);
/* Also where a VMM still holds it. No tap is no failure. */
int net_tap_remove(struct net_host *h, unsigned slot, struct err *err);

enum net_tap_state {
        NET_TAP_NONE,
        NET_TAP_LEFT, /* it stays by itself: whoever had it made it persistent, and is gone */
        NET_TAP_HELD, /* a process has it */
};
int net_tap_look(struct net_host *h, unsigned slot, enum net_tap_state *ret, struct err *err);

/* ceiling_bps 0: the link's rate. */
struct net_vm_rates {
        struct net_rate to, from;
};

struct net_vm_figures {
        bool is_active;
        struct net_vm_rates set; /* as the kernel has it, in whole bytes a second */
        struct net_figures to, from;
        struct net_figures uplink; /* the part of `from` that left the host; 0 where shares are not held */
};

/* Holds a VM, whose tap is there, to these rates, or to other ones than before. */
int net_vm_activate(struct net_host *h, unsigned slot, const struct net_vm_rates *rates, struct err *err);
/* The tap may be gone already. */
int net_vm_deactivate(struct net_host *h, unsigned slot, struct err *err);
int net_vm_read(struct net_host *h, unsigned slot, struct net_vm_figures *ret, struct err *err);
/* 0: as activated. 1: it is not, *ret_difference says in what. */
int net_vm_verify(struct net_host *h, unsigned slot, const struct net_vm_rates *rates,
                  char ret_difference[NET_SENTENCE], struct err *err);

struct net_purpose_figures {
        bool is_active;
        struct net_rate set;
        struct net_figures uplink;
};

int net_purpose_activate(struct net_host *h, unsigned purpose, const struct net_rate *rate, struct err *err);
int net_purpose_deactivate(struct net_host *h, unsigned purpose, struct err *err);
int net_purpose_read(struct net_host *h, unsigned purpose, struct net_purpose_figures *ret, struct err *err);
int net_purpose_verify(struct net_host *h, unsigned purpose, const struct net_rate *rate,
                       char ret_difference[NET_SENTENCE], struct err *err);
/* Makes the purpose's class that of everything which the socket sends from now on (SO_PRIORITY, which only
 * CAP_NET_ADMIN may set so high). */
int net_purpose_mark(struct net_host *h, unsigned purpose, int socket_fd, struct err *err);
