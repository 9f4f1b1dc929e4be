/* SPDX-License-Identifier: Apache-2.0 */
/* The first line is a document, the rest a patch. What passes the check is written as XML; a patch is taken
 * whole or not at all, makes a document that passes, and changes nothing the second time; the difference of
 * both makes the same. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json/hhi.h"
#include "json/read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_refusal(const struct err *err)
{
        assert(err->reason == REASON_INVALID && err->sentence[0]);
        for (const char *c = err->sentence; *c; c++)
                assert(*c >= ' ' && *c <= '~');
}

static void write_xml(const json_t *hhi)
{
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);
        assert(f && hhi_write_xml(hhi, f, NULL) == 0);
        (void)fclose(f);
        assert(n == strlen(text) && strstr(text, "</topology>"));
        free(text);
}

static void apply(json_t *hhi, const json_t *patch)
{
        struct err err = {0};
        json_t *now = json_incref(hhi), *before = json_deep_copy(hhi);
        if (hhi_apply(&now, patch, &err) < 0) {
                check_refusal(&err);
                assert(now == hhi);
        } else {
                json_t *again = json_incref(now), *other = json_incref(hhi), *difference = hhi_diff(hhi, now);
                assert(hhi_check(now, NULL) == 0);
                assert(hhi_apply(&again, patch, NULL) == 0 && json_equal(again, now));
                assert(hhi_apply(&other, difference, NULL) == 0 && json_equal(other, now));
                write_xml(now);
                json_decref(again);
                json_decref(other);
                json_decref(difference);
        }
        assert(json_equal(hhi, before));
        json_decref(now);
        json_decref(before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const char *text = (const char *)data, *end = size ? memchr(text, '\n', size) : NULL;
        size_t n = end ? (size_t)(end - text) : size, n_rest = end ? size - n - 1 : 0;
        struct err err = {0};
        json_t *hhi = json_read(text, n, &err), *patch = n_rest ? json_read(end + 1, n_rest, &err) : NULL;
        if (hhi && hhi_check(hhi, &err) == 0) {
                write_xml(hhi);
                if (patch)
                        apply(hhi, patch);
        } else if (hhi) {
                check_refusal(&err);
        }
        json_decref(hhi);
        json_decref(patch);
        return 0;
}
