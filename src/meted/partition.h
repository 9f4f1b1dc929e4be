/* SPDX-License-Identifier: Apache-2.0 */
/* meted/partition.h - under a service processor ([server] managed=yes) a hypervisor has that part of the
 * machine that it was given (5.1, 5.4). What it was given last is in its store, with the epoch, so that it
 * starts with that where mete-sp is away; before it was given any it has nothing. */
#pragma once
#include <jansson.h>
#include "json/api.h"
#include "meted/meted.h"

struct http_request;

/* For meted_load(): what of the inventory may be given away, from the store. Not managed: 0, as configured.
 */
int partition_load(struct meted *m, struct err *err);
void partition_done(struct meted *m);
json_t *partition_view(const struct meted *m);
void partition_set(struct meted *m, struct http_request *req, const json_t *body);
/* A VM does not move by copy to a hypervisor of the same server (S.6). `body` is not checked yet.
 * REASON_POLICY. */
int partition_check_move(const struct meted *m, const char *vm, const json_t *body, struct err *err);
/* Why it has nothing to give away yet, or NULL. */
const char *partition_lacks(const struct meted *m);
