/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/host.h"
#include "base/str.h"

static const struct option_row create_options[] = {
        {"--cpus",                                                                           "N[..M]", "vCPUs it always has, and to which it may grow (1)", false},
        {"--memory",                               "SIZE[..SIZE]", "memory it always has, and to which it may grow (512M)", false},
        {"--share",                                                                                  "SHARE[..CEILING]",
         "share of a host CPU that each of its own vCPUs holds, from 0.001 to 1, and what it never exceeds, "
         "from "
         "0.1, such as 0.2 or 0.2..0.5; 1 where it is not said", false},
        {"--page",                                      "SIZE", "the memory it always has is of huge pages of this size, such as 2M or 1G", false},
        {"--prealloc",                                                                             NULL,
         "take the memory it always has as a whole at each start, not as the guest uses it", false},
        {"--kernel",                                                                          "FILE", "kernel to boot, a file in the image directory", false},
        {"--initrd",                             "FILE", "its initial RAM disk, likewise", false},
        {"--append",                                                                                  "TEXT", "the kernel's command line", false},
        {"--disk",                                       "FILE", "raw disk, a file in the image directory", false},
        {"--disk-rate",                                                                             "RATE[..RATE]",
         "bytes a second that its disk is held to and that are set aside for it, and up to which leases may "
         "raise that, such as 50M..200M", false},
        {"--net",                                                                       "NETWORK:RATE[..CEILING]",
         "network card on that network of the host: what is guaranteed to it, and what it never exceeds, in "
         "bits a "
         "second, such as lan:200M..1G", false},
        {NULL},
};
static const struct option_row stop_options[] = {
        {"--timeout",                                           "TIME", "how long to wait for the guest to power down (30s)", false},
        {NULL},
};
static const struct option_row reserve_options[] = {
        {"--need",                                                               "NEED", "what to reserve: cpu:2,share>=0.9, memory:1G, net:200M or block:50M", true},
        {"--start", "TIME", "begin of the window, from now on: 10m, 1h (now)", false},
        {"--for",                                                                      "TIME", "length of the window (until it is released)", false},
        {NULL                                                               },
};
static const struct option_row offline_options[] = {
        {"--amount",                            "SIZE", "only so much of it, of memory: 64M", false},
        {"--for", "TIME", "for so long: 10m, 1h (until host online)", false},
        {"--inject",                                     NULL, "the event log calls it an injected fault, not an operator's act", false},
        {NULL                              },
};
static const struct option_row events_options[] = {
        {"--follow",                                                NULL, "go on with what happens from now on, until interrupted", false},
        {"--trace", "[VM/]ID", "only those of this negotiation; without VM, those of that id in every VM",
         false},
        {"--after",                                                         "SEQ", "only those with a higher number", false},
        HOST_MANAGER_OPTIONS,
        {NULL                                               },
};

const struct verb host_verbs[] = {
        {"vm create",       "NAME",    1, 1, false, create_options,  "Define a VM; nothing runs yet",
         "A range gives it room to grow: applications in it may ask for what lies between. Memory is rounded "
         "up to "
         "whole growth units, and the answer says so. The same definition again is answered with what there "
         "is.",                                                                                                                                                                                                                 host_vm_create      },
        {"vm start",        "NAME",    1, 1, false, NULL,            "Start a VM; returns when its VMM runs",                      NULL,                                                                                        host_vm_start       },
        {"vm stop",         "NAME",    1, 1, false, stop_options,    "Ask the guest to power down; returns when it is down",
         "What it had stays bound for its next start while nobody else needs it; 'vm show' says what. When "
         "the time is over the VM still runs, and the exit status is 75.",                                                                                                                                                      host_vm_stop        },
        {"vm kill",         "NAME",    1, 1, false, NULL,            "End a VM at once, without asking it",
         "Nothing is kept for its next start. Stopped already: what is kept is taken back.",                                                                                                                                    host_vm_kill        },
        {"vm verify",       "NAME",    1, 1, false, NULL,            "Look whether a VM is held as it was granted, and repair it",
         "Its leases too. The exit status is 1 if something is not as it was granted, or could not be looked "
         "at.",                                                                                                                                                                                                                 host_vm_verify      },
        {"vm delete",       "NAME",    1, 1, false, NULL,            "Remove the definition of a stopped VM",                      NULL,
         host_vm_delete                                                                                                                                                                                                                             },
        {"vm list",         "",        0, 0, false, NULL,            "List the VMs",                                               NULL,                                                                                        host_vm_list        },
        {"vm show",         "NAME",    1, 1, false, NULL,            "Show one VM: its definition, and what backs it",             NULL,
         host_vm_show                                                                                                                                                                                                                               },
        {"host show",       "",        0, 0, false, NULL,
         "Show what this host has, what is free, and which fallbacks are in force",                                                NULL,                                                                                        host_show           },
        {"host offline",    "NAME",    1, 1, false, offline_options,
         "Take a CPU or memory out of use, such as cpu:3",                                                                         "Nothing more is given away of it. A vCPU on it moves to "
         "another CPU; a lease that has no other place ends, and is "
         "told so; the own vCPU of a VM then shares what is left, and "
         "its own memory stays where it is. Then guests are told. The "
         "event log has what was decided for each VM. The kernel of "
         "this host goes on to use it for what is no vCPU. It stays so "
         "when meted starts again. What is out of use already stays so "
         "for the time that is said now. Refused: the last CPU. All of "
         "the memory may go: VMs keep their own, leases end, and none "
         "starts.",                                                                                                                                                   host_offline        },
        {"host online",     "NAME",    1, 1, false, NULL,            "Take into use again what was taken out of it",               NULL,
         host_online                                                                                                                                                                                                                                },
        {"ledger",          "",        0, 0, false, NULL,            "Show every component and every claim on it",                 NULL,                                                                                        host_ledger         },
        {"leases",          "",        0, 0, false, NULL,            "List what is granted or offered",                            NULL,                                                                                        host_leases         },
        {"definition list", "[VM]",    0, 1, false, NULL,            "List virtual resources, and what backs each",
         "A definition says which host resource backs a virtual one and how far its activation is. What is "
         "configured the running guest may rely on.",                                                                                                                                                                           host_definition_list},
        {"definition show", "VM/ITEM", 1, 1, false, NULL,            "Show one of them, such as web1/vcpu3",                       NULL,
         host_definition_show                                                                                                                                                                                                                       },
        {"reserve",         "ID",      1, 1, false, reserve_options, "Reserve capacity of this host without a VM",
         "The same ID again has the same answer, so that of a refused one is used up. The exit "
         "status says whether it was granted.",                                                                                                                                                                                 host_reserve        },
        {"unreserve",       "ID",      1, 1, false, NULL,            "Release a reservation; released already is no error",        NULL,
         host_unreserve                                                                                                                                                                                                                             },
        {"events",          "",        0, 0, false, events_options,  "Print the event log in order",
         "A request is reserved, then granted, refused, offered or failed; released or expired; ended when "
         "everything is "
         "back. In between stand the steps of its activation, one for each thing that is granted: prepared "
         "(its "
         "virtual side is made ready), host-activated (host resources are set aside), marked, activated (it "
         "is "
         "plugged), bound (its threads are held on their CPUs), initialised (the guest says that it has it), "
         "finalised (what holds it was read back), configured (the guest may rely on it); and of the way "
         "back: "
         "unconfigured, let-go (the guest was asked), host-prepared (threads are put aside), deactivated, "
         "host-deactivated, unprepared, unmarked. step-failed says why one did not work, still-held what "
         "could not be "
         "taken back yet. Of what is granted: changed (somebody else changed what holds it), repaired, "
         "repair-failed. Of the host: component-offline, component-online, component-resized; then, of each "
         "VM that runs, "
         "update-needed or no-update-needed (of its allocation), moving, moved, withdrawn (a lease ended for "
         "it), no-place; hhi-changed (whose view of the host has changed), and hhi-told. "
         "--follow ends when meted does, with status 69.",                                                                                                                                                                      host_events         },
        {"why",             "NAME",    1, 1, false, NULL,            "Say what was decided of something, and why",
         "NAME is a request (build-42, or web/build-42 of one VM), a reservation, a VM, a move or a "
         "component (cpu:3). Prints "
         "what became of it, by the event log without the single steps of activation, and what is held now. "
         "Where it was "
         "refused: what everybody holds, and what others gave back since.",                                                                                                                                                     host_why            },
        {"doctor",          "",        0, 0, false, NULL,
         "Say what this machine can do, what is missing, and which fallbacks there are",                                           "Works without meted. The exit status is 0 if nothing is missing, and all grants are held.",
         host_doctor                                                                                                                                                                                                                                },
};
const size_t host_verbs_n = ARRAY_N(host_verbs);
