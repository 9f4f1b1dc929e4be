/* SPDX-License-Identifier: Apache-2.0 */
/* `mete` on a machine. */
#include "cli/host.h"

int main(int argc, char **argv)
{
        const struct verb_table on_host = {"On a host", host_verbs, host_verbs_n};

        return verb_main(&on_host, 1, argc, argv);
}
