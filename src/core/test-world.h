/* SPDX-License-Identifier: Apache-2.0 */
/* The heart in a world of its own, for its tests: a machine and some shapes of VMs, a driver that answers
 * late, twice or never, and a disk that forgets what was not committed. After every turn all invariants hold;
 * after every crash what was recorded is exactly what is there. */
#pragma once
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "core/telling.h"
#include "core/hypervisor-internal.h" /* to see that tables stay bounded */

#define MIB  (INT64_C(1) << 20)
#define MBIT INT64_C(1000000)

enum { MACHINE_N = 8, SHAPES_N = 4, CLASSES = 4 /* components that test_class() adds */ };
extern const struct component machine[MACHINE_N];
extern const struct hypervisor_config config;
extern const struct vm_shape shapes[SHAPES_N];
/* The same after its memory was halved and half of its CPUs were taken out of use. */
extern struct component smaller[MACHINE_N];

/* Somebody who asked, and was not answered yet. */
struct wait {
        uint64_t serial;
        enum effect_kind what; /* EFFECT_ANSWER or EFFECT_RELEASED */
};

/* A step that the driver was asked for. */
struct work {
        uint64_t serial, token; /* token 0: nobody waits for its report any more */
        struct activation step;
        bool is_check;
};

/* What a driver does with the effects, and the disk. */
struct world {
        struct hypervisor *h;
        GHashTable *disk;  /* serial -> struct request, definitions copied */
        GQueue work;       /* of struct work */
        GHashTable *sides; /* "v vcpu 2" -> phases that were carried out on it and not undone */
        GHashTable *bound; /* the same -> what its host side takes: component << 48 | amount */
        GString *log;      /* "trace event; " */
        GString *texts;    /* "text; " */
        int64_t now;
        unsigned answers, released, events, ended, checked;
        uint64_t last_answer;
        GArray *waits;    /* of struct wait */
        GHashTable *told; /* serial -> the outcome that was last told */
        bool smaller;     /* the host, from its next boot on */
        bool disk_fails;  /* the next turn cannot be recorded */
        int64_t force_after_ms;
        bool keeps_nothing;
        bool no_capacity; /* that is why steps fail */
        bool is_crowded;  /* some of the host may be gone, and more claimed than there is */
        bool gone[G_N_ELEMENTS(machine)];
};

void wait_on(struct world *w, uint64_t serial, enum effect_kind what);
void turn(struct world *w);
void boot(struct world *w);
/* Work that is under way goes on, and nobody waits for it. */
void reload(struct world *w);
void world_init(struct world *w);
void world_done(struct world *w);
bool nothing_held(const struct world *w);
void work_one(struct world *w, bool fails);
void work_all(struct world *w);
/* Where the next one moves memory: a part of that is done. false: it is something else, and nothing is. */
bool work_part(struct world *w);
void start_vm(struct world *w);
/* A VM, or NULL for a reservation; from start_ms (0: now) to end_ms. */
uint64_t ask_for(struct world *w, const char *vm, const char *id, const char *needs_text, bool less,
                 int64_t start_ms, int64_t end_ms, enum reason *ret_bad);
uint64_t ask(struct world *w, const char *id, const char *needs_text, bool less, enum reason *ret_bad);
const struct request *get(const struct world *w, uint64_t serial);
/* How often it is on the log. */
int logged(const struct world *w, const char *what);
void change(struct world *w, uint32_t component, bool healthy, int64_t lost);
