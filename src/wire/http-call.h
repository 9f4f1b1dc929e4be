/* SPDX-License-Identifier: Apache-2.0 */
/* wire/http-call.h - HTTP requests by TLS to other daemons, in the loop thread; connections are kept alive
 * between them. Who answers is a peer: what it sends is bounded, and it may answer late, wrongly or never. */
#pragma once
#include <stdint.h>
#include "base/err.h"
#include "wire/cert.h"
#include "wire/http-client.h"

enum { HTTP_CALL_ANSWER_MAX = 1 << 20 };

struct http_calls; /* all of them, and their connections */
struct http_call;

/* answer: borrowed, NULL where err says why there is none (reasons as of http_client_do()). peer: whose
 * certificate it was, where a connection was made for this; NULL where it was there already. Called once,
 * from the loop; may start and cancel calls, and free the calls. Not after http_call_cancel(). */
typedef void http_call_done_fn(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                               const struct err *err);

struct http_calls *http_calls_new(struct err *err);
void http_calls_free(struct http_calls *c); /* NULL-safe; cancels all */

/* may_send is asked of each call just before its request goes out, also where it has waited for a connection
 * until then: false: it is not sent, and ends with REASON_STALE. */
void http_calls_check(struct http_calls *c, bool (*may_send)(void *arg), void *arg);

/* Everything is copied, but not to->files, which must live as long as c. body NULL: none. timeout_ms bounds
 * all of it. NULL: no memory; done is not called. */
struct http_call *http_call(struct http_calls *c, const struct http_target *to, const char *method,
                            const char *path, const char *body, size_t body_n, int64_t timeout_ms,
                            http_call_done_fn *done, void *arg, struct err *err);
void http_call_cancel(struct http_call *call);
