/* SPDX-License-Identifier: Apache-2.0 */
/* vm/test-sample.h - a VM for tests, with a fixed identity. */
#pragma once
#include <errno.h>
#include "base/str.h"
#include "base/units.h"
#include "vm/definition.h"

#define UNITS_MAX_BYTES (UNITS_MAX - 1)

static inline struct api_qemu_probe sample_probe(void)
{
        return (struct api_qemu_probe){
                .path = "/usr/bin/qemu-system-x86_64",
                .version = "7.2.22",
                .major = 7,
                .minor = 2,
                .micro = 22,
                .machine = "pc-q35-7.2",
                .cpu_model = "Westmere-v1",
                .accelerator = API_ACCELERATOR_TCG,
                .has_accelerator_why = true,
                .accelerator_why = "the CPU shows neither vmx nor svm",
                .memory_mechanism = API_MEMORY_MECHANISM_DIMM,
                .cpu_mechanism = API_CPU_MECHANISM_PARK,
        };
}

static inline struct api_vm_create sample_wish(void)
{
        return (struct api_vm_create){
                .name = "v1",
                .cpus = 1,
                .has_cpus_max = true,
                .cpus_max = 4,
                .memory_bytes = INT64_C(512) << 20,
                .has_memory_max_bytes = true,
                .memory_max_bytes = INT64_C(4) << 30,
                .has_kernel = true,
                .kernel = "vmlinuz",
                .has_initrd = true,
                .initrd = "initrd.img",
                .has_append = true,
                .append = "console=ttyS0 quiet",
        };
}

static inline struct api_vm_definition sample_definition(void)
{
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_create wish = sample_wish();
        struct api_vm_definition d = {0};
        vm_definition_make(&wish, 1000, &probe, &d, NULL);
        STR_COPY(d.uuid, "4f0a3c1e-1111-4222-8333-444455556666");
        STR_COPY(d.mac, "52:54:00:12:34:56");
        return d;
}
