/* SPDX-License-Identifier: Apache-2.0 */
/* vm/disk-file.h - which file a VM's disk is, in words that two hosts which share their storage have in
 * common: a move without the copy of a disk must find the same one, and that is known before anything starts.
 *
 * The number of the inode and the size are the server's on NFS, CephFS, GlusterFS, CIFS and cluster
 * filesystems, and the filesystem's own where it is mounted twice. The time of birth is compared where both
 * hosts are told it: it tells apart what two hosts that were installed alike have in the same place. Left out
 * is what differs though the file is one: the device (each host numbers it), the filesystem's id and type (a
 * host may serve by NFS what it has on ext4), and the times that change as the guest writes.
 * A disk is a regular file: QEMU's driver `file` takes nothing else. */
#pragma once
#include "base/err.h"
#include "json/api.h"

/* name is a file in dir. Asks the storage itself, not what this host remembers of it. *ret untouched on
 * failure: REASON_NOT_FOUND, or REASON_INCOMPATIBLE where it is no regular file; *err names the disk. */
int disk_file_see(const char *dir, const char *name, struct api_peer_disk *ret, struct err *err);
/* 0: nothing tells them apart. Else REASON_INCOMPATIBLE; *err names the disk and the first difference. */
int disk_file_compare(const char *name, const struct api_peer_disk *here, const struct api_peer_disk *there,
                      struct err *err);
