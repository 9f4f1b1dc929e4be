/* SPDX-License-Identifier: Apache-2.0 */
/* core/place.h - which components meet a need. */
#pragma once
#include "core/component.h"
#include "core/ledger.h"
#include "core/need.h"
struct placement {
        size_t n;
        struct {
                uint32_t component;
                int64_t amount;
        } item[72];
        int64_t amount_met;
};
int place_need(const struct ledger *l, const struct component *components, size_t n, const struct need *need,
               int64_t default_share_milli, int64_t unit_bytes, int64_t start_ms, int64_t end_ms,
               struct placement *ret, struct err *err);
int64_t place_limit(const struct component *components, size_t n, const struct need *need,
                    int64_t default_share_milli, int64_t unit_bytes);
