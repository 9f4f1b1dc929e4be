/* SPDX-License-Identifier: Apache-2.0 */
/* wire/message.h - one JSON-RPC 2.0 message: from a line, to a line. Pure over jansson. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>
#include "base/err.h"

enum rpc_code {
        RPC_UNREADABLE = -32700,
        RPC_NOT_A_REQUEST = -32600,
        RPC_UNKNOWN_METHOD = -32601,
        RPC_WRONG_PARAMS = -32602,
        RPC_REFUSED = -32000,
};

enum { RPC_METHOD_MAX = 63, RPC_ID_MAX = 63 };

enum rpc_id_kind { RPC_ID_NULL = 1, RPC_ID_NUMBER, RPC_ID_TEXT };

struct rpc_id {
        enum rpc_id_kind kind;
        int64_t number; /* |number| < 2^53 */
        char text[RPC_ID_MAX + 1];
};

enum rpc_message_kind {
        RPC_MESSAGE_BAD = 1, /* neither; *err says why, id is the peer's if it could be told */
        RPC_MESSAGE_REQUEST,
        RPC_MESSAGE_NOTIFICATION,
        RPC_MESSAGE_RESULT,
        RPC_MESSAGE_ERROR,
};

struct rpc_message {
        enum rpc_message_kind kind;
        int code; /* BAD: what to answer with, RPC_UNREADABLE and so on */
        struct rpc_id id;
        const char *method; /* REQUEST, NOTIFICATION; borrowed from root */
        json_t *params;     /* REQUEST, NOTIFICATION: an object; NULL where the peer sent none */
        json_t *result;     /* RESULT; borrowed */
        struct err error;   /* ERROR: what the peer said. BAD: what is wrong with it */
        int64_t fds;        /* member "fds": so many descriptors came with it */
        json_t *root;       /* owned */
};

/* Always fills *ret, which rpc_message_done() gives back; BAD is an outcome like the others. An envelope has
 * no other members than jsonrpc, id, method, params, result, error and fds. */
void rpc_message_parse(const char *text, size_t n, struct rpc_message *ret);
void rpc_message_done(struct rpc_message *m); /* idempotent */

/* Each takes its json_t (also on failure) and returns a malloc'ed line without '\n', or NULL: no memory, or a
 * value that has no JSON text. fds 0: the member is left out. */
char *rpc_message_request(const struct rpc_id *id, const char *method, json_t *params, int64_t fds,
                          size_t *ret_n);
char *rpc_message_result(const struct rpc_id *id, json_t *result, int64_t fds, size_t *ret_n);
char *rpc_message_error(const struct rpc_id *id, int code, const struct err *error, size_t *ret_n);

/* The errno that an error from a peer gets, which sends only the reason. */
int rpc_reason_errno(enum reason reason);
