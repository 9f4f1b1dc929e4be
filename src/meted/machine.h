/* SPDX-License-Identifier: Apache-2.0 */
/* meted/machine.h - one VM as it is on this host: its definition, its VMM while there is one, its agent
 * while that is connected, and the step that changes it (activate.h). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "core/hypervisor.h"
#include "json/api.h"
#include "meted/meted.h"
#include "vm/definition.h"
#include "vm/vm.h"
#include "wire/rpc.h"

struct step;

struct machine {
        struct meted *m;
        struct api_vm_definition definition;
        bool is_new;    /* its definition is not recorded yet */
        int uid_slot;   /* which of the keeper's uids it has; kept in the store */
        uint64_t epoch; /* of its owner, who is here; 0: it is on its way here. Kept in the store */
        struct vm *vm;  /* NULL: no connection to a VMM */
        pid_t pid;      /* 0: no VMM that we know of */
        char ram_dir[256];
        bool is_dead;          /* its VMM is known to be gone; the way back is asked for, or soon will be */
        char ended[256];       /* how its last run ended */
        bool has_powered_down; /* by its guest: what it had may be kept */
        struct loop_timer adopt_retry;
        struct step *attaching; /* which waits for the VMM's monitors */
        /* guest.c */
        struct rpc *agent; /* NULL: no connection to the port */
        struct loop_timer agent_retry;
        bool greeted;
        char agent_version[32], boot_id[64];
        struct api_guest_state guest;
        bool memory_is_known;   /* guest.memory_bytes is what it has on line now */
        int64_t measured_bytes; /* what it had on line before the activation measured_for plugged memory */
        uint64_t measured_for;
        struct checked seen;       /* since somebody asked for a look at it */
        struct listener *listener; /* hhi.c; NULL: it has never asked to be told */
        uint64_t hhi_before;       /* the latest generation that another host may have told it; 0: none has */
        /* activate.c */
        struct step *step;     /* under way; NULL: none */
        struct effect pending; /* the next one */
        uint64_t walk_serial;  /* of the activation or way back that it is a step of, and since when */
        bool walk_is_back;
        int64_t walk_mono_ms, walk_rest_mono_ms; /* and since when none of its steps is under way */
        bool has_pending;
        GList *placings;         /* of struct placing, in activate-place.c: memory that is on its way */
        bool relocates_slowly;   /* with a pause before each piece */
        int64_t relocated_bytes; /* of its memory, from one node to another, since somebody began to count */
        bool is_relocated_inexact; /* since then of some piece it is not known how much was */
        /* moves-hold.c */
        int64_t vcpu_milli;    /* to which its vCPUs are throttled by a move; 0: they are as granted */
        uint64_t vcpu_changes; /* of what they are held to, by a move: begun, and answered */
};

/* Activations of the keeper's that are no request's: above those of requests, and low enough that a keeper
 * with several meteds can tell whose they are (keeper.json: activation). */
#define MACHINE_LANES (INT64_C(1) << 48)
/* Whoever changes what a VM that runs already has of the host, a repair or a move, does so in this one, so
 * that what is asked for last is what counts. */
int64_t machine_lane(const struct machine *v);

/* Machines of m->machines stay sorted by name. */
struct machine *machine_find(struct meted *m, const char *name);
struct machine *machine_add(struct meted *m, const struct api_vm_definition *d, int uid_slot);
/* No VMM and no step may be there. */
void machine_remove(struct machine *v);
/* meted goes, the VMM stays. */
void machine_detach(struct machine *v);
int machine_free_uid_slot(const struct meted *m);
void machine_shape(const struct machine *v, struct vm_shape *ret);
/* Its state follows from the request for its base resources. */
enum api_vm_state machine_state(const struct machine *v);
const struct request *machine_base(const struct machine *v);
void machine_path(const struct machine *v, const char *what, char *ret,
                  size_t size); /* in the run directory */
/* What the runs of a VM that is no longer defined have left in the run directory. */
void machine_clear_dir(const struct meted *m, const char *name);
/* Row for the store and back. The text is malloc'ed. */
char *machine_record(const struct machine *v);
/* Its row is written with this turn. */
int machine_put(const struct machine *v, struct err *err);
int machine_load(const char *name, const char *record, void *meted, struct err *err);
/* Its VMM is gone, seen by us or told: everything that it had is taken back. */
void machine_died(struct machine *v, const char *why);
/* Its VMM waits for it to come from another one: it must not run, and its guest is not asked. */
bool machine_is_arriving(const struct machine *v);
/* Its VMM is there, and it is not known yet what that has: nobody is attached to it. */
bool machine_is_awaited(const struct machine *v);
/* Whether it may run is decided by a move or a handover alone. */
bool machine_is_standing(const struct machine *v);
void machine_note(struct machine *v, const char *trace, const char *event, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));

/* A look at all that the request was granted has ended. */
void machine_seen(struct meted *m, const struct request *r, const struct checked *checked);

/* activate-vmm.c: in image_dir. */
int find_images(const struct meted *m, const struct api_vm_definition *d, struct err *err);

/* guest.c */
void guest_connect(struct machine *v);
void guest_disconnect(struct machine *v);
void guest_reconnect(struct machine *v); /* soon, where there is a connection: it greets and synchronises */
void machine_lease_ended(struct meted *m, const struct request *r, enum reason reason, const char *sentence);
/* As the wire has them. How many. */
size_t needs_to_api(const struct need *needs, size_t n, struct api_need *ret);
int needs_from_api(const struct api_need *from, size_t n, struct need *ret, struct err *err);
void verdict_of(const struct meted *m, const struct request *r, struct api_verdict *ret);
