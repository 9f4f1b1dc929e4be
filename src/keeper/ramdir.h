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
enum { RAMDIR_BUDGET = 20000 };

/* Opens the base, made where missing. REASON_POLICY: somebody else than root may write it. Returns a
 * descriptor. */
int ramdir_open_base(const char *path, struct err *err);
/* Empty afterwards, whatever was there. REASON_NO_CAPACITY: the file system has less than memory_bytes free.
 */
int ramdir_make(int base_fd, const char *vm, uid_t uid, gid_t gid, int64_t memory_bytes, struct err *err);
/* Not there: no error. REASON_BUSY: there was so much in it that it takes another call. */
int ramdir_drop(int base_fd, const char *vm, struct err *err);
