/* SPDX-License-Identifier: Apache-2.0 */
/* `mete` for a guest that is nothing else: static, without the host's verbs and their libraries. */
#include "cli/guest.h"

int main(int argc, char **argv)
{
        const struct verb_table table = {"In a guest", guest_verbs, guest_verbs_n};

        return verb_main(&table, 1, argc, argv);
}
