/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/flow.h - what a move was reserved of the link, held for its stream alone: a class of the uplink for
 * each VM that is being moved, and the socket of the stream marked with it.
 *
 * A class is a purpose of host/net.h, whose number is in the record: as that of a network card, with its
 * tap's number in place of the purpose less FLOW_PURPOSE_FIRST. So a keeper that starts again knows them, and
 * counts them with what is guaranteed; those of VMs that do not run any more are swept.
 *
 * Any thread; one at a time gets through, with those of keeper/nic.h. */
#pragma once
#include <stdbool.h>
#include "base/err.h"
#include "keeper/nic.h"
#include "keeper/nic-record.h"

enum { FLOW_PURPOSE_FIRST = 2 };

/* 1: held. 0: there is no uplink that is managed, so nothing guarantees it; *ret_lacking says why. fd: the
 * socket, borrowed; -1: it is marked already, only the rate is another one, and REASON_NOT_FOUND where there
 * is no class. On failure what was held before is. */
int flow_hold(struct nics *n, const char *vm, const struct net_rate *rate, int fd,
              char ret_lacking[NET_SENTENCE], struct err *err);
/* 1: it is gone, and *ret_sent_bytes went through it. 0: there was none. */
int flow_drop(struct nics *n, const char *vm, uint64_t *ret_sent_bytes, struct err *err);
bool flow_is_held(struct nics *n, const char *vm);
/* Those whose VM runs no more. */
void flows_sweep(struct nics *n, bool (*is_running)(const char *vm, void *arg), void *arg);

/* Shared with nic.c; under its lock. */
void flows_make_again(struct nics *n);
/* Enough to look at what there is, and to remove it. */
int nics_find_host(struct nics *n, struct err *err);
int nics_begin(struct nics *n, struct err *err);
/* dir_fd: where r's own record is, which does not count. */
int nics_check_room(const struct nics *n, const struct nic_record *r, int dir_fd, struct err *err);
