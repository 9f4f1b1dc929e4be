/* SPDX-License-Identifier: Apache-2.0 */
/* cli/table.h - columns for people: collects rows, then prints each column as wide as its widest cell. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { TABLE_COLUMNS_MAX = 12 };

struct table;

/* Titles end with NULL; one that starts with '>' stands to the right (numbers). NULL: no memory. */
struct table *table_new(const char *const *titles);
void table_free(struct table *t);

/* Cells are filled from left to right; a full row begins the next one. Text is copied; control characters
 * become
 * '?', so that nothing a guest has said can steer the terminal. NULL and "" print as "-". */
void table_text(struct table *t, const char *text);
void table_number(struct table *t, int64_t number);
void table_bytes(struct table *t, int64_t bytes);
/* An amount in the unit of its component, an id: bytes as 512M, thousandths of a CPU as 0.9. */
void table_amount(struct table *t, const char *component, int64_t amount);
/* 2026-11-21 03:15:16 in local time; 0 prints as "-". */
void table_time(struct table *t, int64_t ms);

/* Prints titles and rows; where there are no rows, "none" instead. */
void table_print(const struct table *t, FILE *out, const char *none);
