/* SPDX-License-Identifier: Apache-2.0 */
/* host/cgroupfs.h - the files of a control group hierarchy, and where hierarchies are mounted.
 * What was written is read back by the caller; a kernel may accept a value and not take it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum { CGROUPFS_PATH = 512, CGROUPFS_ROOT = 192 };

/* Mount points; "" where there is none that may be written. */
struct cgroupfs_mounts {
        char v1_cpu[CGROUPFS_ROOT];
        char v1_cpuset[CGROUPFS_ROOT];
        char v1_memory[CGROUPFS_ROOT];
        char v1_blkio[CGROUPFS_ROOT];
        char v2[CGROUPFS_ROOT];
        char resctrl[CGROUPFS_ROOT]; /* no control groups, but files of the same manner */
};
/* mountinfo: path of such a file, /proc/self/mountinfo where NULL. */
int cgroupfs_find(const char *mountinfo, struct cgroupfs_mounts *ret, struct err *err);

/* Is it one of the words, which commas or blanks divide? "cpuset cpuacct" has no "cpu". */
bool cgroupfs_has_word(const char *words, const char *word);

/* Tests alone set it: asked before every change to a file or folder; an errno makes that change fail. */
extern int (*cgroupfs_fault)(const char *path);

/* A fake tree is a plain directory, for tests: files are made where they are missing, a group that lists
 * threads is busy. Never set for a tree that the kernel keeps. */
int cgroupfs_make(const char *dir, struct err *err); /* there already: no error */
int cgroupfs_remove(const char *dir, bool fake,
                    struct err *err); /* not there: no error; -EBUSY: has threads */
int cgroupfs_write(const char *dir, const char *file, const char *value, bool fake, struct err *err);
/* Without the newline at the end. */
int cgroupfs_read(const char *dir, const char *file, char *buf, size_t size, struct err *err);
/* Does a line of the file hold just this number? 1, 0 or negative errno. */
int cgroupfs_lists(const char *dir, const char *file, int64_t number, struct err *err);
/* Writes, and reads back what the kernel took. */
int cgroupfs_write_number(const char *dir, const char *file, int64_t value, bool fake, struct err *err);
/* "max" is -1. */
int cgroupfs_read_number(const char *dir, const char *file, int64_t *ret, struct err *err);

/* A path below a hierarchy: names (str_is_name) with slashes between them, shorter than `size`. */
bool cgroupfs_is_path(const char *path, size_t size);
/* v2: `root` and each folder of `path` but the last hand the controller down. Folders are made where they are
 * missing. It stays handed down: others may have come to rely on it. */
int cgroupfs_hand_down(const char *root, const char *path, const char *controller, bool fake,
                       struct err *err);

/* A small file of our own that says what was there before we changed it. Replaced whole: written beside its
 * place, synced, renamed. */
int cgroupfs_keep(const char *dir, const char *file, const char *text, struct err *err);
int cgroupfs_forget(const char *dir, const char *file, struct err *err); /* not there: no error */
