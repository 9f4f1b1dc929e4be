/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/message.h"

#include <errno.h>
#include <string.h>

#include "base/str.h"
#include "base/units.h"
#include "json/read.h"

int rpc_reason_errno(enum reason reason)
{
        static const int numbers[REASON_N] = {
                [0] = EIO,
                [REASON_INVALID] = EINVAL,
                [REASON_NOT_FOUND] = ENOENT,
                [REASON_DENIED] = EACCES,
                [REASON_UNSUPPORTED] = EOPNOTSUPP,
                [REASON_NO_CAPACITY] = ENOSPC,
                [REASON_NO_OFFERS] = ENOSPC,
                [REASON_COST] = EDQUOT,
                [REASON_STALE] = ESTALE,
                [REASON_BUSY] = EBUSY,
                [REASON_TIMEOUT] = ETIMEDOUT,
                [REASON_CANCELLED] = ECANCELED,
                [REASON_POLICY] = EPERM,
                [REASON_INCOMPATIBLE] = EPROTONOSUPPORT,
                [REASON_PEER_LOST] = ECONNRESET,
                [REASON_UNREASSIGNABLE] = EPERM,
                [REASON_INTERNAL] = EIO,
        };
        return (unsigned)reason < REASON_N ? numbers[reason] : EIO;
}

/* A peer's words go into our log and to people: one line, cut where it is too long, never in the middle of a
 * character. */
static void copy_sentence(char *dst, size_t size, const char *src)
{
        size_t n = strlen(src);
        if (n >= size) {
                n = size - 1;
                while (n > 0 && ((unsigned char)src[n] & 0xc0) == 0x80)
                        n--;
        }
        for (size_t i = 0; i < n; i++)
                dst[i] = (unsigned char)src[i] < 0x20 || src[i] == 0x7f ? '?' : src[i];
        dst[n] = '\0';
}

static bool bad(struct rpc_message *m, int code, const char *sentence)
{
        m->kind = RPC_MESSAGE_BAD;
        m->code = code;
        m->error = (struct err){.reason = REASON_INVALID, .code = EPROTO};
        (void)STR_COPY(m->error.sentence, sentence);
        return false;
}

static bool id_parse(const json_t *v, struct rpc_id *ret)
{
        if (json_is_integer(v)) {
                int64_t number = json_integer_value(v);
                if (number <= -UNITS_MAX || number >= UNITS_MAX)
                        return false;
                *ret = (struct rpc_id){.kind = RPC_ID_NUMBER, .number = number};
                return true;
        }
        if (json_is_string(v)) {
                struct rpc_id id = {.kind = RPC_ID_TEXT};
                if (json_string_length(v) != strlen(json_string_value(v)) ||
                    !STR_COPY(id.text, json_string_value(v)))
                        return false;
                *ret = id;
                return true;
        }
        return false;
}

/* {"code":n,"message":"...","data":{"reason":"busy"}}; a peer without our data gets a reason from its code.
 */
static bool error_parse(const json_t *v, struct rpc_message *m)
{
        const json_t *code = json_object_get(v, "code"), *message = json_object_get(v, "message");
        if (!json_is_integer(code) || !json_is_string(message))
                return bad(m, RPC_NOT_A_REQUEST, "error: an object with code and message is expected");
        const char *word = json_string_value(json_object_get(json_object_get(v, "data"), "reason"));
        enum reason reason = word ? reason_from_name(word) : 0;
        if (!reason) {
                json_int_t c = json_integer_value(code);
                reason = c == RPC_UNKNOWN_METHOD ? REASON_UNSUPPORTED
                         : c == RPC_UNREADABLE || c == RPC_NOT_A_REQUEST || c == RPC_WRONG_PARAMS
                                 ? REASON_INVALID
                                 : REASON_INTERNAL;
        }
        m->kind = RPC_MESSAGE_ERROR;
        m->error = (struct err){.reason = reason, .code = rpc_reason_errno(reason)};
        copy_sentence(m->error.sentence, sizeof(m->error.sentence), json_string_value(message));
        return true;
}

static bool members_parse(struct rpc_message *m)
{
        static const char *const known[] = {"jsonrpc", "id", "method", "params", "result", "error", "fds"};
        const char *key;
        json_t *value;
        json_object_foreach(m->root, key, value)
        {
                size_t i = 0;
                while (i < ARRAY_N(known) && strcmp(known[i], key) != 0)
                        i++;
                if (i == ARRAY_N(known))
                        return bad(m, RPC_NOT_A_REQUEST,
                                   "unknown member beside jsonrpc, id, method, params, result, error");
        }
        const char *version = json_string_value(json_object_get(m->root, "jsonrpc"));
        if (!version || strcmp(version, "2.0") != 0)
                return bad(m, RPC_NOT_A_REQUEST, "jsonrpc: must be \"2.0\"");
        const json_t *fds = json_object_get(m->root, "fds");
        if (fds && (!json_is_integer(fds) || json_integer_value(fds) < 0 || json_integer_value(fds) > 253))
                return bad(m, RPC_NOT_A_REQUEST, "fds: must be a number of descriptors");
        m->fds = json_integer_value(fds);
        return true;
}

static bool request_parse(struct rpc_message *m, const json_t *method, bool has_id)
{
        if (json_object_get(m->root, "result") || json_object_get(m->root, "error"))
                return bad(m, RPC_NOT_A_REQUEST, "method stands beside result or error");
        size_t n = json_string_length(method);
        if (!json_is_string(method) || n == 0 || n > RPC_METHOD_MAX || n != strlen(json_string_value(method)))
                return bad(m, RPC_NOT_A_REQUEST, "method: must be a word of 1 to 63 characters");
        json_t *params = json_object_get(m->root, "params");
        if (params && !json_is_object(params))
                return bad(m, RPC_WRONG_PARAMS, "params: must be an object");
        m->kind = has_id ? RPC_MESSAGE_REQUEST : RPC_MESSAGE_NOTIFICATION;
        m->method = json_string_value(method);
        m->params = params;
        return true;
}

static bool answer_parse(struct rpc_message *m)
{
        m->result = json_object_get(m->root, "result");
        const json_t *error = json_object_get(m->root, "error");
        if (json_object_get(m->root, "params") || !m->result == !error)
                return bad(m, RPC_NOT_A_REQUEST, "either method, or one of result and error is expected");
        m->kind = RPC_MESSAGE_RESULT;
        return error ? error_parse(error, m) : true;
}

static void parse_root(struct rpc_message *m)
{
        if (json_is_array(m->root)) {
                (void)bad(m, RPC_NOT_A_REQUEST, "batches are not served: send one object a line");
                return;
        }
        if (!json_is_object(m->root)) {
                (void)bad(m, RPC_NOT_A_REQUEST, "an object is expected");
                return;
        }
        const json_t *id = json_object_get(m->root, "id"), *method = json_object_get(m->root, "method");
        bool id_is_good = id && id_parse(id, &m->id);
        if (!members_parse(m))
                return;
        /* null is an id only where an error answers something that had no readable id. */
        if (id && !id_is_good && !(json_is_null(id) && !method)) {
                (void)bad(m, RPC_NOT_A_REQUEST, "id: must be an integer below 2^53 or at most 63 characters");
                return;
        }
        if (method) {
                (void)request_parse(m, method, id != NULL);
        } else if (!id) {
                (void)bad(m, RPC_NOT_A_REQUEST, "method or id is missing");
        } else {
                (void)answer_parse(m);
        }
}

void rpc_message_parse(const char *text, size_t n, struct rpc_message *ret)
{
        struct err why;
        *ret = (struct rpc_message){.kind = RPC_MESSAGE_BAD, .id.kind = RPC_ID_NULL};
        ret->root = json_read(text, n, &why);
        if (!ret->root) {
                (void)bad(ret, RPC_UNREADABLE, "");
                copy_sentence(ret->error.sentence, sizeof(ret->error.sentence), why.sentence);
                return;
        }
        parse_root(ret);
}

void rpc_message_done(struct rpc_message *m)
{
        json_decref(m->root);
        *m = (struct rpc_message){.kind = RPC_MESSAGE_BAD, .id.kind = RPC_ID_NULL};
}

static json_t *id_emit(const struct rpc_id *id)
{
        switch (id->kind) {
        case RPC_ID_NUMBER:
                return json_integer(id->number);
        case RPC_ID_TEXT:
                return json_string(id->text);
        case RPC_ID_NULL:
                break;
        }
        return json_null();
}

/* The members are set one by one, without a format string: json_pack would scan it for every message. */
static char *write_line(json_t *root, bool is_whole, int64_t fds, size_t *ret_n)
{
        if (fds > 0 && json_object_set_new(root, "fds", json_integer(fds)) < 0)
                is_whole = false;
        char *text = is_whole ? json_write(root, ret_n) : NULL;
        json_decref(root);
        return text;
}

static json_t *envelope(const struct rpc_id *id, bool *ret_is_whole)
{
        json_t *root = json_object();
        *ret_is_whole = root &&
                        json_object_set_new_nocheck(root, "jsonrpc", json_string_nocheck("2.0")) == 0 &&
                        (!id || json_object_set_new_nocheck(root, "id", id_emit(id)) == 0);
        return root;
}

char *rpc_message_request(const struct rpc_id *id, const char *method, json_t *params, int64_t fds,
                          size_t *ret_n)
{
        bool is_whole;
        json_t *root = envelope(id, &is_whole);
        is_whole &= json_object_set_new(root, "method", json_string(method)) == 0;
        is_whole &= json_object_set_new(root, "params", params ? params : json_object()) == 0;
        return write_line(root, is_whole, fds, ret_n);
}

char *rpc_message_result(const struct rpc_id *id, json_t *result, int64_t fds, size_t *ret_n)
{
        bool is_whole;
        json_t *root = envelope(id, &is_whole);
        is_whole &= json_object_set_new(root, "result", result ? result : json_object()) == 0;
        return write_line(root, is_whole, fds, ret_n);
}

char *rpc_message_error(const struct rpc_id *id, int code, const struct err *error, size_t *ret_n)
{
        bool is_whole;
        json_t *root = envelope(id, &is_whole), *body = json_object(), *data = json_object();
        char sentence[sizeof(error->sentence)];
        copy_sentence(sentence, sizeof(sentence), error->sentence);
        json_t *message = json_string(sentence);
        if (!message) { /* it holds a peer's bytes, in another encoding or cut within a character */
                for (char *c = sentence; *c; c++)
                        if ((unsigned char)*c >= 0x80)
                                *c = '?';
                message = json_string(sentence);
        }
        is_whole &= json_object_set_new(body, "code", json_integer(code)) == 0;
        is_whole &= json_object_set_new(body, "message", message) == 0;
        is_whole &= json_object_set_new(data, "reason", json_string(reason_name(error->reason))) == 0;
        is_whole &= json_object_set_new(body, "data", data) == 0;
        is_whole &= json_object_set_new(root, "error", body) == 0;
        return write_line(root, is_whole, 0, ret_n);
}
