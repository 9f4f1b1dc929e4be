/* SPDX-License-Identifier: Apache-2.0 */
/* In a library of its own, which libmete does not use: GLib has the checksum, and libmete has no GLib. */
#include "json/hhi.h"

#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>

int hhi_digest(const json_t *hhi, char ret[HHI_DIGEST_SIZE], struct err *err)
{
        char *text = json_dumps(hhi, JSON_COMPACT | JSON_SORT_KEYS);
        char *digest = text ? g_compute_checksum_for_string(G_CHECKSUM_SHA256, text, -1) : NULL;
        if (digest)
                memcpy(ret, digest, HHI_DIGEST_SIZE);
        g_free(digest);
        free(text);
        return digest ? 0 : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
}
