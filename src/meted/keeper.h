/* SPDX-License-Identifier: Apache-2.0 */
/* meted/keeper.h - meted's connection to mete-keeper.
 *
 * The keeper may go and come back at any time: calls wait for it until their deadline, and a call whose
 * answer was lost is sent again. So every verb must bear being repeated; vmm-start answers busy then, which
 * its caller reads with vmm-list. Each call is answered exactly once, from the loop. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "base/err.h"
#include "json/api.h"
#include "wire/rpc.h"

struct keeper;
typedef void keeper_done(void *arg, const json_t *result, const struct err *err);

struct keeper *keeper_new(const char *socket_path, void (*on_change)(void *arg, bool connected), void *arg);
void keeper_free(struct keeper *k); /* unanswered calls are answered as cancelled */
/* What it said in its greeting; NULL while it is away. */
const struct api_keeper_info *keeper_info(const struct keeper *k);
/* Takes params. The descriptors are duplicated, the caller keeps its own. */
void keeper_call(struct keeper *k, enum api_keeper_method method, json_t *params, const int *fds,
                 size_t n_fds, int timeout_ms, keeper_done *done, void *arg);
/* What was called with this argument is carried out, and nobody is told. */
void keeper_forget(struct keeper *k, const void *arg);
/* Likewise, but what was not sent yet, as the keeper is away, is not asked for any more. */
void keeper_withdraw(struct keeper *k, enum api_keeper_method method, const void *arg);
/* The descriptors that came with an answer; only inside its done. */
int keeper_take_fds(struct keeper *k, int *ret_fds, size_t n, struct err *err);
/* Of all connections to it. */
struct rpc_counters keeper_counters(const struct keeper *k);
