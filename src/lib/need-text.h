/* SPDX-License-Identifier: Apache-2.0 */
/* lib/need-text.h - needs between their text form and the wire, by syntax alone.
 *
 * The guest's side must not decide what a host supports: a kind or parameter that this version has never
 * heard of goes to the host as it stands, and the host says "unsupported". Known ones are read by the same
 * table as the host's (core/need.h), so that the value is identical after unit normalisation (1.4). */
#pragma once
#include "base/err.h"
#include "core/need.h"
#include "json/api.h"

/* Unknown kinds: the amount is read as bytes with an optional K M G T. Unknown parameters: a plain number is
 * a value, anything else a word. Malformed: REASON_INVALID. *ret is untouched on failure. */
int need_text_parse(const char *text, struct api_need *ret, struct err *err);
/* Always terminated. A need that parses gives the same need back; one that is too long for the buffer (it
 * came from a peer) is cut. Returns buf. */
const char *need_text_print(const struct api_need *need, char buf[NEED_TEXT]);
