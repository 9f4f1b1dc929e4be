/* SPDX-License-Identifier: Apache-2.0 */
/* lib/id.h - ids that nobody has used. They need not be secret, so early in a boot, when the kernel would
 * have us wait a second or two for entropy, they are made of what there is. */
#pragma once
#include <stddef.h>

void id_random(void *buf, size_t n); /* never waits */
void id_make(char id[64]);           /* 32 hex digits */
