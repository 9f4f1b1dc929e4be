/* SPDX-License-Identifier: Apache-2.0 */
/* core/hypervisor-internal.h - shared by hypervisor.c (life), tables.c, restart.c, decide.c (verdicts),
 * walks.c (activations), kept.c, checks.c, bring.c, relocate.c and change.c only. */
#pragma once
#include "core/hypervisor.h"

#include "core/place.h"

/* Finished requests that are remembered, in the order in which they finished. */
struct history {
        struct entry *first, *last;
        size_t n;
};

struct vm_entry {
        struct vm_shape shape;
        uint64_t cpu_slots;        /* vCPU numbers in use, base ones included */
        uint64_t memory_slots;     /* DIMM slots in use */
        int64_t leased_bytes;      /* beyond the base */
        uint64_t nic_slots;        /* parts of its network card's rate in use; 0 is its base */
        int64_t leased_bps;        /* beyond the base */
        uint64_t disk_slots;       /* parts of its disk's rate in use; 0 is its base */
        int64_t leased_disk;       /* bytes a second beyond the base */
        uint64_t class_slots;      /* parts of its class of service in use */
        size_t live;               /* requests of applications that hold something */
        int64_t *brings, *brought; /* memory, by component; NULL: none (core/bring.c) */
        bool *avoids;              /* by component: no more memory is had of it; NULL: of none */
        struct host_toll toll;     /* by the change of the host that is being decided on */
        struct history history;
        struct entry *newest;     /* of all that are kept of it */
        struct entry *walk_first; /* activations and ways back, in the order in which they go */
        bool is_step_out;         /* the first one's step is being carried out */
        bool is_step_back;        /* that is one of a way back */
        bool is_step_check;       /* that is one of a check */
        bool is_others_turn;      /* before what moves in many steps goes on */
        uint64_t token;           /* of that step */
        struct vm_entry *next;
};

/* The step of an item's check that is next, or out. */
enum check { CHECK_NONE, CHECK_LOOK, CHECK_HOST, CHECK_BIND, CHECK_LOOK_AGAIN, CHECK_N };

struct entry {
        struct request r;
        struct vm_entry *vm;                  /* NULL for a reservation */
        struct entry *key_next, *serial_next; /* hash chains */
        struct entry *older, *newer;          /* all that are kept, by serial */
        struct entry *vm_older, *vm_newer;    /* the same of its VM alone */
        struct entry *finished_next;          /* in its history */
        struct entry *walk_next;
        struct entry *kept_next, *wait_next;
        bool is_walking;       /* in its VM's queue */
        bool may_keep;         /* its way back is to be a lazy one */
        bool is_waiting;       /* in the list of those that wait for a reclaim */
        int64_t wait_end_ms;   /* until when its activation may wait, however often. 0: it has not had to */
        bool is_returning;     /* counted in hypervisor.returning */
        bool is_resumed;       /* its step was journalled before a restart: that one first */
        int64_t retry_at_ms;   /* something is held: when the way back is tried again. 0: it is not */
        int32_t retry_in_ms;   /* and how long after that */
        bool is_held_by_guest; /* the last try failed as the guest did not let go of memory */
        int64_t force_at_ms;   /* then the VM is ended for it. 0: no */
        bool may_hurry, is_hurried;  /* one try out of turn between two of the others */
        char held[REQUEST_SENTENCE]; /* why it is held */
        enum check check;            /* of check_item, while it is granted and in its VM's queue */
        uint16_t check_item;
        bool checks_again;    /* somebody asked meanwhile */
        bool check_restarts;  /* the step that is out is of before something was moved */
        bool is_check_narrow; /* it is of what moves alone */
        bool check_has_more;  /* some of that takes more steps */
        unsigned move_tries;  /* how often it could not be moved, since it was to be, and why not */
        enum reason move_reason;
        struct checked checked;
        char changed[REQUEST_SENTENCE]; /* what is not as it was granted, the last of it */
};

struct deadline {
        int64_t at_ms;
        uint64_t serial;
};

struct hypervisor {
        struct hypervisor_config config;
        struct component *components;
        size_t n_components;
        struct ledger *ledger;
        struct vm_entry *vms;
        uint64_t next_serial, next_token;
        size_t live, returning; /* of those that are live, how many are on their way back */
        struct history reservations;
        struct entry *kept_first; /* what is kept or being reclaimed, that which was kept first first */
        struct entry
                *waiting_first; /* activations that have not begun, as something must be reclaimed first */
        struct entry **by_key, **by_serial;
        size_t buckets; /* a power of two */
        size_t entries;
        struct entry *oldest, *newest;
        struct deadline *heap; /* least first; may hold stale entries, which are skipped */
        size_t heap_n, heap_size;
        struct effect *effects; /* ring */
        size_t effects_first, effects_n, effects_size;
};

/* decide.c: fill r's verdict, and on a grant or an offer claim what it says. The state is set by the
 * caller from r->outcome. ask: what it was asked by; NULL: a VM's base resources. */
int decide(struct hypervisor *h, struct entry *e, const struct ask *ask, int64_t now_ms, struct err *err);

/* REASON_UNSUPPORTED: no memory of this host has pages of that size. */
int check_pages(const struct hypervisor *h, int64_t page_bytes, struct err *err);

/* bring.c */
/* What is owned of a component, and what those have claimed on top of it who bring their memory. */
int64_t bring_owned(const struct hypervisor *h, uint32_t component);
/* While it is decided on a request of a VM's: what is free of the memory is what that brings. */
void bring_begin(struct hypervisor *h, const struct entry *e);
void bring_end(struct hypervisor *h, const struct entry *e);
/* What is about to be claimed, and what has come back. */
void bring_claims(const struct hypervisor *h, const struct entry *e, struct claim *c);
void bring_returns(struct hypervisor *h, const struct entry *e, const struct definition *d);
void bring_free(struct vm_entry *v);
bool bring_is_sound(const struct hypervisor *h);

/* tables.c */
struct effect *effect_push(struct hypervisor *h, enum effect_kind kind, const struct request *r,
                           int64_t now_ms);
/* The request changed: its record first, then the line for the log. */
void moved(struct hypervisor *h, const struct request *r, int64_t now_ms, const char *event,
           const char *text);
struct entry *find_key(const struct hypervisor *h, const char *key);
struct entry *find_serial(const struct hypervisor *h, uint64_t serial);
struct vm_entry *find_vm(const struct hypervisor *h, const char *name);
/* The request for the base resources of a VM. */
struct entry *base_of(const struct hypervisor *h, const char *name);
bool tables_grow(struct hypervisor *h);
void entry_rename(struct hypervisor *h, struct entry *e, const char *key);
/* Enters it into every table; it must have its serial and key. false: no memory. */
bool entry_keep(struct hypervisor *h, struct entry *e);
void entry_unchain(struct hypervisor *h, struct entry *e);
void entry_free(struct entry *e);
/* When this request wants to hear of the time. */
int64_t deadline_of(const struct request *r);
int64_t next_deadline(const struct entry *e); /* the same, or when it is tried again */
void deadline_push(struct hypervisor *h, int64_t at_ms, uint64_t serial);
void deadline_pop(struct hypervisor *h);

/* hypervisor.c */
/* It has left what it moved from. */
void claim_from_release(struct hypervisor *h, struct definition *d);
/* Its claims are the ledger's again, and the slots its VM's; its definitions stay. */
void claims_release(struct hypervisor *h, struct entry *e);
/* Its time may be over, but it is not back: it takes capacity until it is, even where somebody counted on
 * that from now on. */
void claims_overstay(struct hypervisor *h, const struct request *r);
/* One of the ways in which a request gives up what it has. */
void give_back(struct hypervisor *h, struct entry *e, enum request_event ev, const char *event,
               enum reason reason, const char *text, int64_t now_ms);
/* It is final: remember it for a while; forget the one that finished first where there are too many. */
void entry_finished(struct hypervisor *h, struct entry *e, int64_t now_ms);
/* It finished, and is not remembered any longer. */
void entry_forget(struct hypervisor *h, struct entry *e, int64_t now_ms);
/* The ends of walks. */
void became_usable(struct hypervisor *h, struct entry *e, int64_t now_ms);
void became_unusable(struct hypervisor *h, struct entry *e, const struct err *why, int64_t now_ms);
void came_back(struct hypervisor *h, struct entry *e, int64_t now_ms);

/* checks.c: called for the first one in a VM's queue. */
void check_begin(struct entry *e);
void check_begin_narrow(struct entry *e); /* of what moves alone */
/* false: nothing is left to look at. Else *ret is the step that is next. */
bool check_next(struct hypervisor *h, struct entry *e, int64_t now_ms, struct activation *ret);
void check_report(struct hypervisor *h, struct entry *e, const struct err *err, int64_t now_ms);
/* The step is one of many that its item takes; it did, and the next one is in the next check. */
void check_goes_on(struct entry *e);

/* Some of it is to be moved: that comes first in the check that this begins, or begins anew. */
void check_moves(struct hypervisor *h, struct entry *e, int64_t now_ms);
/* Some of it could not be moved: tried again. */
bool check_is_moving(const struct entry *e);

/* walks.c */
/* Into its VM's queue, where it is not there already; then queue_go_on(). */
void queue_push(struct entry *e);
void queue_go_on(struct hypervisor *h, struct vm_entry *vm, int64_t now_ms);
/* "vcpu 3 on cpu:1", "dimm 0 on memory:node0" */
void item_text(const struct hypervisor *h, const struct definition *d, char *ret, size_t size);
/* Activates what is granted in the ledger, or takes back what is to be given back. */
void walk_start(struct hypervisor *h, struct entry *e, int64_t now_ms);
void walk_resume(struct hypervisor *h, struct entry *e, int64_t now_ms);
/* It ended without a walk. */
void walk_forget(struct hypervisor *h, struct entry *e);
/* Something came back, or is held and others are to make room: those that wait and have room now go on. */
void walks_go_on(struct hypervisor *h, int64_t now_ms);
/* One try out of turn between two of the others. */
void walk_hurry(struct hypervisor *h, struct entry *e, int64_t at_ms);
/* It goes all the way back, though it was to be a lazy one. */
void walk_not_lazily(struct hypervisor *h, struct entry *e, const char *why, int64_t now_ms);
/* What was held is tried again. */
void walk_retry(struct hypervisor *h, struct entry *e, int64_t now_ms);

/* kept.c */
/* At the end of a lazy way back. false: there is nothing to keep, it has ended. */
bool kept_begin(struct hypervisor *h, struct entry *e, int64_t now_ms);
/* For the next run of the same VM: its claims are what was kept, where nobody else has that by now. */
bool kept_take_over(struct hypervisor *h, struct entry *e, int64_t now_ms);
/* What is bound of a component leaves room for what is claimed of it; else some of it is reclaimed. */
bool kept_leaves_room(struct hypervisor *h, uint32_t component, const char *why, int64_t now_ms);
/* May this activation begin? What is in its way is being reclaimed; false: it is to wait for that. */
bool kept_makes_room(struct hypervisor *h, const struct entry *e, int64_t now_ms);
/* The host turned out to have less room for this than the books say. Something of the same kind is being
 * reclaimed; false: nothing of it is kept. */
bool kept_makes_more_room(struct hypervisor *h, enum component_kind kind, int64_t now_ms);
/* Somebody waits, or the host side is back: what is held is tried once out of turn. */
void kept_hurry(struct hypervisor *h, int64_t now_ms);
/* What is being reclaimed and did not come back is not free until it does. */
void kept_is_held(struct hypervisor *h, struct entry *k);
/* At the end of a lazy way back: why it is to be no lazy one after all; NULL: it may be. */
const char *kept_problem(const struct hypervisor *h, const struct request *r);
void kept_reclaim(struct hypervisor *h, struct entry *k, const char *why, int64_t now_ms);
void kept_came_back(struct hypervisor *h, struct entry *k, int64_t now_ms);
/* A restart: into the list, and later a look at whether it can still be kept. */
void kept_restore(struct hypervisor *h, struct entry *k);
void kept_check(struct hypervisor *h, int64_t now_ms);
struct entry *kept_of(const struct hypervisor *h, const char *vm);
