/* SPDX-License-Identifier: Apache-2.0 */
/* api-check DEF: reads one JSON document a line, prints `ok` or `error SENTENCE` a line, at once.
 * The C side of the schema oracle (tests/test_schema_oracle.py). Without DEF it lists those there are. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json/case.h"
#include "json/read.h"

static int check(const struct case_def *def, const char *text, size_t n, void *scratch, struct err *err)
{
        json_t *v = json_read(text, n, err);
        if (!v)
                return -EINVAL;
        int r = def->parse(v, scratch, err);
        json_decref(v);
        return r;
}

static int run(const struct case_def *def)
{
        void *scratch = malloc(def->size);
        char *line = NULL;
        size_t room = 0;
        ssize_t n;
        while (scratch && (n = getline(&line, &room, stdin)) > 0) {
                struct err err = {0};
                if (check(def, line, (size_t)n, scratch, &err) == 0)
                        puts("ok");
                else
                        printf("error %s\n", err.sentence);
                (void)fflush(stdout);
        }
        free(line);
        free(scratch);
        return 0;
}

int main(int argc, char **argv)
{
        for (size_t i = 0; i < case_defs_n; i++) {
                if (argc < 2)
                        puts(case_defs[i]->name);
                else if (strcmp(case_defs[i]->name, argv[1]) == 0)
                        return run(case_defs[i]);
        }
        return argc < 2 ? 0 : 2;
}
