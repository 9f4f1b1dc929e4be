/* SPDX-License-Identifier: Apache-2.0 */
/* `mete` on a machine: verbs for a host, and those of a guest, since a host may be a guest itself.
 * A verb that both have (leases) goes to the side that is there. */
#include <unistd.h>
#include "base/str.h"
#include "cli/guest.h"
#include "cli/host.h"

/* Where meted's socket is absent and there is an agent or a port to a host, this is a guest. --socket and
 * METE_SOCKET do not say which daemon listens, so they change nothing here. */
static bool is_guest(void)
{
        return access(HOST_SOCKET, F_OK) < 0 &&
               (access(GUEST_SOCKET, F_OK) == 0 || access("/dev/virtio-ports/org.mete.agent.0", F_OK) == 0);
}

int main(int argc, char **argv)
{
        const struct verb_table on_host = {"On a host", host_verbs, host_verbs_n};
        const struct verb_table in_guest = {"In a guest", guest_verbs, guest_verbs_n};
        const struct verb_table server = {"Several hypervisors on one server", server_verbs, server_verbs_n};
        const struct verb_table handovers = {"Handovers on one server", handover_verbs, handover_verbs_n};
        const struct verb_table spread = {"VMs spread over nodes", consolidate_verbs, consolidate_verbs_n};
        const struct verb_table moves = {"Moves", move_verbs, move_verbs_n};
        const struct verb_table manager = {"A fleet, by its manager", manager_verbs, manager_verbs_n};
        const struct verb_table other_hosts = {"Other hosts", pki_verbs, pki_verbs_n};
        const struct verb_table tables[] = {is_guest() ? in_guest : on_host,
                                            is_guest() ? on_host : in_guest,
                                            spread,
                                            moves,
                                            manager,
                                            server,
                                            handovers,
                                            other_hosts};

        return verb_main(tables, ARRAY_N(tables), argc, argv);
}
