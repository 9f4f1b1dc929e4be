/* SPDX-License-Identifier: Apache-2.0 */
/* agent/picture.h - this guest's host, as it was told: received in parts, applied whole or not at all,
 * compared with what is stored (2.7), stored, and written where tools look:
 *
 *   DIR/host.json    generation, digest, and the document (json/hhi.h): what is stored; survives the agent
 *   DIR/host.xml     the same for hwloc's tools (lstopo -i)
 *
 * Everybody in the guest may read both.
 * What is older than what is stored is never taken (2.14). */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdint.h>
#include "base/err.h"
#include "json/api.h"
#include "json/hhi.h"

#define PICTURE_JSON "host.json"
#define PICTURE_XML  "host.xml"

enum { PICTURE_BYTES_MAX = 32 << 20 };

enum picture_outcome {
        PICTURE_REFUSED = 1, /* it cannot be used: the host is to say all of it */
        PICTURE_MORE,        /* the next part */
        PICTURE_SAME,        /* a later generation of what is known */
        PICTURE_CHANGED,
};

struct picture {
        char dir[256];
        uint64_t generation; /* 0: nothing is known */
        char digest[HHI_DIGEST_SIZE];
        json_t *hhi;
        /* coming */
        GString *text;
        uint64_t coming, base;
        int64_t part, parts;
        char coming_digest[HHI_DIGEST_SIZE];
};

/* Reads what was stored; what cannot be read is as if it were not there. */
void picture_init(struct picture *p, const char *dir);
void picture_done(struct picture *p); /* what is stored stays; idempotent */

/* PICTURE_REFUSED: *err says why. That it could not be stored is logged, and no reason not to know it. */
enum picture_outcome picture_take(struct picture *p, const struct api_guest_hhi *from, struct err *err);
/* A connection that ended in the middle. */
void picture_forget_coming(struct picture *p);
