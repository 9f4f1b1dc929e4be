/* SPDX-License-Identifier: Apache-2.0 */
/* json/route.h - which route of a contract an HTTP request means. */
#pragma once
#include <stddef.h>
#include "base/err.h"
#include "json/api.h"

enum { ROUTE_PART = 64 };

/* path has no query. The part in braces, its escapes undone and checked as a name or an id, goes to part; ""
 * where the route has none. NULL with *err: REASON_NOT_FOUND, code ENOENT (no such path, HTTP 404);
 * REASON_INVALID, code ENOTSUP (the path is there, but not for this method; HTTP 405, the sentence lists
 * those that it has) or EINVAL (what stands for {name} is no name; HTTP 400). */
const struct api_route *route_find(const struct api_route *routes, size_t n, const char *method,
                                   const char *path, char part[ROUTE_PART], struct err *err);
