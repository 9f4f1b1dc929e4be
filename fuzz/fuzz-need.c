/* SPDX-License-Identifier: Apache-2.0 */
/* What parses is sound, prints, and parses back to the same need, as text and in parts; what does not parse
 * leaves a sentence that JSON can carry. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/need.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_refusal(const struct err *err)
{
        assert(err->reason == REASON_INVALID || err->reason == REASON_UNSUPPORTED);
        assert(err->sentence[0]);
        for (const char *c = err->sentence; *c; c++)
                assert(*c >= ' ' && *c <= '~');
}

static void check_parts(const struct need *need)
{
        struct need_part parts[NEED_PARAMETERS_MAX];
        struct need back;
        for (size_t i = 0; i < need->n_parameters; i++)
                parts[i] = need_part_of(&need->parameters[i]);
        int r = need_from_parts(component_kinds[need->kind].name, need->amount, need->amount_max,
                                need->n_parameters, parts, &back, NULL);
        assert(r == 0 && need_equal(need, &back));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct need need, back;
        struct err err = {0};
        char printed[NEED_TEXT], *text = malloc(size + 1);
        if (!text)
                return 0;
        memcpy(text, data, size);
        text[size] = '\0';
        if (need_parse(text, &need, &err) < 0) {
                check_refusal(&err);
        } else {
                assert(need_check(&need, NULL) == 0);
                assert(strlen(need_print(&need, printed)) < NEED_TEXT - 1);
                assert(need_parse(printed, &back, NULL) == 0 && need_equal(&need, &back));
                check_parts(&need);
        }
        free(text);
        return 0;
}
