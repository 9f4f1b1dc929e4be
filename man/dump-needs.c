/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the tables of kinds and parameters as JSON, for tools/gen-man. Their texts hold neither quotes nor
 * backslashes. */
#include <stdio.h>
#include "core/need.h"

int main(void)
{
        (void)puts("{\"kinds\":[");
        for (int k = 1, n = 0; k < COMPONENT_KIND_N; k++)
                if (component_kinds[k].provided)
                        (void)printf("%s{\"name\":\"%s\",\"unit\":\"%s\"}", n++ ? "," : "",
                                     component_kinds[k].name, component_kinds[k].unit);
        (void)puts("],\"parameters\":[");
        for (int p = 1; p < PARAMETER_N; p++) {
                const struct parameter_row *r = &parameter_rows[p];
                (void)printf("%s{\"kind\":\"%s\",\"name\":\"%s\",\"relation\":\"%s\",\"flag\":%s,"
                             "\"unit\":\"%s\",\"source\":\"%s\",\"provider\":\"%s\",\"description\":\"%s\"}",
                             p > 1 ? "," : "", component_kinds[r->kind].name, r->name,
                             relation_name(r->relation), r->flag ? "true" : "false", r->unit, r->source,
                             r->provider, r->description);
        }
        (void)puts("]}");
        return 0;
}
