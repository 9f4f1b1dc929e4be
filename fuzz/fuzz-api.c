/* SPDX-License-Identifier: Apache-2.0 */
/* The decoders of one contract (FUZZ_CONTRACT). The first byte picks the def, 'A' the first; the rest is
 * JSON. What is accepted must come back the same from its own encoding; what is refused must say so in plain
 * words. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "json/case.h"
#include "json/read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void insist(int truth)
{
        if (!truth)
                abort();
}

static const struct case_def *pick(uint8_t byte)
{
        size_t first = 0, n = 0;
        while (strcmp(case_defs[first]->contract, FUZZ_CONTRACT) != 0)
                first++;
        while (first + n < case_defs_n && strcmp(case_defs[first + n]->contract, FUZZ_CONTRACT) == 0)
                n++;
        return case_defs[first + (uint8_t)(byte - 'A') % n];
}

static void *scratch(void)
{
        static void *room; /* of the largest def; some have megabytes */
        size_t most = 0;
        for (size_t i = 0; !room && i < case_defs_n; i++)
                most = case_defs[i]->size > most ? case_defs[i]->size : most;
        if (!room)
                room = malloc(most);
        insist(room != NULL);
        return room;
}

static void check_refusal(const struct err *err)
{
        insist(err->reason == REASON_INVALID && err->code == EINVAL && err->sentence[0] != '\0');
        for (const char *s = err->sentence; *s; s++)
                insist((unsigned char)*s >= 0x20 && *s != 0x7f);
}

static void check_same(const struct case_def *def, const json_t *first)
{
        struct err err = {0};
        size_t n, n_again;
        char *text = json_write(first, &n);
        json_t *back = json_read(text, n, &err);
        insist(back && def->parse(back, scratch(), &err) == 0);
        json_t *again = def->emit(scratch());
        char *text_again = json_write(again, &n_again);
        insist(n == n_again && memcmp(text, text_again, n) == 0);
        free(text);
        free(text_again);
        json_decref(back);
        json_decref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        if (size < 1)
                return 0;
        const struct case_def *def = pick(data[0]);
        struct err err = {0};
        json_t *v = json_read((const char *)data + 1, size - 1, &err);
        if (!v) {
                check_refusal(&err);
                return 0;
        }
        if (def->parse(v, scratch(), &err) < 0) {
                check_refusal(&err);
        } else {
                json_t *emitted = def->emit(scratch());
                insist(emitted != NULL);
                check_same(def, emitted);
                json_decref(emitted);
        }
        json_decref(v);
        return 0;
}
