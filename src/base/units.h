/* SPDX-License-Identifier: Apache-2.0 */
/* base/units.h - amounts with units, as people write them.
 *
 * Sizes: 512M, 4G, 1.5G, 128MiB, 4096 (K M G T are powers of 1024, as QEMU and the kernel take them).
 * Rates: 200M, 1.5G, 200Mbit/s (bits a second; K M G T are powers of 1000). Shares: 0.9 -> 900 thousandths.
 * Frequencies: 3GHz, 2400MHz. Durations: 250ms, 30s, 2m, 1h, 1d. All refuse signs, blanks, trailing text and
 * anything above 2^53-1. */
#pragma once
#include <stdint.h>
#include "base/err.h"

#define UNITS_MAX ((int64_t)1 << 53) /* amounts stay below it: JSON numbers are doubles to many readers */

int units_parse_bytes(const char *text, int64_t *ret_bytes, struct err *err);
int units_parse_rate(const char *text, int64_t *ret_bps, struct err *err);
int units_parse_milli(const char *text, int64_t *ret_milli, struct err *err); /* at most three decimals */
int units_parse_ms(const char *text, int64_t *ret_ms, struct err *err);
int units_parse_count(const char *text, int64_t *ret_count, struct err *err);

enum { UNITS_TEXT = 32 };
/* Exact and parseable: 1536M, not 1.5G; 4096 where no larger unit divides it. Returns buf. */
const char *units_print_bytes(int64_t bytes, char buf[UNITS_TEXT]);
const char *units_print_rate(int64_t bps, char buf[UNITS_TEXT]);    /* "200M": likewise, of 1000 */
const char *units_print_ms(int64_t ms, char buf[UNITS_TEXT]);       /* "25h", "1500ms": likewise */
const char *units_print_milli(int64_t milli, char buf[UNITS_TEXT]); /* 900 -> "0.9" */
