/* SPDX-License-Identifier: Apache-2.0 */
/* manager/carry.h - `mete-manager --carry-over`: what the file in state_dir has recorded goes to etcd, and
 * counts there from then on; the file is left as it is, with a mark. Repeatable, wherever it was interrupted.
 */
#pragma once
#include "manager/config.h"

/* Runs the loop. The exit status; what became of it is in the log. */
int carry_over(const struct manager_config *config);
