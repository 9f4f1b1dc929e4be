/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/learnt.h - what moves to a peer cost (core/learn.h), as the store keeps it: a document for each peer.
 */
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "core/learn.h"

/* Owned by the caller. NULL: nothing was learnt of that peer, so there is to be no document. */
json_t *learnt_emit(const struct learn *l, const char *peer);
/* Into the table. A document that is not whole is refused as invalid, and nothing of it is taken; a figure
 * out of bounds is left out. */
int learnt_parse(struct learn *l, const char *peer, const json_t *document, struct err *err);
