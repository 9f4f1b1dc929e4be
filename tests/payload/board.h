/* SPDX-License-Identifier: Apache-2.0 */
/* board.h - what the payload says of itself, in memory, where whoever has the guest's RAM file can watch it.
 *
 * At BOARD_ADDRESS of the guest's memory, and as that is below 2 GiB, at the same offset of the file behind
 * it. All values are little-endian 32-bit words, each written by one vCPU alone: counts wrap around. One is
 * for the host to write: `work`. Read and written by tests/lib/payload.py. */
#pragma once
#include <stdint.h>

enum {
        BOARD_ADDRESS = 0x200000,
        BOARD_MAGIC = 0x4554454d, /* "METE" */
        BOARD_VERSION = 1,
        BOARD_CPUS_MAX = 64,
};

/* A cache line each, so that vCPUs do not slow each other down. */
struct board_cpu {
        uint32_t is_on;
        uint32_t rounds; /* of work done; a round is always the same number of instructions */
        uint32_t starts; /* how often it came up: 1, unless it was reset */
        uint32_t unused[13];
};

struct board {
        uint32_t magic; /* written last */
        uint32_t version;
        uint32_t cpus_max;   /* slots, on or not */
        uint32_t cpus;       /* that are on */
        uint32_t ms;         /* since the payload began, by its own clock, as of vCPU 0's last look */
        uint32_t tsc_khz;    /* what that clock is made of */
        uint32_t area_first; /* memory that is dirtied: address and length */
        uint32_t area_bytes;
        uint32_t dirtied_pages; /* written so far, one word of each */
        uint32_t passes;        /* over the whole area; the word written is the pass that wrote it, from 1 */
        uint32_t work;          /* vCPUs 0 to work - 1 work, the others sleep: the host may change it */
        uint32_t wrong_pages;   /* that were not as the pass before had left them */
        uint32_t unused[4];
        struct board_cpu cpu[BOARD_CPUS_MAX]; /* by APIC id, which is the vCPU's slot */
};

_Static_assert(sizeof(struct board_cpu) == 64, "a cache line");
_Static_assert(sizeof(struct board) == 64 + 64 * BOARD_CPUS_MAX, "tests/lib/payload.py reads it so");
