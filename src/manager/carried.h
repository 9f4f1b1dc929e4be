/* SPDX-License-Identifier: Apache-2.0 */
/* manager/carried.h - the mark in a manager's file that its state was begun to be carried over to etcd, or
 * was carried over: from then on the file does not count, and no manager uses it. */
#pragma once
#include <stdbool.h>
#include "base/err.h"
#include "json/api.h"
#include "store/store.h"

/* 1: there is one. 0: none. */
int carried_read(struct store *file, struct api_carried *ret, struct err *err);
/* Durable when it returns 0. */
int carried_write(struct store *file, const struct api_carried *mark, struct err *err);
/* REASON_INCOMPATIBLE: all of it was carried over; *err says where to. path is for people. */
int carried_check(struct store *file, const char *path, struct err *err);
