/* SPDX-License-Identifier: Apache-2.0 */
/* meted/metrics.h - /metrics, in Prometheus text format. */
#pragma once
#include <stddef.h>
#include "meted/meted.h"

char *metrics_text(const struct meted *m, size_t *ret_n); /* malloc'ed */
