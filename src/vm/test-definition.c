/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/definition.h"

#include <glib.h>
#include <string.h>

#include "base/str.h"
#include "base/units.h"
#include "vm/test-sample.h"

static void test_make(void)
{
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_create wish = sample_wish();
        struct api_vm_definition d = {0}, e;
        struct err err = {0};
        g_assert_cmpint(vm_definition_make(&wish, 125, &probe, &d, &err), ==, 0);
        g_assert_cmpstr(d.machine, ==, "pc-q35-7.2");
        g_assert_cmpstr(d.cpu_model, ==, "Westmere-v1");
        g_assert_cmpint(d.share_milli, ==, 125);
        g_assert_cmpint(d.memory_bytes, ==, INT64_C(512) << 20);
        g_assert_cmpint(d.memory_max_bytes, ==, INT64_C(4) << 30);
        g_assert_cmpint(d.dimm_slots, ==, 28);
        g_assert_cmpint(vm_definition_growth_bytes(&d), ==, (INT64_C(4) << 30) - (INT64_C(512) << 20));
        g_assert_cmpint(d.n_fallbacks, ==, 3);
        g_assert_nonnull(strstr(d.fallbacks[0], "runs on TCG, not KVM: the CPU shows neither vmx nor svm"));
        g_assert_nonnull(strstr(d.fallbacks[1], "parked"));
        g_assert_nonnull(strstr(d.fallbacks[2], "virtio-mem is not safe with QEMU 7.2.22"));
        g_assert_cmpint(d.uuid[14], ==, '4');
        g_assert_cmpint(strncmp(d.mac, "52:54:00:", 9), ==, 0);
        /* Another VM has another identity. */
        g_assert_cmpint(vm_definition_make(&wish, 125, &probe, &e, &err), ==, 0);
        g_assert_cmpstr(d.uuid, !=, e.uuid);
}

static void test_rounding(void)
{
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_create wish = sample_wish();
        struct api_vm_definition d;
        wish.memory_bytes = (INT64_C(700) << 20) + 1;
        wish.memory_max_bytes = INT64_C(769) << 20;
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, NULL), ==, 0);
        g_assert_cmpint(d.memory_bytes, ==, INT64_C(768) << 20);
        g_assert_cmpint(d.memory_max_bytes, ==, INT64_C(896) << 20);
        g_assert_cmpint(d.dimm_slots, ==, 1);
        g_assert_nonnull(strstr(d.fallbacks[0], "memory rounded up from 734003201 to 768M"));
        g_assert_nonnull(strstr(d.fallbacks[1], "memory limit rounded up from 769M to 896M"));
        wish.memory_bytes = 32 << 20;
        wish.has_memory_max_bytes = false;
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, NULL), ==, 0);
        g_assert_cmpint(d.memory_max_bytes, ==, VM_UNIT_BYTES);
        g_assert_cmpint(d.dimm_slots, ==, 0);
        wish.memory_bytes = UNITS_MAX_BYTES;
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, NULL), ==, -ERANGE);
        /* More room than slots: said. */
        wish.memory_bytes = INT64_C(1) << 30;
        wish.memory_max_bytes = INT64_C(64) << 30;
        wish.has_memory_max_bytes = true;
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, NULL), ==, 0);
        g_assert_cmpint(d.dimm_slots, ==, VM_DIMMS_MAX);
        g_assert_nonnull(strstr(d.fallbacks[d.n_fallbacks - 1], "at most 64 times"));
}

static void test_refused(void)
{
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_definition d, before;
        struct err err;
        memset(&before, 7, sizeof(before));
        d = before;
        static const struct {
                int64_t cpus, cpus_max, memory, memory_max;
                bool kernel, initrd, append;
                const char *says;
        } rows[] = {
                {4, 2,  512,  1024, true,  true,  true,  "cpus_max"              },
                {1, 2,  1024, 512,  true,  true,  true,  "memory_max_bytes"      },
                {1, 2,  512,  1024, false, true,  false, "initrd: needs a kernel"},
                {1, 2,  512,  1024, false, false, true,  "append: needs a kernel"},
                {1, 65, 512,  1024, false, false, false, "within 64"             },
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct api_vm_create wish = sample_wish();
                wish.cpus = rows[i].cpus;
                wish.cpus_max = rows[i].cpus_max;
                wish.memory_bytes = rows[i].memory << 20;
                wish.memory_max_bytes = rows[i].memory_max << 20;
                wish.has_kernel = rows[i].kernel;
                wish.has_initrd = rows[i].initrd;
                wish.has_append = rows[i].append;
                err = (struct err){0};
                g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, &err), ==, -EINVAL);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_nonnull(strstr(err.sentence, rows[i].says));
                g_assert_cmpmem(&d, sizeof(d), &before, sizeof(before));
        }
}

static void assert_differs(const struct api_vm_definition *d, const struct api_vm_create *wish, int64_t share,
                           const char *says)
{
        struct err err = {0};
        g_assert_cmpint(vm_definition_answers(d, wish, share, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_nonnull(strstr(err.sentence, says));
}

static void test_answers(void)
{
        struct err err = {0};
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_create wish = sample_wish(), other;
        struct api_vm_definition d;
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, NULL), ==, 0);
        g_assert_cmpint(vm_definition_answers(&d, &wish, 1000, &err), ==, 0);
        assert_differs(&d, &wish, 500, "another share_milli: 1000, not 500"); /* the default has changed */
        other = wish;
        other.memory_bytes -= 5; /* rounds to the same */
        g_assert_cmpint(vm_definition_answers(&d, &other, 1000, &err), ==, 0);
        other.cpus_max++;
        assert_differs(&d, &other, 1000, "another cpus_max");
        other = wish;
        other.has_append = false;
        assert_differs(&d, &other, 1000, "not none");
        other = wish;
        STR_COPY(other.kernel, "another");
        assert_differs(&d, &other, 1000, "another kernel");
        other = wish;
        other.cpus_max = other.cpus - 1; /* could not have been made at all */
        assert_differs(&d, &other, 1000, "cpus_max: must be at least");
}

static void test_round_trip(void)
{
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_create wish = sample_wish();
        struct api_vm_definition d, e;
        struct err err = {0};
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, NULL), ==, 0);
        json_t *v = api_vm_definition_emit(&d);
        g_assert_nonnull(v);
        memset(&e, 0, sizeof(e));
        g_assert_cmpint(api_vm_definition_parse(v, &e, &err), ==, 0);
        g_assert_cmpint(vm_definition_check(&e, &err), ==, 0);
        json_t *w = api_vm_definition_emit(&e);
        g_assert_true(json_equal(v, w));
        json_decref(w);
        json_object_set_new(v, "surprise", json_true());
        g_assert_cmpint(api_vm_definition_parse(v, &e, &err), ==, -EINVAL);
        json_decref(v);
}

static void test_pages(void)
{
        struct err err = {0};
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_create wish = sample_wish(), other;
        struct api_vm_definition d, again;
        wish.memory_bytes = 1500 << 20;
        wish.has_memory_max_bytes = false;
        wish.has_page_bytes = true;
        wish.page_bytes = 1 << 30;
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, &err), ==, 0);
        g_assert_cmpint(d.memory_bytes, ==, INT64_C(2) << 30); /* whole pages, and no less at most */
        g_assert_cmpint(d.memory_max_bytes, ==, INT64_C(2) << 30);
        g_assert_cmpint(d.page_bytes, ==, 1 << 30);
        g_assert_nonnull(strstr(d.fallbacks[0], "on its pages it comes in units of 1G"));
        g_assert_cmpint(vm_definition_answers(&d, &wish, 1000, &err), ==, 0);
        other = wish;
        other.has_page_bytes = false;
        other.page_bytes = 0;
        other.memory_bytes = INT64_C(2) << 30;
        assert_differs(&d, &other, 1000, "another page_bytes");
        other = wish;
        other.page_bytes = 3 << 20;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "power of two"));
}

static void test_net(void)
{
        struct err err = {0};
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_create wish = sample_wish(), other;
        struct api_vm_definition d, again;
        wish.has_network = wish.has_net_rate_bps = wish.has_net_ceiling_bps = true;
        STR_COPY(wish.network, "lan");
        wish.net_rate_bps = 200000001;
        wish.net_ceiling_bps = 1000000000;
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, &err), ==, 0);
        g_assert_cmpstr(d.network, ==, "lan");
        g_assert_cmpint(d.net_rate_bps, ==, 200008000); /* whole units */
        g_assert_cmpint(d.net_ceiling_bps, ==, 1000000000);
        g_assert_cmpint(vm_definition_answers(&d, &wish, 1000, &err), ==, 0);
        other = wish;
        other.net_rate_bps = 100000000;
        assert_differs(&d, &other, 1000, "another net_rate_bps");
        other = wish;
        other.has_net_ceiling_bps = false;
        assert_differs(&d, &other, 1000, "another net_ceiling_bps");
        other = wish;
        STR_COPY(other.network, "wan");
        assert_differs(&d, &other, 1000, "another network");
        other = wish;
        other.has_network = other.has_net_ceiling_bps = false;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -EINVAL);
        other.has_net_rate_bps = false;
        other.has_net_ceiling_bps = true;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -EINVAL);
        other = wish;
        other.has_net_rate_bps = false;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -EINVAL);
        other = wish;
        other.net_ceiling_bps = 100000000;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "at least net_rate_bps"));
}

static void test_cpu_ceiling(void)
{
        struct err err = {0};
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_create wish = sample_wish(), other;
        struct api_vm_definition d, again;
        wish.has_share_milli = wish.has_cpu_ceiling_milli = true;
        wish.share_milli = 200;
        wish.cpu_ceiling_milli = 500;
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, &err), ==, 0);
        g_assert_true(d.has_cpu_ceiling_milli && d.share_milli == 200 && d.cpu_ceiling_milli == 500);
        g_assert_cmpint(vm_definition_answers(&d, &wish, 1000, &err), ==, 0);
        other = wish;
        other.cpu_ceiling_milli = 501;
        assert_differs(&d, &other, 1000, "another cpu_ceiling_milli");
        other.has_cpu_ceiling_milli = false;
        assert_differs(&d, &other, 1000, "another cpu_ceiling_milli");
        /* A whole CPU is no ceiling. */
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, 0);
        g_assert_false(again.has_cpu_ceiling_milli);
        other.has_cpu_ceiling_milli = true;
        other.cpu_ceiling_milli = 1000;
        g_assert_cmpint(vm_definition_answers(&again, &other, 1000, &err), ==, 0);
        /* Never below what it holds, stated or not. */
        other.cpu_ceiling_milli = 199;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "at least share_milli (200)"));
        other.has_share_milli = false;
        other.cpu_ceiling_milli = 500;
        g_assert_cmpint(vm_definition_make(&other, 501, &probe, &again, &err), ==, -EINVAL);
        g_assert_cmpint(vm_definition_make(&other, 500, &probe, &again, &err), ==, 0);
}

static void test_disk(void)
{
        struct err err = {0};
        struct api_qemu_probe probe = sample_probe();
        struct api_vm_create wish = sample_wish(), other;
        struct api_vm_definition d, again;
        wish.has_disk = wish.has_disk_rate_bytes = wish.has_disk_ceiling_bytes = true;
        STR_COPY(wish.disk, "disk.raw");
        wish.disk_rate_bytes = 65537;
        wish.disk_ceiling_bytes = 1 << 20;
        g_assert_cmpint(vm_definition_make(&wish, 1000, &probe, &d, &err), ==, 0);
        g_assert_cmpint(d.disk_rate_bytes, ==, 131072); /* whole units */
        g_assert_cmpint(d.disk_ceiling_bytes, ==, 1 << 20);
        g_assert_cmpint(vm_definition_answers(&d, &wish, 1000, &err), ==, 0);
        other = wish;
        other.disk_rate_bytes = 65536;
        assert_differs(&d, &other, 1000, "another disk_rate_bytes");
        other = wish;
        other.has_disk_ceiling_bytes = false;
        assert_differs(&d, &other, 1000, "another disk_ceiling_bytes");
        other = wish;
        other.has_disk = false;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -EINVAL);
        other = wish;
        other.has_disk_rate_bytes = false;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -EINVAL);
        other = wish;
        other.disk_ceiling_bytes = 65536;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "at least disk_rate_bytes"));
        other.disk_ceiling_bytes = other.disk_rate_bytes = UNITS_MAX - 1;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, -ERANGE);
        /* a disk of which nothing is said is one all the same */
        other.has_disk_rate_bytes = other.has_disk_ceiling_bytes = false;
        g_assert_cmpint(vm_definition_make(&other, 1000, &probe, &again, &err), ==, 0);
        g_assert_true(again.has_disk && !again.has_disk_rate_bytes);
}

static void test_check(void)
{
        struct api_vm_definition good = sample_definition(), d;
        struct err err = {0};
        g_assert_cmpint(vm_definition_check(&good, &err), ==, 0);
#define BROKEN(change, says)                                                                                 \
        do {                                                                                                 \
                d = good;                                                                                    \
                change;                                                                                      \
                g_assert_cmpint(vm_definition_check(&d, &err), ==, -EINVAL);                                 \
                g_assert_nonnull(strstr(err.sentence, says));                                                \
        } while (0)
        BROKEN(STR_COPY(d.name, "a,b"), "name");
        BROKEN(STR_COPY(d.machine, "q35,accel=kvm"), "machine");
        BROKEN(STR_COPY(d.cpu_model, ""), "cpu_model");
        BROKEN(STR_COPY(d.uuid, "4f0a3c1e-1111-4222-8333-44445555666,"), "uuid");
        BROKEN(STR_COPY(d.uuid, "4f0a"), "uuid");
        BROKEN(STR_COPY(d.mac, "52:54:00:12:34,56"), "mac");
        BROKEN(STR_COPY(d.qemu_path, "qemu"), "absolute");
        BROKEN(d.cpus = 0, "cpus");
        BROKEN(d.cpus_max = 65, "cpus");
        BROKEN(d.cpus = d.cpus_max + 1, "cpus");
        BROKEN(d.unit_bytes = 4096, "unit_bytes");
        BROKEN(d.memory_bytes++, "memory_bytes");
        BROKEN(d.memory_max_bytes = d.memory_bytes - d.unit_bytes, "memory_bytes");
        BROKEN(d.dimm_slots = 0, "dimm_slots");
        BROKEN(d.numa_nodes = 2, "numa_nodes");
        BROKEN(d.net_pci_slot = d.disk_pci_slot, "PCI");
        BROKEN(d.memory_mechanism = API_MEMORY_MECHANISM_VIRTIO_MEM, "memory_mechanism");
        BROKEN(d.has_kernel = false, "need a kernel");
        BROKEN(d.has_network = true, "network");
        BROKEN(d.has_net_ceiling_bps = true, "network");
        BROKEN((d.has_cpu_ceiling_milli = true, d.cpu_ceiling_milli = d.share_milli - 1), "cpu_ceiling");
        BROKEN((d.has_network = d.has_net_rate_bps = true, d.net_rate_bps = 64001), "whole units");
        BROKEN((d.has_network = d.has_net_rate_bps = true, d.net_rate_bps = 8000), "whole units");
        BROKEN((d.has_disk = false, d.has_disk_rate_bytes = true, d.disk_rate_bytes = 65536), "needs a disk");
        BROKEN(d.has_disk_ceiling_bytes = true, "needs a disk");
        BROKEN((d.has_disk = d.has_disk_rate_bytes = true, d.disk_rate_bytes = 65537), "whole units");
        BROKEN((d.has_page_bytes = true, d.page_bytes = 3 << 20), "whole pages");
        BROKEN((d.has_page_bytes = true, d.page_bytes = INT64_C(16) << 30), "whole pages");
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/definition/make", test_make);
        g_test_add_func("/definition/rounding", test_rounding);
        g_test_add_func("/definition/refused", test_refused);
        g_test_add_func("/definition/answers", test_answers);
        g_test_add_func("/definition/round-trip", test_round_trip);
        g_test_add_func("/definition/check", test_check);
        g_test_add_func("/definition/net", test_net);
        g_test_add_func("/definition/disk", test_disk);
        g_test_add_func("/definition/pages", test_pages);
        g_test_add_func("/definition/cpu-ceiling", test_cpu_ceiling);
        return g_test_run();
}
