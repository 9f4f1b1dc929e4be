/* SPDX-License-Identifier: Apache-2.0 */
/* vm/vm-internal.h - what a file beside vm.c may use of a connection. */
#pragma once
#include "vm/qmp.h"
#include "vm/vm.h"

/* The monitor for commands that are not in the queue of vm.h; borrowed until vm_free(). NULL: it is not known
 * yet that it is the VM that the definition names. */
struct qmp *vm_monitor(const struct vm *vm);
/* Likewise the one that is answered while the VMM's main loop is held. */
struct qmp *vm_oob_monitor(const struct vm *vm);
