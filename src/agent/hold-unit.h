/* SPDX-License-Identifier: Apache-2.0 */
/* agent/hold-unit.h - units of systemd, for hold-systemd.c (what each shall have), hold-unit.c (one unit:
 * what it has, and to have it changed) and hold-scope.c (to get processes into one). */
#pragma once
#include <glib.h>
#include "agent/busctl.h"
#include "agent/hold-internal.h"

#define SYSTEMD_NAME   "org.freedesktop.systemd1"
#define SYSTEMD_OBJECT "/org/freedesktop/systemd1"
#define SYSTEMD_CALLS  "org.freedesktop.systemd1.Manager"
#define SLICE          "mete.slice"
#define SCOPE_PREFIX   "mete-"

enum {
        HOLD_UNIT_NAME = 256,
        HOLD_DONE_MS = 2000 /* until what systemd said that it would do is done */
};
enum { FAILED_CPUS = 1, FAILED_MEMORY = 2, FAILED_ALL = FAILED_CPUS | FAILED_MEMORY };

struct limits {
        struct cpulist cpus; /* none: no limit */
        uint64_t bytes;      /* UINT64_MAX: all */
};

/* One that we may have changed. */
struct unit {
        char path[HOLD_PATH]; /* of its group, from the root: "/user.slice", "/mete.slice/a.service" */
        struct limits prior, wanted;
        struct limits put; /* what systemd was last told, where there is no group to read it from */
        bool is_put, is_wanted, is_restored;
        bool is_holder, holds_cpus; /* of leases */
        bool is_seen;               /* it was there; a scope that we began, and have not seen, may yet come */
        bool had_cpus, had_memory;  /* there was a runtime drop-in before */
};

struct lease {
        struct hold_who who;
        char path[HOLD_PATH]; /* of its unit's group */
        struct hold_want has;
        bool is_left; /* another agent's, and nobody has asked for it since */
};

struct hold_systemd {
        char program[CGROUPFS_ROOT], run[CGROUPFS_ROOT], cpus_dir[CGROUPFS_ROOT];
        char answer[BUSCTL_OUT];
        size_t n_units, n_leases;
        struct unit **units;
        struct lease **leases;
        struct cpulist possible;
        struct cpulist free; /* what nobody holds, as last computed */
        int64_t one_ms, done_ms, deadline_ms, again_ms;
        bool is_taking; /* more than before: what cannot be held stops it; what is given back is given back */
        bool is_swept, is_dirty, is_said;
};

/* hold-unit.c: names. */
const char *hold_unit_name(const char *path); /* of the unit whose group it is */
bool hold_unit_is(const char *name);
bool hold_unit_of(const char *path, char ret[HOLD_PATH]);
void hold_scope_name(const struct hold_who *who, char ret[HOLD_NAME]);
/* Asking: words for busctl; hold_ask() takes them. The answer is in h->systemd->answer. */
GPtrArray *hold_words_new(const char *command, const char *object, const char *interface);
void hold_words_add(GPtrArray *words, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void hold_words_add_cpus(GPtrArray *words, const struct cpulist *cpus);
void hold_words_add_bytes(GPtrArray *words, uint64_t bytes);
int hold_ask(struct holds *h, GPtrArray *words, struct err *err);
/* What there is. */
int hold_read_set(const char *dir, const char *file, struct cpulist *ret, struct err *err);
int hold_is_populated(const char *dir);
struct unit *hold_unit_find(const struct hold_systemd *s, const char *path);
struct unit *hold_unit_add(struct hold_systemd *s, const struct unit *like);
int hold_unit_get(struct holds *h, const char *path, struct unit **ret,
                  struct err *err); /* asks what it has */
/* Making it so. */
unsigned hold_unit_put(struct holds *h, struct unit *u,
                       struct err *err); /* in which of the two that failed */
int hold_unit_restore(struct holds *h, struct unit *u, struct err *err);
int hold_unit_lift(struct holds *h, struct unit *u, struct err *err); /* after all were restored */
void hold_pause(void);

/* hold-scope.c: the process and its family are in l->path then, which is in the record. */
int hold_scope_enter(struct holds *h, struct lease *l, struct err *err);

/* hold-systemd.c */
int hold_systemd_record(const struct holds *h, struct err *err);
