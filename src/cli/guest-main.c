/* SPDX-License-Identifier: Apache-2.0 */
/* `mete` for a guest that is nothing else: static, without the host's verbs and their libraries. */
#include <jansson.h>
#include "cli/guest.h"
#include "lib/id.h"

int main(int argc, char **argv)
{
        const struct verb_table tables[] = {
                {"In a guest", guest_verbs,      guest_verbs_n     },
                {"Its host",   guest_only_verbs, guest_only_verbs_n}
        };

        size_t seed;

        /* Left alone, jansson reads /dev/urandom, and that waits for entropy early in a VM's boot. */
        id_random(&seed, sizeof(seed));
        json_object_seed(seed | 1);
        return verb_main(tables, 2, argc, argv);
}
