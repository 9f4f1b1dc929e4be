/* SPDX-License-Identifier: Apache-2.0 */
/* host/cpu-exclusive.h - which items have their CPUs for themselves alone.
 *
 * No object of the kernel's says so, so a file ITEM@VM in the host's keep_dir does, with the item's CPUs; it
 * counts while its group is there. Callers take turns. */
#pragma once
#include <stdbool.h>
#include "base/err.h"
#include "host/cpu.h"

/* Is the group that a note is about there? */
typedef bool exclusive_is_there(const struct cpu_host *h, const char *group);

int exclusive_note(const struct cpu_host *h, const char *group, const struct cpulist *cpus, struct err *err);
int exclusive_forget(const struct cpu_host *h, const char *group, struct err *err); /* none: no error */
/* 1: it has them, and *ret is filled. 0: it has not. */
int exclusive_find(const struct cpu_host *h, const char *group, struct cpulist *ret, struct err *err);
/* The CPUs of all whose group is there, without those of the group `but`, which may be NULL. */
int exclusive_cpus(const struct cpu_host *h, const char *but, exclusive_is_there *is_there,
                   struct cpulist *ret, struct err *err);
/* How many of a VM (NULL: of all) are about a group that is not there, or the first error. */
int exclusive_count_stale(const struct cpu_host *h, const char *vm, exclusive_is_there *is_there,
                          struct err *err);
int exclusive_forget_stale(const struct cpu_host *h, const char *vm, exclusive_is_there *is_there,
                           struct err *err);
