/* SPDX-License-Identifier: Apache-2.0 */
/* core/hypervisor.h - the heart: ledger, VMs and requests composed into one hypervisor.
 *
 * It takes (event, now) and queues effects; it does nothing itself. The daemon, the simulator and the
 * tests run exactly this code.
 *
 * The one rule for whoever drives it: take the effects of a turn, carry out every EFFECT_PERSIST,
 * EFFECT_FORGET and EFFECT_EVENT in one transaction, and only when that is durable the others, in order.
 * So no answer leaves before its record, and nothing is activated that a restart would not know of.
 * If the transaction fails, drop the remaining effects, throw the hypervisor away and make it anew from
 * the store: what was not recorded was not decided.
 *
 * Restart: hypervisor_new(), hypervisor_vm_define() for each VM, hypervisor_restore() for each stored
 * request, then hypervisor_recover(), which asks again for each activation and each way back that was
 * under way, at the step that was journalled. Each step must therefore be idempotent.
 *
 * Pure: no fd, no clock, no JSON, no log. Allocates only when one of its tables grows. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/component.h"
#include "core/ledger.h"
#include "core/need.h"
#include "core/request.h"

struct hypervisor;

struct hypervisor_config {
        int32_t cpu_overcommit; /* >= 1: a vCPU without a stated share counts as 1/N of a CPU */
        int64_t offer_ms;       /* how long a counter-offer is held */
        size_t live_max;        /* most requests that hold something, of all askers */
        size_t live_per_vm_max; /* most requests that hold something, of one VM */
        size_t finished_max;    /* finished requests that are remembered of each VM, and of all reservations
                                   together, so that asking again is answered; one VM cannot push out others' */
        uint64_t first_serial;  /* above every serial in the store; 1 for a new one */
        int32_t retry_first_ms, retry_max_ms; /* what could not be taken back is tried again after this */
        int64_t force_after_ms; /* what a guest does not let go of for so long is taken with its VM (2.23); 0:
                                   never */
        bool keeps; /* the host resources of a VM that was stopped stay bound while nobody needs them (3.21)
                     */
        int64_t reclaim_ms; /* how long an activation waits for those to be taken back */
        bool repairs;       /* what was changed behind our back becomes again what was granted */
};

/* What the hypervisor must know of a VM to admit its growth. */
struct vm_shape {
        char name[REQUEST_NAME];
        int32_t cpus, cpus_max;   /* vCPUs at start, and at most (<= 64) */
        int32_t share_milli;      /* of each base vCPU; 0: 1000 / cpu_overcommit */
        int64_t memory_bytes;     /* at start */
        int64_t memory_max_bytes; /* at most */
        int64_t page_bytes;       /* its memory at start is of huge pages of this size; 0: of ordinary ones */
        int64_t unit_bytes;       /* growth unit of memory */
        int32_t memory_slots;     /* DIMM slots (<= 64) */
        int64_t net_bps;          /* guaranteed to its network card from its start on; 0: it has none */
        int64_t net_max_bps;      /* up to which leases may raise that; 0: as far as the link goes */
        int64_t disk_rate; /* bytes a second of its disk from its start on; 0: it has none to give or take */
        int64_t disk_max;  /* up to which leases may raise that; 0: as far as the host's disk goes */
};

enum {
        SHAPE_CPUS_MAX = 64,
        SHAPE_SLOTS_MAX = 64,
        SHAPE_NIC_SLOTS = 64,
        SHAPE_DISK_SLOTS = 64,
        SHAPE_CLASS_SLOTS = 64
};

enum effect_kind {
        EFFECT_PERSIST = 1, /* write the row of the request */
        EFFECT_FORGET,      /* delete the row of the serial */
        EFFECT_EVENT,       /* append to the event log */
        EFFECT_ANSWER,      /* tell every asker who waits: the request has a verdict */
        EFFECT_RELEASED,    /* tell every asker who waits for the release: it is recorded */
        EFFECT_JOURNAL,     /* write how far the activation of the request is */
        EFFECT_STEP,        /* carry out one step of it, and report with hypervisor_step_done(). Idempotent */
        EFFECT_HURRY,   /* the VM of the request goes: give up the step that is under way in it, and report */
        EFFECT_ENDED,   /* tell every asker who waits for the end: everything is back */
        EFFECT_CHECKED, /* tell every asker who waits for it: what was granted was looked at once more */
        EFFECT_LEASE_ENDED, /* tell the guest: the host ended its lease (reason, text) */
};

/* Of one look at all that a request was granted: how many items were found changed, became what was granted
 * again, and stayed changed; how many could not be looked at. */
struct checked {
        uint32_t changed, repaired, lasting, unknown;
};

struct effect {
        enum effect_kind kind;
        uint64_t serial; /* of the request; look it up with hypervisor_request() when carrying it out */
        struct activation step; /* EFFECT_STEP: which one */
        bool is_check;  /* EFFECT_STEP: of what is granted. PHASE_FINALISE: only look, change nothing */
        uint64_t token; /* EFFECT_STEP: to be given back with the report */
        struct checked checked; /* EFFECT_CHECKED */
        int64_t at_ms;
        enum reason reason;
        char trace[REQUEST_TRACE];
        char subject[REQUEST_KEY];
        char event[32];
        char text[REQUEST_SENTENCE];
};

/* Components are copied. NULL: no memory. */
struct hypervisor *hypervisor_new(const struct hypervisor_config *config, const struct component *components,
                                  size_t n_components, int64_t now_ms);
void hypervisor_free(struct hypervisor *h);

/* Takes the oldest effect. false: none. */
bool hypervisor_next_effect(struct hypervisor *h, struct effect *ret);
bool hypervisor_has_effects(const struct hypervisor *h);
/* An event of the driver's own for the log, in order with the others. */
void hypervisor_note(struct hypervisor *h, int64_t now_ms, const char *trace, const char *subject,
                     const char *event, const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* Sizes of huge pages that memory may be given as from now on, ascending; 0 from where there are no more.
 * What is granted stays. */
void hypervisor_set_pages(struct hypervisor *h, const int64_t sizes[COMPONENT_PAGES]);
/* Whether classes of service (cache, membw) may be given away from now on. What is granted stays. */
void hypervisor_set_classes(struct hypervisor *h, bool has_classes);

/* What a component is from now on. */
struct host_change {
        uint32_t component;
        bool healthy;
        int64_t lost;  /* of its capacity, and of what may be given away of it */
        uint32_t node; /* of a CPU that was off line when all was read, plus 1; 0: as it was */
};
/* What it came to: vCPUs that move, leases that end, vCPUs that have no other place, VMs whose own memory
 * stays where it is gone. */
struct host_toll {
        unsigned moved, ended, stuck, stays;
};
/* Components fail, go off line, come back, or have less or more to give (2.3). Nothing new is given away of
 * what is gone; then it is decided for each VM that runs whether its allocation is to be changed, and the log
 * says so, one line a VM. A vCPU is moved to another CPU; what applications leased ends where there is no
 * other place for it; a VM's own vCPU then shares what is left, and its own memory stays where it is. `cause`
 * goes on behind "cpu:1 was taken out of use": "by an operator", or a clause. What changed at once is said at
 * once, so that nothing moves to what goes too. */
struct host_toll hypervisor_host_changed(struct hypervisor *h, const struct host_change *changes, size_t n,
                                         const char *cause, int64_t now_ms);
/* VMs, by name, each once; borrowed. */
enum { HYPERVISOR_LEAVING_MAX = 33 };
struct hypervisor_leaving {
        size_t n;
        const char *vms[HYPERVISOR_LEAVING_MAX];
};
/* The part of each component that this hypervisor may give away is another one from now on: owned, in the
 * order of the components. What becomes less must be free, and stay so: REASON_UNREASSIGNABLE where a claim
 * stands in the way, of now or of a time to come, and which; REASON_BUSY where only what is kept of a stopped
 * VM does: it is taken back, to be asked again. Nothing has changed then. `cause` goes into the log: "by the
 * service processor, epoch 3". leaving: VMs that are another's already, with what becomes less: their claims
 * do not stand in the way, nothing more is given away of it, and they come back to nobody. */
int hypervisor_repartition(struct hypervisor *h, const int64_t *owned,
                           const struct hypervisor_leaving *leaving, const char *trace, const char *cause,
                           int64_t now_ms, struct err *err);
/* Its allocation is being changed since: it is told of its host when that is done (2.4), or cannot be. Memory
 * that goes to another node, which may take long, does not count: it is told where it was until it is there.
 */
bool hypervisor_is_moving(const struct hypervisor *h, const char *vm);

/* Memory of a VM that runs, granted to it of one component, is to be had of another (core/relocate.c). */
struct relocation {
        uint64_t serial; /* of the request */
        uint16_t item;   /* index into its definitions: base memory or a DIMM, as a whole */
        uint32_t to;     /* component */
};
/* All of it or nothing. The room there is claimed before anything is moved, and what is left is claimed until
 * nothing lies there any more. REASON_NO_CAPACITY: no room; REASON_BUSY: what is kept of stopped VMs is in
 * the way, and is being taken back, or it is being moved already, or is not this hypervisor's yet (it has
 * just come); REASON_UNSUPPORTED: it is on huge pages; REASON_STALE: it does not run, or has something else
 * by now. `cause` goes into the log. */
int hypervisor_vm_relocate(struct hypervisor *h, const char *name, const struct relocation *moves, size_t n,
                           const char *cause, int64_t now_ms, struct err *err);
/* What is on its way goes back, which needs no room; what is there stays there. */
void hypervisor_vm_relocate_back(struct hypervisor *h, const char *name, const char *cause, int64_t now_ms);
enum relocating { RELOCATING_NOTHING, RELOCATING_UNDER_WAY, RELOCATING_FAILED };
struct relocating_why {
        enum reason reason;   /* of the last try */
        unsigned tries;       /* that did not do, since it was sent there or back */
        const char *sentence; /* borrowed until the next event */
};
/* FAILED: the last try of some of it did not do, and it is tried again later and later, until it does or is
 * turned back; then *ret_why, which may be NULL, says why. */
enum relocating hypervisor_vm_relocating(const struct hypervisor *h, const char *name,
                                         struct relocating_why *ret_why);
/* Is it worth while to wait for the next try? */
enum { RELOCATING_TRIES = 5 };
bool relocating_may_do(const struct relocating_why *why);
/* Is some of the memory of this request on its way? */
bool hypervisor_vm_is_relocating(const struct hypervisor *h, const struct request *r);
/* What its guest asks for from now on is met from other memory than of these components, as what lies there
 * has to leave; n 0: from all again. Not kept in the store: to be said again after a restart. */
void hypervisor_vm_avoid(struct hypervisor *h, const char *name, const uint32_t *components, size_t n);

/* VMs. Names are unique: REASON_BUSY. What was defined once stays defined, even where the host has become too
 * small for it meanwhile. */
int hypervisor_vm_define(struct hypervisor *h, const struct vm_shape *shape, struct err *err);
/* It comes with its memory: amounts, by component, of which only those of memory count. Its claims of memory
 * are met from that and from nothing else, and take nothing of what may be given away, until it is said that
 * they are part of that (hypervisor_vm_brought()): one that leaves before has cost nothing. May be said
 * again, with others. What it has claimed before counts. After a restart it is to be said again, too.
 * REASON_INCOMPATIBLE: it has claimed more, or elsewhere. */
int hypervisor_vm_brings(struct hypervisor *h, const char *name, const int64_t *amounts, struct err *err);
bool hypervisor_vm_is_bringing(const struct hypervisor *h, const char *name);
/* Together with hypervisor_repartition(), which makes it ours; before it. Idempotent. */
void hypervisor_vm_brought(struct hypervisor *h, const char *name);
/* Before a new one is defined, or of one that brings memory, once that is said: REASON_NO_CAPACITY for a
 * shape that can never start here. */
int hypervisor_vm_fits(const struct hypervisor *h, const struct vm_shape *shape, struct err *err);
/* REASON_BUSY while it holds or keeps anything; REASON_NOT_FOUND. */
int hypervisor_vm_forget(struct hypervisor *h, const char *name, struct err *err);
const struct vm_shape *hypervisor_vm(const struct hypervisor *h, const char *name);
/* Claims the base resources: an EFFECT_ANSWER follows now (refused) or after activation.
 * Running or starting already: 0, and the answer that is due. */
int hypervisor_vm_start(struct hypervisor *h, const char *name, int64_t now_ms, struct err *err);
/* What it starts with is held for so long, as a counter-offer is: hypervisor_accept() of "vm:NAME" starts it.
 * Held already: 0. REASON_BUSY: it runs. An EFFECT_ANSWER follows. */
int hypervisor_vm_hold(struct hypervisor *h, const char *name, int64_t hold_ms, int64_t now_ms,
                       struct err *err);
/* The guest powered down: the VM's resources come back, but its host side may be kept (core/kept.c). Else as
 * hypervisor_release(). */
int hypervisor_vm_stopped(struct hypervisor *h, const char *name, const char *cause, int64_t now_ms,
                          uint64_t *ret_serial, struct err *err);
/* What is kept of a VM that is stopped; NULL: nothing. Kept since start_ms. */
const struct request *hypervisor_kept(const struct hypervisor *h, const char *name);
/* What is kept of it is taken back: 1, and an EFFECT_ENDED comes for *ret_serial. 0: nothing is kept. */
int hypervisor_vm_reclaim(struct hypervisor *h, const char *name, const char *why, int64_t now_ms,
                          uint64_t *ret_serial);
/* Before hypervisor_recover(): the machine was booted again, so that nothing that the books call kept is. */
void hypervisor_kept_lost(struct hypervisor *h, const char *why, int64_t now_ms);
/* The guest restarted or lost its agent's memory: its process leases end (1.14). */
void hypervisor_vm_processes_gone(struct hypervisor *h, const char *name, const char *why, int64_t now_ms);

/* One vCPU or DIMM that a guest was given where its VM comes from. */
struct arrival {
        enum virtual_kind kind; /* VIRTUAL_VCPU or VIRTUAL_DIMM */
        int16_t slot;           /* the same here, as its guest has it there */
        int64_t bytes;          /* of a DIMM */
};

struct ask {
        enum request_kind kind; /* REQUEST_APP or REQUEST_RESERVATION */
        const char *vm;         /* REQUEST_APP: known from the channel, never from the message */
        const char *id;
        const char *application; /* may be NULL */
        const struct need *needs;
        size_t n_needs;
        bool accepts_less;
        const char *
                stale; /* why it is, in words: not-now, as it was decided on an older view; NULL: it is not */
        const char *why;  /* by the word of who asks, noted before what is decided; NULL: nothing is */
        int64_t start_ms; /* reservations; 0: now */
        int64_t end_ms;   /* LEDGER_OPEN: until released */
        /* A lease that comes with its VM: granted as just these, all of them or none; which host component it
         * named there (id=, node=) does not count here. */
        const struct arrival *arrivals;
        size_t n_arrivals; /* 0: it is no such */
};

/* Decide. *ret_serial is the request; an EFFECT_ANSWER comes for it, at once or after activation. An id
 * that is known is answered again, with the same verdict. Errors: REASON_INVALID (the same id with other
 * needs or another window, bad needs), REASON_NOT_FOUND (no such VM), REASON_STALE (VM not running),
 * REASON_BUSY (too many). */
int hypervisor_ask(struct hypervisor *h, const struct ask *ask, int64_t now_ms, uint64_t *ret_serial,
                   struct err *err);
/* Records a refusal of something that could not even be expressed as needs (an unknown kind): never. */
int hypervisor_refuse(struct hypervisor *h, const struct ask *ask, enum reason reason, const char *sentence,
                      int64_t now_ms, uint64_t *ret_serial, struct err *err);
/* Take a counter-offer. Accepted before: answered again. REASON_NOT_FOUND, REASON_STALE (lapsed). */
int hypervisor_accept(struct hypervisor *h, const char *key, int64_t now_ms, uint64_t *ret_serial,
                      struct err *err);
/* Give back, decline, withdraw. An EFFECT_RELEASED comes. Released before: 0, and it comes again. `cause`
 * is one word for the event log. REASON_NOT_FOUND. */
int hypervisor_release(struct hypervisor *h, const char *key, const char *cause, int64_t now_ms,
                       uint64_t *ret_serial, struct err *err);

/* The driver's report on EFFECT_STEP: err NULL where the step is done. `detail` goes to the event log; may be
 * NULL. One that nobody waits for is ignored. */
void hypervisor_step_done(struct hypervisor *h, uint64_t serial, uint64_t token, const struct err *err,
                          const char *detail, int64_t now_ms);
/* Its report instead, of a step of PHASE_HOST that moves memory (is_check): a part of it is done, and there
 * is more. It is asked for again when others of the VM have had their turn. */
void hypervisor_step_goes_on(struct hypervisor *h, uint64_t serial, uint64_t token, int64_t now_ms);
/* The driver knows that what is being activated cannot be. Late calls are ignored. */
void hypervisor_failed(struct hypervisor *h, uint64_t serial, const struct err *why, int64_t now_ms);
/* What this VM could not be brought to give back: the next try is at at_ms, where it was to be later. Once
 * between two tries in their turn: whoever hurries it may be a guest that greets without end. */
void hypervisor_vm_hurry(struct hypervisor *h, const char *name, int64_t at_ms);

/* Looks once more at all that a VM that runs was granted, what it leases first and its base resources last;
 * an EFFECT_CHECKED comes for each request. What is not as it was granted goes to the log, and where
 * config.repairs is set it is activated and bound again: the line in the log is the journal, as a restart
 * looks at everything. A report of REASON_STALE or REASON_NOT_FOUND means that it was changed, another that
 * nobody knows. *ret_serial is the base's. Under way already: once more behind that. REASON_STALE: it does
 * not run. */
int hypervisor_vm_check(struct hypervisor *h, const char *name, int64_t now_ms, uint64_t *ret_serial,
                        struct err *err);
/* What of it is not as it was granted, by the last look; "" where all is. */
const char *hypervisor_changed(const struct hypervisor *h, uint64_t serial);

/* The next instant at which hypervisor_tick() has something to do; LEDGER_OPEN: none. */
int64_t hypervisor_deadline(const struct hypervisor *h);
void hypervisor_tick(struct hypervisor *h, int64_t now_ms);

/* Takes over a stored request, its claims array included (it is NULL in *row afterwards). Its claims are
 * taken again in the ledger: REASON_INTERNAL where they do not fit, and nothing is restored. */
int hypervisor_restore(struct hypervisor *h, struct request *row, int64_t now_ms, struct err *err);
void hypervisor_recover(struct hypervisor *h, int64_t now_ms);

const struct request *hypervisor_request(const struct hypervisor *h, uint64_t serial);
const struct request *hypervisor_find(const struct hypervisor *h, const char *key);
/* Each request that is kept, oldest first. */
void hypervisor_each(const struct hypervisor *h, void (*fn)(const struct request *r, void *arg), void *arg);
const struct ledger *hypervisor_ledger(const struct hypervisor *h);
const struct component *hypervisor_components(const struct hypervisor *h, size_t *ret_n);
int32_t hypervisor_default_share(const struct hypervisor *h);
/* What a request of this VM was granted, as needs: the stated ones with the amounts that were met. */
void request_granted_needs(const struct request *r, struct need ret[NEEDS_MAX]);
/* Slow check of every invariant, for tests. */
bool hypervisor_is_sound(const struct hypervisor *h);
