/* SPDX-License-Identifier: Apache-2.0 */
/* host/resctrl-book.h - what resctrl.c has to remember of a machine: the default group's schemata as it was
 * before the first VM was given something, and what each VM has. One file, RESCTRL_BOOK in the state
 * directory:
 *
 *     default L3:0=fff;1=fff
 *     ways VM 0=f00;1=f00
 *     membw VM 0=30 */
#pragma once
#include "host/resctrl-schemata.h"

#define RESCTRL_BOOK "resctrl"

struct resctrl_claim {
        char vm[64];
        struct resctrl_line ways;  /* kind RESCTRL_WAYS, no name */
        struct resctrl_line membw; /* kind RESCTRL_MEMBW */
};

struct resctrl_book {
        char *before;                 /* owned; NULL: nothing was given yet, and there is no file */
        struct resctrl_claim *claims; /* owned */
        size_t n;
};

int resctrl_book_load(const char *dir, struct resctrl_book *ret, struct err *err);
/* Without claims: the file goes. */
int resctrl_book_save(const char *dir, const struct resctrl_book *b, struct err *err);
void resctrl_book_done(struct resctrl_book *b);                                        /* idempotent */
struct resctrl_claim *resctrl_book_find(const struct resctrl_book *b, const char *vm); /* or NULL */
/* Takes the place of the one that the VM has. */
int resctrl_book_put(struct resctrl_book *b, const struct resctrl_claim *c, struct err *err);
void resctrl_book_drop(struct resctrl_book *b, const char *vm);
