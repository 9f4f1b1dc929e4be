/* SPDX-License-Identifier: Apache-2.0 */
/* vm/argv.h - the command line of a VMM, from its definition.
 *
 * Everything is explicit: no default devices, no configuration files, fixed PCI slots. The VMM starts with
 * its vCPUs stopped; vm_cont() lets them run once they have been placed. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "vm/definition.h"

/* Descriptors that go along, in this order; the first is number `first_fd` in the VMM. All are from
 * vm_listen() but the last, which is from vm_console_open(). */
enum vm_fd { VM_FD_QMP, VM_FD_OOB, VM_FD_GUARD, VM_FD_AGENT, VM_FD_CONSOLE, VM_FD_CONSOLE_LOG, VM_FD_N };

enum { VM_ARGV_MAX = 128, VM_ARGV_TEXT = 512 };

struct vm_argv {
        char *args[VM_ARGV_MAX + 1]; /* owned; ends in NULL */
        size_t n;
        int64_t memory_bytes; /* most bytes of RAM files that it may ever have */
        int64_t huge_bytes;   /* so many of them on huge pages */
};

struct vm_argv_options {
        const char *image_dir; /* of kernel, initrd and disk */
        const char *ram_dir;   /* "@RAM@" where the keeper puts it in */
        const char *huge_dir;  /* likewise, where its base memory is of huge pages: on their hugetlbfs */
        const char
                *tap; /* number of the descriptor of its tap, or "@TAP@" likewise; where it has a network */
        int first_fd; /* 3 where the keeper starts it */
        const uint32_t *host_nodes; /* NUMA nodes of the host to which base memory is bound */
        size_t n_host_nodes;        /* 0: it lies anywhere */
        bool is_incoming; /* it waits for a VM that runs elsewhere (vm/copy.h), instead of beginning anew */
        bool is_sharing;  /* likewise, and its RAM files are those of a VMM that runs (vm/transfer.h): none is
                             touched before */
};

/* Commas in values are doubled, as QEMU wants it. */
int vm_argv_make(const struct api_vm_definition *d, const struct vm_argv_options *o, struct vm_argv *ret,
                 struct err *err);
void vm_argv_done(struct vm_argv *a); /* idempotent */
