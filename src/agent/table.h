/* SPDX-License-Identifier: Apache-2.0 */
/* agent/table.h - the outgoing request table (1.3): rows in memory, each with a file of its own.
 *
 * A file is written whole beside its place and renamed, so that it is there or not. The table
 * belongs to one boot of the guest: files of another boot are dropped, since their processes are gone. */
#pragma once
#include "agent/row.h"

enum { TABLE_ROWS_MAX = 256, TABLE_OPEN_PER_USER_MAX = 32 };

struct table {
        int dir_fd;
        size_t n;
        struct row *rows[TABLE_ROWS_MAX]; /* oldest first */
        uint64_t saves, save_failures, dropped_files;
};

/* Opens (makes) the folder and reads what is there. boot_id: of the running kernel. A file that cannot be
 * understood is logged, set aside as bad.ID, and does not stop the others. */
int table_open(struct table *t, const char *folder, const char *boot_id, struct err *err);
void table_done(struct table *t); /* frees the rows; they must hold nothing of the loop any more */

struct row *table_find(const struct table *t, const char *id);
size_t table_open_rows(const struct table *t, uid_t uid);
/* Takes the row and writes it. Where the table is full the oldest finished row makes room: one of the same
 * user, else of any. -EBUSY: none is finished. On failure the row stays the caller's. */
int table_add(struct table *t, struct row *row, struct err *err);
/* Writes a row that is dirty. */
int table_save(struct table *t, struct row *row, struct err *err);
