/* SPDX-License-Identifier: Apache-2.0 */
/* `mete` for a guest that is nothing else: static, without the host's verbs and their libraries. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "base/str.h"
#include "cli/exit.h"
#include "cli/guest.h"
#include "lib/id.h"

/* Verbs that a host's own `mete` has and a guest's has not; those with a blank are all that begin with it. */
static const char *const host_words[] = {
        "vm ",       "host offline", "host online", "ledger",  "definition ", "reserve",
        "unreserve", "events",       "doctor",      "peers",   "pki ",        "move ",
        "why",       "host list",    "drain ",      "server ", "handover ",   "host consolidate",
};

static const char *find_host_words(int argc, char **argv)
{
        char said[64];

        (void)snprintf(said, sizeof(said), "%.30s %.30s", argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "");
        for (size_t i = 0; i < ARRAY_N(host_words); i++) {
                size_t n = strlen(host_words[i]);
                if (strncmp(said, host_words[i], n) == 0 &&
                    (said[n] == ' ' || said[n] == '\0' || host_words[i][n - 1] == ' '))
                        return host_words[i];
        }
        return NULL;
}

int main(int argc, char **argv)
{
        const struct verb_table tables[] = {
                {"In a guest", guest_verbs,      guest_verbs_n     },
                {"Its host",   guest_only_verbs, guest_only_verbs_n}
        };

        size_t seed;
        const char *words = find_host_words(argc, argv);
        if (words != NULL) {
                bool is_group = words[strlen(words) - 1] == ' ';
                (void)fprintf(
                        stderr,
                        "mete: %s%s is a verb of the host, and this is a guest of it; see 'mete help'\n",
                        words, is_group && argc > 2 ? argv[2] : "");
                return EXIT_USAGE;
        }
        /* Left alone, jansson reads /dev/urandom, and that waits for entropy early in a VM's boot. */
        id_random(&seed, sizeof(seed));
        json_object_seed(seed | 1);
        return verb_main(tables, 2, argc, argv);
}
