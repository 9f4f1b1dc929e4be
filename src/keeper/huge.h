/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/huge.h - memory of VMs on huge pages: which sizes there are, where their files lie, who holds how
 * many.
 *
 * Each directory of [keeper] huge_dir is a hugetlbfs, one a page size; in it is one of ours, root's alone,
 * and in that one of each VM, like its directory of ordinary RAM files (keeper/ramdir.h). The pages
 * themselves are added to the pool of a node before the VMM makes a file of them, and taken out of it again
 * after the file is gone (host/memory.h). */
#pragma once
#include <stdint.h>
#include "base/err.h"
#include "host/memory.h"
#include "json/api.h"
#include "keeper/config.h"
#include "keeper/ramdir.h"

enum { HUGE_SIZES = 4, HUGE_DIR = KEEPER_PATH_MAX + 72 };

struct huge {
        const struct memory_host *memory;   /* NULL: no pools can be found */
        const struct keeper_config *config; /* borrowed: whose VM's meted may look */
        size_t n;
        struct huge_size {
                int fd; /* of dir; owned */
                int64_t page_bytes;
                char dir[HUGE_DIR];
        } sizes[HUGE_SIZES]; /* ascending */
        char fallback[128];  /* why there are none; "" where there are */
};

/* Makes a directory in each hugetlbfs. REASON_INVALID: what the configuration names is no hugetlbfs, or two
 * of them have pages of one size. That the default one is not there is no error. Borrows memory. */
int huge_init(struct huge *h, const struct keeper_config *config, const struct memory_host *memory,
              struct err *err);
/* The same, and makes nothing that stays. */
int huge_check(struct huge *h, const struct keeper_config *config, struct err *err);
/* Directories without VMs go. Idempotent. */
void huge_done(struct huge *h);

/* As ramdir_make(), ramdir_drop() and ramdir_prune(), of all sizes; made only where its VMM is to have pages
 * from the start, as whoever may write there can use up what others have put into the pool. */
int huge_make(const struct huge *h, const char *vm, uid_t uid, bool is_wanted, const struct ramdir_keep *keep,
              struct err *err);
int huge_clear(const struct huge *h, const char *vm, const struct ramdir_keep *keep, struct err *err);
/* The pages of all items but those that are kept go back; their files must be gone. */
int huge_release(const struct huge *h, const char *vm, const struct ramdir_keep *keep, struct err *err);

/* Any thread may call these.
 *
 * uid: of its VMM, for which the file is made, too, full; 0: none runs. REASON_UNSUPPORTED: there is no
 * hugetlbfs for that size. REASON_NO_CAPACITY: the node has not so many contiguous pages; nothing has
 * changed. */
int huge_activate(const struct huge *h, const char *vm, uid_t uid, const char *item, int64_t node,
                  int64_t bytes, int64_t page_bytes, struct err *err);
/* Its file goes with all that it contains, also where somebody has it mapped, then its pages. Ordinary
 * memory: nothing to do. REASON_BUSY: base memory of a VMM that runs. */
int huge_deactivate(const struct huge *h, const char *vm, const char *item, bool is_running, struct err *err);
/* 1: it is on huge pages; fills live, and *ret_dir is the size's. 0: it is not. REASON_STALE: somebody took
 * pages out of the pool. */
int huge_read(const struct huge *h, const char *vm, const char *item, struct api_keeper_live *live,
              const struct huge_size **ret_size, struct err *err);
/* The item's file: all base memory is in the first one. */
const char *huge_file_of(const char *item);
