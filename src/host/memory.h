/* SPDX-License-Identifier: Apache-2.0 */
/* host/memory.h - memory of VMs: huge pages of a NUMA node, a bound on what a VMM may use, and where its RAM
 * really lies. Binding itself is QEMU's (host-nodes=, policy=bind of a memory backend); here it is verified.
 *
 * Any thread may call; the host struct is only read. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include "base/err.h"
#include "host/confine.h"
#include "host/cpulist.h"

enum { MEMORY_NODES = 1024, MEMORY_SIZES = 4 };

struct memory_host {
        char nodes[CGROUPFS_ROOT]; /* .../devices/system/node; "" where the kernel knows no nodes */
        char pages[CGROUPFS_ROOT]; /* .../kernel/mm/hugepages */
        char proc[CGROUPFS_ROOT];
        char state_dir[CGROUPFS_ROOT];
        struct confine confine;
        bool is_fake;
        char nodes_fallback[128]; /* what is missing, in words; "" where nothing */
        char limit_fallback[128];
};

struct memory_options {
        const char *prefix;    /* path below the cgroup hierarchy, "mete" */
        const char *state_dir; /* a folder that is there and ours; must not outlive a reboot */
        const char *sysfs;     /* NULL: /sys */
        const char *proc;      /* NULL: /proc */
        const char *mountinfo; /* NULL: /proc/self/mountinfo */
        bool is_fake;          /* tests: plain directories */
};

/* Finds out what there is; changes nothing. */
int memory_host_init(struct memory_host *h, const struct memory_options *o, struct err *err);

/* ---- huge pages ----
 * A pool is a page size on a node. What a VM holds is always added to the pool, never taken out of what an
 * operator put there, and what is given back is exactly what was added. A file a pool, in state_dir, says who
 * holds how many, and which change is under way; it is written before the pool is changed, so a crash is
 * settled by the next call. A file beside it is locked meanwhile (flock). Without nodes there is one pool a
 * size, as node 0. */

struct memory_holder {
        char vm[64], item[32];
};
struct memory_held {
        int node;
        int64_t page_bytes, pages;
};
struct memory_keep {
        const char (*items)[32];
        size_t n;
};

/* The item of the VM holds `n` pages of that pool from now on, 0 for none. Idempotent: said again, a pool
 * that somebody lowered below what VMs hold is raised to that. All or nothing: REASON_NO_CAPACITY: the kernel
 * found fewer; the pool is as before. REASON_BUSY: pages to be given back are in use. */
int memory_pages_set(const struct memory_host *h, const struct memory_holder *by, int node,
                     int64_t page_bytes, int64_t n, struct err *err);
/* 1: what it holds, of the first pool in which it holds any. 0: nothing. */
int memory_pages_find(const struct memory_host *h, const struct memory_holder *by, struct memory_held *ret,
                      struct err *err);
/* 1: some item of the VM holds pages of that size. 0: none does. */
int memory_pages_of(const struct memory_host *h, const char *vm, int64_t page_bytes, struct err *err);
/* Gives back what the VM holds of all pools but for items that are kept; keep NULL: none. What is in use
 * stays held: the first error is returned. */
int memory_pages_release(const struct memory_host *h, const char *vm, const struct memory_keep *keep,
                         struct err *err);
/* What one VM holds of all pools is another's from now on. Idempotent. */
int memory_pages_pass(const struct memory_host *h, const char *vm, const char *to, struct err *err);
/* 1: the pool has fewer pages than VMs hold (err: REASON_STALE says how many). */
int memory_pages_verify(const struct memory_host *h, int node, int64_t page_bytes, struct err *err);

/* ---- figures ---- */
struct memory_pool {
        int64_t page_bytes, total, free, surplus; /* in pages */
};
struct memory_node {
        int64_t total_bytes, free_bytes;
        size_t n;
        struct memory_pool pools[MEMORY_SIZES];
};
int memory_node_read(const struct memory_host *h, int node, struct memory_node *ret, struct err *err);

/* ---- the bound ----
 * A fence, not an account: it stops a VMM that went wild (a leak, a hostile guest that found a way to make it
 * allocate), as its end is better than that of its neighbours. So it is the RAM and a generous allowance:
 * 256 MiB for QEMU itself, its devices and threads; 1/64 of the RAM for page tables, the hypervisor's own and
 * bitmaps of a migration; 16 MiB for each vCPU; under TCG 1 GiB more, which is what its cache of translated
 * code may grow to. Pages of hugetlbfs are not counted by the kernel, which makes the fence wider, never too
 * narrow. */
int64_t memory_limit_bytes(int64_t ram_bytes, int n_vcpus, bool is_tcg);
/* vm NULL: all VMs together (see confine.h). Rounded up to whole pages. Makes the group. Idempotent. */
int memory_limit_set(const struct memory_host *h, const char *vm, int64_t bytes, struct err *err);
int memory_limit_enter(const struct memory_host *h, const char *vm, pid_t pid, struct err *err);
/* Removes the group; vm NULL: takes the bound off. -EBUSY: something still runs there. */
int memory_limit_lift(const struct memory_host *h, const char *vm, struct err *err);
/* What is charged to one VM, and its bound, are another's (confine_pass()). */
int memory_limit_pass(const struct memory_host *h, const char *vm, const char *to, pid_t pid,
                      struct err *err);
/* ret_limit: -1 where there is none. */
int memory_limit_read(const struct memory_host *h, const char *vm, int64_t *ret_used, int64_t *ret_limit,
                      struct err *err);
/* 1: changed behind our back. pid 0: nobody has to be in it. */
int memory_limit_verify(const struct memory_host *h, const char *vm, int64_t bytes, pid_t pid,
                        struct err *err);

/* ---- where it lies ---- */
struct memory_map {
        int64_t bytes[MEMORY_NODES]; /* touched, by node */
        int64_t total_bytes;
        size_t n_areas, n_bound;    /* mappings of the file; those under policy "bind" */
        struct cpulist bound_nodes; /* which any of them is bound to */
};
/* Of /proc/PID/numa_maps: the mappings of a file, or of all below a folder (a path that ends in a slash). The
 * process is hostile: whatever it maps, this answers in bounds, and only lines that name the file count. */
int memory_map_read(const struct memory_host *h, pid_t pid, const char *file, struct memory_map *ret,
                    struct err *err);
int memory_map_parse(FILE *f, const char *file, struct memory_map *ret, struct err *err);
/* 0: bound to these nodes only, and nothing lies elsewhere. 1: not so; err (REASON_STALE) says what. */
int memory_map_verify(const struct memory_map *m, const struct cpulist *nodes, struct err *err);

/* ---- where it shall lie ---- */

struct memory_place {
        const struct cpulist *nodes;
        int64_t begin, end;    /* of the file: what is to lie there. Whole pages; end 0: all behind begin */
        int64_t offset, bytes; /* the piece of it */
        int64_t move_bytes;    /* the piece ends where so much of it is to be moved; 0: it does not */
        bool is_look;          /* nothing is changed */
};
struct memory_placed {
        int64_t next_offset; /* where the next piece begins; the end of the part: there is none */
        int64_t file_bytes, moved_bytes, left_bytes;
        int64_t there_bytes; /* what lay there already */
};
/* A piece of a file of tmpfs, at `offset` or where its next data is, comes to lie on these nodes alone (5.9),
 * whoever has it mapped and runs on it; new pages of the part come from them, from its first piece on. Holes
 * stay holes. All threads of this process that map anything wait meanwhile. fd: to be read, no other has its
 * offset. That the nodes have room is the caller's to know: where the kernel finds no page on them it ends
 * processes. Needs CAP_SYS_NICE: else REASON_DENIED. REASON_UNSUPPORTED: it is of hugetlbfs, or the kernel
 * has no nodes or cannot populate a mapping. What could not be moved is left, which is no error. The file is
 * hostile: however it is cut off or filled meanwhile, this ends, and counts what it found. *ret is untouched
 * on failure, also where some of it was moved. */
int memory_place(int fd, const struct memory_place *what, struct memory_placed *ret, struct err *err);
