/* SPDX-License-Identifier: Apache-2.0 */
/* vm/probe.h - what a QEMU on this machine can do, asked of the binary itself and remembered.
 *
 * Blocking, with a deadline; meant for the start of the daemon, before its loop runs. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"
#include "json/api.h"

/* struct api_qemu_probe is the answer; api/vm.json says what each field means. */

/* path: a qemu-system-x86_64. remembered: a JSON file that is read and, after a new probe, written; NULL
 * for none. An answer is remembered by the binary's path, size, times and inode, and by whether KVM works. A
 * file that cannot be read is as none. *ret is untouched on failure. */
int probe_qemu(const char *path, const char *remembered, int timeout_ms, struct api_qemu_probe *ret,
               struct err *err);

/* Whether it has what this VM was made for: machine type and CPU model. REASON_INCOMPATIBLE: what it lacks.
 */
int probe_runs(const struct api_qemu_probe *probe, const struct api_vm_definition *d, struct err *err);

/* Whether an ordinary guest kernel can run on KVM here; words say why not. The paths are those of the
 * machine ("/dev/kvm", "/proc/cpuinfo"), named so that tests can give others. */
bool probe_kvm(const char *kvm_path, const char *cpuinfo_path, char *ret_why, size_t size);
