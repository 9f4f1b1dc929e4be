/* SPDX-License-Identifier: Apache-2.0 */
/* cli/host-http.h - meted's API over its Unix socket, as far as the command line needs it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

/* 0: *ret_status and *ret_text (owned, NUL-terminated) are the answer, whatever its status. Negative: meted
 * cannot be reached, or did not answer in time; *err says which socket. */
int host_http_call(const char *socket, const char *method, const char *path, const char *body, int timeout_ms,
                   int *ret_status, char **ret_text, size_t *ret_n, struct err *err);
/* Server-sent events, line by line without line ends, until the server closes (0) or on_line returns false
 * (0). */
int host_http_stream(const char *socket, const char *path,
                     bool (*on_line)(void *arg, const char *line, size_t n), void *arg, struct err *err);
