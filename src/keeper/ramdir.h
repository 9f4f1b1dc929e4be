/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/ramdir.h - the directory of a VM's RAM files.
 *
 * RAM_DIR is root's alone; each VM has a directory in it that belongs to the VM's uid (it makes its files
 * there, mode 0600 by its umask) and to meted's group, which may look but not write. What is in there belongs
 * to a hostile uid: it is never followed, only unlinked. */
#pragma once
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

/* Entries removed in one call, so that a VM that made millions of files cannot hold the keeper for long. */
enum { RAMDIR_BUDGET = 20000, RAMDIR_NAME = 32 };

/* Opens the base, made where missing. REASON_POLICY: somebody else than root may write it. Returns a
 * descriptor. */
int ramdir_open_base(const char *path, struct err *err);
/* Names of files that stay; all NULL and 0 for none. */
struct ramdir_keep {
        const char (*names)[RAMDIR_NAME];
        size_t n;
};
/* Empty afterwards but for what is kept (plain files of that uid), whatever was there. REASON_NO_CAPACITY:
 * the file system has less than memory_bytes, of which that is a part, free. */
int ramdir_make(int base_fd, const char *vm, uid_t uid, gid_t gid, int64_t memory_bytes,
                const struct ramdir_keep *keep, struct err *err);
/* There afterwards, with what is in it. One of another uid: REASON_BUSY. */
int ramdir_ensure(int base_fd, const char *vm, uid_t uid, gid_t gid, struct err *err);
/* A plain file of the VM's own, empty, or what it has already. Returns a descriptor. */
int ramdir_create(int base_fd, const char *vm, const char *name, struct err *err);
/* Not there: no error. REASON_BUSY: there was so much in it that it takes another call. */
int ramdir_drop(int base_fd, const char *vm, struct err *err);
/* The same of all but what is kept; the directory stays. */
int ramdir_prune(int base_fd, const char *vm, const struct ramdir_keep *keep, struct err *err);

/* The files of an item, ITEM or ITEM-SIZE, are emptied, also where somebody has them open, and removed. None
 * there: no error. */
int ramdir_remove(int base_fd, const char *vm, const char *item, struct err *err);
/* The name of its file: ITEM, or the first ITEM-SIZE. 1, or 0: there is none. */
int ramdir_name(int base_fd, const char *vm, const char *item, char ret[RAMDIR_NAME], struct err *err);
/* What the file of an item takes: ITEM, or ITEM-SIZE. 1, or 0: there is none. What the VM put there is only
 * ever counted; at most RAMDIR_BUDGET names are looked at. */
int ramdir_taken(int base_fd, const char *vm, const char *item, int64_t *ret_bytes, struct err *err);
/* An item's file, opened for reading only. */
struct ramdir_file {
        char item[RAMDIR_NAME];
        char name[RAMDIR_NAME]; /* what it is called; set when it is found */
        int fd;                 /* -1: not found yet */
        int64_t bytes;
};
/* Opens those that are not open yet and are here: plain files of that uid, with one name only. Returns how
 * many are open now; their descriptors are the caller's, on failure too. */
int ramdir_open(int base_fd, const char *vm, uid_t uid, struct ramdir_file *files, size_t n, struct err *err);
/* REASON_NO_CAPACITY: the file system has not so much. */
int ramdir_check_free(int base_fd, const char *vm, int64_t bytes, struct err *err);
/* The same of a NUMA node, by its own figures; where a machine has but one, by the machine's. Pages of a
 * hugetlbfs are reserved already, so nothing is asked. sysfs NULL: /sys; tests give another. */
int ramdir_check_node(int base_fd, const char *sysfs, int64_t node, int64_t bytes, struct err *err);
