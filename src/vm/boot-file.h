/* SPDX-License-Identifier: Apache-2.0 */
/* vm/boot-file.h - what a VM boots from, its kernel and its initial RAM disk, in words that two hosts can
 * compare: each host has files of its own under these names, and the VM reads those of its new host when it
 * boots the next time.
 *
 * They are compared by size and by a digest of samples (struct api_peer_file says which), so that a look
 * reads at most 384 KiB, however large the file is. A Linux kernel has its version in front, and a gzip
 * stream the checksum of all of it behind: what is another build differs in a sample. A file of the same size
 * in which only other bytes were changed may not: the digest is no proof, and nobody is kept from anything by
 * it. */
#pragma once
#include "base/err.h"
#include "json/api.h"

/* what: "kernel", for sentences; name is a file in dir. Blocking, bounded. *ret untouched on failure:
 * REASON_NOT_FOUND, or REASON_INCOMPATIBLE where it is no regular file; *err names it. */
int boot_file_see(const char *dir, const char *what, const char *name, struct api_peer_file *ret,
                  struct err *err);
/* 0: nothing tells them apart. Else REASON_INCOMPATIBLE; *err names the file and what differs. */
int boot_file_compare(const char *what, const char *name, const struct api_peer_file *here,
                      const struct api_peer_file *there, struct err *err);
