/* SPDX-License-Identifier: Apache-2.0 */
/* meted/config.h - the configuration file of meted (mete.conf(5)). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "wire/cert.h"
#include "wire/tcp.h"

struct config {
        char name[64];        /* [meted] name: of this host; the kernel's host name where absent */
        char state_dir[256];  /* [meted] state_dir: the store */
        char run_dir[256];    /* [meted] run_dir: sockets of VMs */
        char socket[256];     /* [meted] socket: the API */
        unsigned socket_mode; /* [meted] socket_mode, octal */
        char tls[160];        /* [listen] tls: where peers, managers and operators connect; "" for nowhere */
        struct tcp_address tls_address; /* the same */
        struct cert_files files;        /* [listen] cert, key, ca */
        char peers[256];                /* [listen] peers: peers.conf(5) */
        int64_t hello_ms;               /* [listen] hello: how often each peer is asked */
        char keeper_socket[256];        /* [keeper] socket */
        bool is_managed;                /* [server] managed: what it gives away the service processor says */
        char processor[108];            /* [server] processor: its socket, for handovers; "": none */
        char source[512];               /* [host] source: "live", "xml:PATH", "synthetic:TEXT" */
        char cpus[256];                 /* [host] cpus: those that may be given away; "" for all */
        int64_t memory_bytes;   /* [host] memory: how much may be given away; 0 for all but the reserve */
        int64_t reserve_bytes;  /* [host] reserve */
        int32_t cpu_overcommit; /* [host] cpu_overcommit */
        bool manages_net;       /* [net] manage */
        char network[64];       /* [net] network: what VMs call it */
        char uplink[16];        /* [net] uplink: the link of which may be given away */
        int64_t link_bps;       /* [net] rate */
        int64_t move_rate_bps;  /* [move] rate: of the link to peers, where no kind net says it; 0: not known
                                 */
        char move_ports[16];    /* [move] ports: at which the memory of VMs comes, "FIRST-LAST"; "": any */
        int move_port_first, move_port_last;
        bool shares_disks;    /* [move] disks: those in image_dir are the same on all peers */
        bool shows_all;       /* [hhi] show: all, or own */
        bool manages_resctrl; /* [resctrl] manage */
        char resctrl[192];    /* [resctrl] path: its root; "": as it is mounted */
        int64_t vcpu_milli;   /* [move] vcpu_least: of their time that is left to vCPUs */
        int64_t disk_rate; /* [block] rate: bytes a second that may be given away; 0: there is no kind block
                            */
        int64_t disk_iops; /* [block] iops: operations a second that go with them; 0: not held */
        int64_t disk_default;  /* [block] default: of a disk of which nothing is said */
        char qemu[256];        /* [vm] qemu */
        char image_dir[256];   /* [vm] image_dir */
        bool keep;             /* [vm] keep: what a stopped VM had stays bound while nobody needs it */
        int64_t offer_ms;      /* [limits] offer: how long a counter-offer is held */
        int64_t activation_ms; /* [limits] activation: how long making usable may take */
        int64_t retry_ms; /* [limits] retry: until what is held is tried again; twice as long each time */
        int64_t force_after_ms; /* [limits] force_after: 0s, or what a guest holds on to longer is taken with
                                   its VM */
        int64_t verify_ms; /* [limits] verify: until what is granted to all VMs was looked at again; 0: never
                            */
        bool repairs;      /* [limits] repair: "yes" makes it again what was granted */
        int64_t relocate_rate;   /* [limits] relocate_rate: bytes a second of a VM's memory that must go from
                                    one node to another, where nobody says how long that may take */
        int64_t live_max;        /* [limits] requests */
        int64_t live_per_vm_max; /* [limits] requests_per_vm */
        int64_t rate_per_s;      /* [limits] messages_per_second, of one VM */
        int64_t burst;           /* [limits] burst */
        int64_t events_max;      /* [limits] events that are kept */
        uid_t operators[16];     /* [roles] operators: uids; root and meted's own uid always are */
        int n_operators;
        bool observers; /* [roles] observers: "all" lets everyone look who can open the socket */
};

/* Reads path over the defaults. An unknown group or key is REASON_INVALID: a misspelt limit must not pass. */
int config_read(const char *path, struct config *ret, struct err *err);
