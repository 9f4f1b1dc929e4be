/* SPDX-License-Identifier: Apache-2.0 */
/* host/block.h - a ceiling on what a VMM reads and writes on a disk of the host: io.max of cgroup v2, or
 * blkio.throttle.* of v1. Beside QEMU's own throttling, which works everywhere but which a VMM that was taken
 * over can lift. Groups are those of confine.h.
 *
 * v1 bounds direct and synchronous input and output only: what is written through the page cache is written
 * by the kernel in its own name. `fallback` says so. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "host/confine.h"

struct block_host {
        struct confine confine;
        char sysfs[CGROUPFS_ROOT];
        bool is_fake;
        char fallback[160]; /* what is missing, in words; "" where nothing */
};

struct block_options {
        const char *prefix;    /* path below the cgroup hierarchy, "mete" */
        const char *sysfs;     /* NULL: /sys */
        const char *mountinfo; /* NULL: /proc/self/mountinfo */
        bool is_fake;          /* tests: plain directories, which keep one device a group */
};

struct block_device {
        unsigned major, minor;
};

/* A second; 0: no limit. */
enum block_kind { BLOCK_READ_BYTES, BLOCK_WRITE_BYTES, BLOCK_READ_OPS, BLOCK_WRITE_OPS, BLOCK_KINDS };
struct block_limits {
        int64_t at[BLOCK_KINDS];
};

/* Finds out what there is; changes nothing. */
int block_host_init(struct block_host *h, const struct block_options *o, struct err *err);
/* The whole disk below a file, folder or device node: partitions cannot be bounded. REASON_UNSUPPORTED: a
 * file system without a disk of its own (tmpfs, btrfs, network). */
int block_device_of(const struct block_host *h, const char *path, struct block_device *ret, struct err *err);

/* Makes the group; idempotent; on failure everything is as before. vm NULL: all VMs together. */
int block_limit_set(const struct block_host *h, const char *vm, struct block_device device,
                    const struct block_limits *limits, struct err *err);
int block_limit_enter(const struct block_host *h, const char *vm, pid_t pid, struct err *err);
/* All limits go. vm NULL: only those of this device. -EBUSY: something still runs there. */
int block_limit_lift(const struct block_host *h, const char *vm, struct block_device device, struct err *err);
int block_limit_read(const struct block_host *h, const char *vm, struct block_device device,
                     struct block_limits *ret, struct err *err);
/* What was done so far, in bytes and operations. */
int block_usage_read(const struct block_host *h, const char *vm, struct block_device device,
                     struct block_limits *ret, struct err *err);
/* 1: changed behind our back (err: REASON_STALE says what). pid 0: nobody has to be in it. */
int block_limit_verify(const struct block_host *h, const char *vm, struct block_device device,
                       const struct block_limits *limits, pid_t pid, struct err *err);
