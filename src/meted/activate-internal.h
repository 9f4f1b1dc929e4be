/* SPDX-License-Identifier: Apache-2.0 */
/* meted/activate-internal.h - shared by the files of activate.h only. */
#pragma once
#include "core/activation.h"
#include "json/api.h"
#include "loop/loop.h"
#include "meted/machine.h"
#include "meted/sweep.h"
#include "vm/vm.h"
#include "wire/rpc.h"

/* Huge pages are taken as a whole, zeroed one by one. */
enum { HUGE_BYTES_PER_MS = 1 << 18 };
enum { KEEPER_MS = 20000, PLUG_MS = 15000, UNPLUG_MS = 10000, OFFLINE_MS = 5000 };

struct agent_call;

/* One step that is under way, with what it needs to know: the hypervisor may forget the request meanwhile. */
struct step {
        struct machine *v;
        uint64_t serial, token;
        struct activation at;
        bool is_vm;
        bool is_adoption;
        bool is_check;     /* of what is granted: finalise only looks */
        bool is_void;      /* reports to nobody */
        bool is_dropped;   /* the machine is gone: only to be freed */
        bool is_attaching; /* to a VMM that was started before a restart; the step itself comes then */
        size_t n;
        struct definition *definitions;
        char trace[REQUEST_TRACE];
        char detail[REQUEST_SENTENCE]; /* for the event log */
        int64_t started_mono_ms;
        int64_t deadline_mono_ms; /* of what the guest is waited for: of the whole way up, or of this step
                                     back */
        struct loop_timer timer;
        struct agent_call *call; /* unanswered */
        struct sweep sweep;      /* of memory_relocate() */
        bool has_paused;         /* before its piece */
        uint64_t vcpu_changes;   /* of the VM's, when it was asked what its vCPU has */
        bool is_late, is_deadly; /* a test wants its end to be reported as a time-out, or never */
};

typedef void step_fn(struct step *s);

/* Ends it: err NULL where its state is reached. Frees s. */
void step_done(struct step *s, const struct err *err);
/* Ends it likewise: it did its part, and there is more to come, when others had their turn. */
void step_goes_on(struct step *s);
/* The two ways in which answers come. A refusal or a late answer of the guest is an error. */
void step_vm_done(void *step, const struct vm_result *result);
void step_keeper_done(void *step, const json_t *result, const struct err *err);
void step_no_vmm(struct step *s);
/* At its beginning again, in_ms from now. */
void step_again(struct step *s, int64_t in_ms);

static inline const struct definition *step_item(const struct step *s)
{
        return &s->definitions[s->at.item];
}

/* The keeper has one thread for a way up and one for a way back. */
static inline int64_t step_activation(uint64_t serial, bool is_back)
{
        return (int64_t)(2 * serial + is_back);
}

/* And one for all that comes later to what runs. */
static inline int64_t step_lane(const struct step *s)
{
        return s->is_check ? machine_lane(s->v) : step_activation(s->serial, s->at.is_back);
}

/* activate-vmm.c */
step_fn vmm_prepare, vmm_unprepare, vmm_activate, vmm_deactivate, vmm_confirm, vmm_let_go, vmm_finalise;
void vmm_attach(struct step *s);
/* The VMM goes: whatever waits for it or for its agent is answered now. */
void vmm_hang_up(struct machine *v);

/* activate-item.c */
step_fn host_activate, host_deactivate;
step_fn vcpu_activate, vcpu_deactivate, vcpu_bind, vcpu_unbind, vcpu_finalise;
step_fn dimm_activate, dimm_deactivate, dimm_finalise;
step_fn class_bind, class_unbind, class_finalise;
step_fn nic_activate, nic_deactivate, nic_finalise;
step_fn disk_bind, disk_unbind, disk_finalise;
/* Is the host side still what was granted? Other reports than REASON_STALE and REASON_NOT_FOUND: nobody
 * knows. */
step_fn vcpu_look, memory_look, nic_look, disk_look, class_look;

/* Where the host has several nodes, memory lies on the one that it was granted on. */
bool host_has_nodes(const struct meted *m);
/* The VM's directory for RAM files on such pages; REASON_UNSUPPORTED: the keeper has none. */
int step_huge_dir(const struct step *s, int64_t page_bytes, char *ret, size_t size, struct err *err);
/* A step that found the virtual side good: what is on huge pages is read back from the host, too. Ends it. */
void memory_finalise_host(struct step *s);
/* REASON_UNSUPPORTED: as step_huge_dir(). */
int dimm_bind(struct step *s, struct err *err);

/* activate-place.c: the host side of memory that is to lie on another node than it does. */
step_fn memory_relocate;
/* Some of it was moved by steps before this one, and it goes on. */
bool memory_is_half_way(const struct step *s);

/* activate-guest.c */
step_fn dimm_prepare; /* measures the guest first */
step_fn guest_confirm, guest_let_go;
/* What the agent was asked is asked again, of the one that is there now. */
void step_agent_back(struct step *s);
void step_agent_drop(struct step *s);
