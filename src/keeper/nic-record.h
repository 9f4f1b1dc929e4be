/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/nic-record.h - what is activated of a VM's network card: which tap is its own, and which item
 * guarantees how much. One small file each, written before anything acts and removed after everything is
 * gone, so that a keeper that comes after a crash can go on from there. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "host/cpu.h"
#include "host/net.h"

enum { NIC_ITEMS_MAX = 64 };

struct nic_record {
        char vm[64];
        unsigned tap; /* number of "mete-N" */
        size_t n_items;
        struct {
                char name[CPU_ITEM_SIZE];
                struct net_rate rate; /* ceiling_bps 0: the link's rate */
        } items[NIC_ITEMS_MAX];
};

/* REASON_NOT_FOUND: there is none. */
int nic_record_read(int dir_fd, const char *vm, struct nic_record *ret, struct err *err);
int nic_record_write(int dir_fd, const struct nic_record *r, struct err *err);
/* 0 also where there is none. */
int nic_record_remove(int dir_fd, const char *vm, struct err *err);
int nic_record_parse(const char *text, size_t n, struct nic_record *ret, struct err *err);
/* Calls fn with each that can be read; returns how many cannot, and one where it is not known. */
unsigned nic_records_each(int dir_fd, void (*fn)(const struct nic_record *r, void *arg), void *arg);

/* REASON_BUSY: it has too many. */
int nic_record_set(struct nic_record *r, const char *item, const struct net_rate *rate, struct err *err);
bool nic_record_has(const struct nic_record *r, const char *item, uint64_t *ret_rate_bps);
void nic_record_take_out(struct nic_record *r, const char *item);
/* Of all its items: their guarantees together, and the lowest of their ceilings. */
struct net_rate nic_record_rate(const struct nic_record *r);
