/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/hold.h - the host side of what is activated: the verbs host-*, ram-place and activation-end.
 *
 * A call is read and checked on the loop, and the VMM looked up there; it is carried out on its activation's
 * thread, by its kind's provider, with copies of all that it needs; its answer leaves from the loop again.
 * What is held is in the kernel's objects, not in this process, so each verb works after a restart, too. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/err.h"
#include "host/cpu.h"
#include "json/api.h"
#include "keeper/activation.h"
#include "keeper/class.h"
#include "keeper/share.h"
#include "keeper/vmm.h"
#include "wire/rpc.h"

struct hold_job;

struct holds {
        struct vmms *vmms;
        struct activations activations;
        struct shares shares;
        struct hold_job *jobs; /* those that have no answer yet */
        GSList *drops;         /* those that wait until nothing is under way for a VM, and those that run */
        uint64_t n_drops;
};

int holds_init(struct holds *h, struct vmms *vmms, struct err *err);
void holds_done(struct holds *h); /* answers all; before the clients go; idempotent */

/* Answers call, now or later. method is one of host-*, or ram-place. owner: the client, for holds_forget().
 */
void hold_verb(struct holds *h, enum api_keeper_method method, const void *owner, struct rpc_call *call,
               const json_t *params);
void hold_activation_end(struct holds *h, struct rpc_call *call, const json_t *params);
/* vm-drop, behind whatever is under way for that VM: nothing may be made for it afterwards. */
void hold_drop(struct holds *h, const void *owner, struct rpc_call *call, const json_t *params);
/* It is under way: nothing else may be done for that VM. */
bool hold_is_dropping(const struct holds *h, const char *vm);
/* What waits of a client who is gone is not done. */
void holds_forget(struct holds *h, const void *owner);

/* ---- kinds ---- */

/* One call, as a provider sees it. */
struct hold {
        const struct cpu_host *cpu;
        struct nics *nics;
        struct classes *classes;
        int ram_fd; /* borrowed */
        const char *ram_dir;
        const struct huge *huge;
        struct vmm_ref vmm; /* pid_fd -1: it does not run */
        char lender[64];    /* memory: the VM from which the file is borrowed; "": it is this VM's own */
        char item[CPU_ITEM_SIZE];
        enum api_host_kind kind;
        bool has_tid;
        int64_t tid;
        bool is_back;         /* host-deactivate: threads in it go back to the VMM's others */
        struct cpu_hold what; /* host-activate from here on */
        int64_t bytes, node;  /* node -1: any */
        int64_t page_bytes;   /* 0: ordinary pages */
        struct net_rate rate;
        struct class_part part;
        struct cpulist nodes; /* ram-place, up to took_us */
        struct memory_place place;
        int64_t file_bytes; /* as long as the file must be; 0: as long as it is */
        int64_t room_bytes; /* so much the nodes must have to spare */
        struct memory_placed *placed;
        int64_t *took_us;
        struct api_keeper_live *live;
        const char **ret_fallback; /* what is not held of it, in words; constant; untouched where all is */
};

/* Where *ret_held_by is set depends on nothing but the machine. All run on a thread of an activation. */
struct hold_kind {
        const char *(*held_by)(const struct hold *h);
        /* On the loop: what host-activate must and must not say for this kind. */
        int (*check)(const struct api_keeper_hold *p, struct err *err);
        int (*activate)(const struct hold *h, struct err *err);
        bool binds_process; /* bind is about all threads of the VMM, not about one */
        int (*bind)(const struct hold *h,
                    struct err *err); /* NULL: there is nothing that a thread could enter */
        int (*prepare)(const struct hold *h, struct err *err); /* NULL: nothing to do */
        int (*deactivate)(const struct hold *h, struct err *err);
        int (*read)(const struct hold *h, struct err *err); /* fills h->live */
};
extern const struct hold_kind hold_kinds[API_HOST_KIND_N];
/* ram-place; on a thread of an activation. Fills h->placed and h->took_us. */
int hold_place(const struct hold *h, struct err *err);
