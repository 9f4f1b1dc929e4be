/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/class.h - the VMs' classes of service: ways of an L3 cache, and memory bandwidth, by resctrl.
 *
 * A VM has one class, made with its first item, with the sum of its items, all of one L3 cache (its domain).
 * What was activated is recorded, a small file a VM, written before anything acts and taken out after
 * everything is gone; what each VM has of the tree, and what the default group was, is in the book of
 * host/resctrl.h beside them. So a keeper that comes after a crash goes on from there.
 *
 * Any thread may call these; one at a time gets through. Each is idempotent. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>
#include "base/err.h"
#include "host/cpu.h"
#include "host/resctrl.h"
#include "keeper/config.h"

enum { CLASS_ITEMS_MAX = 64 };

/* Of one item: one of the two amounts is 0. */
struct class_part {
        uint32_t domain; /* id of the L3 cache */
        uint32_t ways, percent;
};

struct class_record {
        char vm[64];
        size_t n_items;
        struct {
                char name[CPU_ITEM_SIZE];
                struct class_part part;
        } items[CLASS_ITEMS_MAX];
};

struct class_said {
        bool is_ready; /* there is a tree */
        bool is_made_up;
        char root[CGROUPFS_ROOT];
        unsigned ways, membw_step; /* 0: there is nothing of that kind */
        unsigned classes, left;
        char fallbacks[2][160]; /* what is lacking, in words; "" where nothing is */
};

struct classes {
        const struct keeper_config *config;
        struct resctrl_host host;
        char state_dir[CGROUPFS_ROOT];
        bool is_ready; /* `host` is filled in */
        int dir_fd;    /* of the records; owned; -1 where nothing is managed */
        pthread_mutex_t lock;
        pthread_mutex_t said_lock;
        struct class_said said; /* under said_lock, which nobody has for long */
};

struct class_live {
        struct class_part part, vm; /* of the item; of the class, as resctrl has it */
};

/* What there is; changes nothing. A configured path that is not of that file system is a made-up tree. */
int classes_look(const struct keeper_config *config, const char *state_dir, struct resctrl_host *ret,
                 bool *ret_is_made_up, struct err *err);

/* Where [resctrl] manage is not yes, what wants something is refused with a sentence, and the tree looked at
 * only for what was given before that. A tree that is not there is no failure: it is looked for again by each
 * call. */
int classes_init(struct classes *c, const struct keeper_config *config, struct err *err);
void classes_done(struct classes *c); /* the classes stay; idempotent */
/* Waits for nothing that another thread does with the tree. */
void classes_say(struct classes *c, struct class_said *ret);
/* Is it a folder for tests, in which nothing has an effect? */
bool classes_is_made_up(struct classes *c);

/* On failure all is as before. REASON_NO_CAPACITY: no class of service, ways or bandwidth left.
 * REASON_INVALID: an item of another domain than the VM's others. */
int classes_hold(struct classes *c, const char *vm, const char *item, const struct class_part *part,
                 struct err *err);
/* All threads of that process, and those that it makes later. A VM without a class: nothing to do, or with
 * is_needed REASON_NOT_FOUND. */
int classes_enter(struct classes *c, const char *vm, pid_t pid, bool is_needed, struct err *err);
/* With the last item of a VM goes its class. */
int classes_let_go(struct classes *c, const char *vm, const char *item, struct err *err);
/* pid 0: no look at its threads. REASON_NOT_FOUND: not activated. REASON_STALE: changed behind our back. */
int classes_read(struct classes *c, const char *vm, const char *item, pid_t pid, struct class_live *ret,
                 struct err *err);
/* All items of the VM but these. */
int classes_prune(struct classes *c, const char *vm, const char (*keep)[CPU_ITEM_SIZE], size_t n_keep,
                  struct err *err);
/* All items of the VM, and its class, whatever the records say. */
int classes_drop(struct classes *c, const char *vm, struct err *err);

/* For tests. */
int class_record_parse(const char *text, size_t n, struct class_record *ret, struct err *err);
char *class_record_print(const struct class_record *r); /* malloc'ed; NULL: no memory */
