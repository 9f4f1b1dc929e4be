/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/handover-wire.h - the words of core/handover.h as api/handover.json has them. What goes along with a
 * word (guest, transfer) is the driver's. */
#pragma once
#include "core/handover.h"
#include "json/api.h"

/* Everything else in *ret is zeroed. It is large: not for the stack. */
void handover_wire_fill(const struct handover_message *said, const char *vm,
                        struct api_handover_message *ret);
/* From one that was parsed; `to` follows from what is said. A word that lacks what the contract says must go
 * along: REASON_INVALID. */
int handover_wire_take(const struct api_handover_message *in, struct handover_message *ret, struct err *err);
