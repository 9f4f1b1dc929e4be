/* SPDX-License-Identifier: Apache-2.0 */
/* agent/channel.h - the way to the host: opened, greeted, synchronised, and again after every interruption.
 *
 * The port is a virtio-serial character device, or unix:PATH in tests. While nobody listens on the host's
 * side it reads as ended and polls as hung up, for as long as that lasts; so it is looked at every now and
 * then, with a wait that grows, and not kept in the loop. */
#pragma once
#include <stdbool.h>
#include "core/component.h"
#include "json/api.h"
#include "wire/rpc.h"

struct channel;

struct channel_owner {
        void (*fill_hello)(void *arg, struct api_guest_hello *hello);
        void (*fill_sync)(void *arg, struct api_guest_sync *sync);
        void (*on_synced)(void *arg, const struct api_guest_synced *synced); /* then it is ready */
        void (*on_lost)(void *arg, const struct err *err);                   /* was ready, is no more */
        void (*on_request)(void *arg, struct rpc_call *call, enum api_guest_method method,
                           const json_t *params);
        void (*on_ended)(void *arg, const struct api_guest_ended *ended);
};

struct channel *channel_new(const char *port, const struct channel_owner *owner, void *arg);
void channel_free(struct channel *c); /* calls that wait are answered with REASON_CANCELLED */

bool channel_is_ready(const struct channel *c);
const char *channel_vm(const struct channel *c); /* "" until the host has said it */
bool channel_has_hhi(const struct channel *c);   /* the host tells of its hardware, who asks it to */
/* CPUs, or bytes of memory, that this VM may have at most; 0: the host has not said. */
int64_t channel_limit(const struct channel *c, enum component_kind kind);
const char *channel_problem(const struct channel *c); /* why it is not ready */
/* As rpc_call(). REASON_PEER_LOST where it is not ready. */
int channel_call(struct channel *c, enum api_guest_method method, json_t *params, int64_t timeout_ms,
                 rpc_done_fn *cb, void *arg, struct err *err);
/* Inside a rpc_done_fn: whether this answer is none, because the connection ended. */
bool channel_is_lost(const struct channel *c);
