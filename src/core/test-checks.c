/* SPDX-License-Identifier: Apache-2.0 */
/* What is granted is looked at again: each report at each of its steps, and what comes in between. */
#include "core/hypervisor.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

enum { MIB = 1024 * 1024 };

/* clang-format off */
static const struct component machine[] = {
        {.id = "cpu:0", .kind = COMPONENT_CPU, .os_index = 0, .capacity = 1000, .owned = 1000, .healthy = true},
        {.id = "cpu:1", .kind = COMPONENT_CPU, .os_index = 1, .capacity = 1000, .owned = 1000, .healthy = true},
        {.id = "memory:node0", .kind = COMPONENT_MEMORY, .capacity = 2048L * MIB, .owned = 2048L * MIB, .healthy = true},
        {.id = "block:images", .kind = COMPONENT_BLOCK, .capacity = 400L * MIB, .owned = 400L * MIB, .healthy = true},
};
/* clang-format on */

static const struct vm_shape shape = {.name = "v",
                                      .cpus = 1,
                                      .cpus_max = 2,
                                      .share_milli = 200,
                                      .memory_bytes = 512L * MIB,
                                      .memory_max_bytes = 1024L * MIB,
                                      .unit_bytes = 128L * MIB,
                                      .memory_slots = 2};

struct world {
        struct hypervisor *h;
        struct effect step; /* that is out */
        bool is_out;
        GString *log; /* events and effects in their order, but for what says nothing */
};

/* Effects as words: "changed", "host vcpu1", "checked 1/1/0/0". */
static void drain(struct world *w)
{
        struct effect f;
        while (hypervisor_next_effect(w->h, &f)) {
                if (f.kind == EFFECT_EVENT) {
                        g_string_append_printf(w->log, "%s ", f.event);
                } else if (f.kind == EFFECT_CHECKED) {
                        g_string_append_printf(w->log, "checked-%u/%u/%u/%u ", f.checked.changed,
                                               f.checked.repaired, f.checked.lasting, f.checked.unknown);
                } else if (f.kind == EFFECT_PERSIST || f.kind == EFFECT_JOURNAL) {
                        g_string_append(w->log, "record ");
                } else if (f.kind == EFFECT_STEP) {
                        const struct request *r = hypervisor_request(w->h, f.serial);
                        const struct definition *d = &r->definitions[f.step.item];
                        g_assert_false(w->is_out);
                        w->is_out = true;
                        w->step = f;
                        if (f.is_check)
                                g_string_append_printf(
                                        w->log, "%s-%s%d ",
                                        f.step.phase == PHASE_FINALISE ? "look" : phase_name(f.step.phase),
                                        virtual_kind_name(d->kind), d->slot);
                }
        }
}

static void report(struct world *w, enum reason reason)
{
        struct err err = {0};
        g_assert_true(w->is_out);
        w->is_out = false;
        if (reason)
                (void)err_set(&err, reason, EIO, "as the test wants it");
        hypervisor_step_done(w->h, w->step.serial, w->step.token, reason ? &err : NULL, NULL, 2000);
        drain(w);
}

static void says(struct world *w, const char *expected)
{
        g_assert_cmpstr(g_strchomp(w->log->str), ==, expected);
        g_string_truncate(w->log, 0);
}

static void finish(struct world *w)
{
        while (w->is_out)
                report(w, 0);
        g_string_truncate(w->log, 0);
}

static uint64_t lease(struct world *w, const char *id, const char *text)
{
        struct need need;
        struct err err = {0};
        uint64_t serial;
        g_assert_cmpint(need_parse(text, &need, &err), ==, 0);
        struct ask a = {.kind = REQUEST_APP,
                        .vm = "v",
                        .id = id,
                        .needs = &need,
                        .n_needs = 1,
                        .end_ms = LEDGER_OPEN};
        g_assert_cmpint(hypervisor_ask(w->h, &a, 1000, &serial, &err), ==, 0);
        drain(w);
        return serial;
}

static void world_init(struct world *w, bool repairs)
{
        struct err err = {0};
        const struct hypervisor_config config = {.cpu_overcommit = 1,
                                                 .offer_ms = 1000,
                                                 .live_max = 100,
                                                 .live_per_vm_max = 8,
                                                 .finished_max = 64,
                                                 .retry_first_ms = 100,
                                                 .retry_max_ms = 1000,
                                                 .repairs = repairs,
                                                 .first_serial = 1};
        *w = (struct world){.log = g_string_new(NULL)};
        w->h = hypervisor_new(&config, machine, G_N_ELEMENTS(machine), 1000);
        g_assert_cmpint(hypervisor_vm_define(w->h, &shape, &err), ==, 0);
        g_assert_cmpint(hypervisor_vm_start(w->h, "v", 1000, &err), ==, 0);
        drain(w);
        finish(w);
        g_assert_cmpint(hypervisor_find(w->h, "vm:v")->state, ==, REQUEST_GRANTED);
}

static void world_done(struct world *w)
{
        g_assert_true(hypervisor_is_sound(w->h));
        hypervisor_free(w->h);
        g_string_free(w->log, TRUE);
}

static void look(struct world *w)
{
        struct err err = {0};
        uint64_t serial = 0;
        g_assert_cmpint(hypervisor_vm_check(w->h, "v", 2000, &serial, &err), ==, 0);
        g_assert_cmpuint(serial, ==, hypervisor_find(w->h, "vm:v")->serial);
        drain(w);
}

static const char *changed(struct world *w)
{
        return hypervisor_changed(w->h, hypervisor_find(w->h, "vm:v")->serial);
}

static void test_good(void)
{
        struct world w;
        struct err err = {0};
        uint64_t serial;
        world_init(&w, true);
        (void)lease(&w, "a", "cpu:1");
        finish(&w);
        (void)lease(&w, "b", "memory:128M");
        finish(&w);
        look(&w);
        for (int i = 0; i < 4; i++)
                report(&w, 0);
        says(&w,
             "look-vcpu1 checked-0/0/0/0 look-dimm0 checked-0/0/0/0 look-ram0 look-vcpu0 checked-0/0/0/0");
        g_assert_false(w.is_out);
        g_assert_cmpstr(changed(&w), ==, "");
        g_assert_cmpint(hypervisor_vm_check(w.h, "x", 2000, &serial, &err), ==, -EAGAIN);
        g_assert_cmpint(err.reason, ==, REASON_STALE);
        world_done(&w);
}

static void test_repaired(void)
{
        static const enum reason reasons[] = {REASON_STALE, REASON_NOT_FOUND};
        for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++) {
                struct world w;
                world_init(&w, true);
                look(&w);
                report(&w, reasons[i]); /* the RAM: there is no thread to bind */
                g_assert_cmpstr(changed(&w), ==, "ram 0 on memory:node0: as the test wants it");
                report(&w, 0);
                report(&w, 0);
                g_assert_cmpstr(changed(&w), ==, "");
                report(&w, reasons[i]); /* the vCPU */
                for (int n = 0; n < 3; n++)
                        report(&w, 0);
                says(&w, "look-ram0 changed host-ram0 look-ram0 repaired "
                         "look-vcpu0 changed host-vcpu0 bind-vcpu0 look-vcpu0 repaired checked-2/2/0/0");
                world_done(&w);
        }
}

/* What a disk is held to is in its VMM: there is no host side to make again. */
static void test_repaired_disk(void)
{
        struct world w;
        struct err err = {0};
        uint64_t serial;
        struct vm_shape with_disk = shape;
        world_init(&w, true);
        (void)g_strlcpy(with_disk.name, "d", sizeof(with_disk.name));
        with_disk.disk_rate = 50L * MIB;
        g_assert_cmpint(hypervisor_vm_define(w.h, &with_disk, &err), ==, 0);
        g_assert_cmpint(hypervisor_vm_start(w.h, "d", 1000, &err), ==, 0);
        drain(&w);
        finish(&w);
        g_assert_cmpint(hypervisor_vm_check(w.h, "d", 2000, &serial, &err), ==, 0);
        drain(&w);
        report(&w, 0);
        report(&w, 0);
        report(&w, REASON_STALE);
        report(&w, 0);
        report(&w, 0);
        says(&w, "look-ram0 look-vcpu0 look-disk0 changed bind-disk0 look-disk0 repaired checked-1/1/0/0");
        world_done(&w);
}

/* At whichever step it fails: it is said once, tried at each look, and gone when it is well again. */
static void test_lasting(void)
{
        for (int at = 0; at < 3; at++) {
                struct world w;
                world_init(&w, true);
                for (int round = 0; round < 2; round++) {
                        look(&w);
                        report(&w, 0);
                        report(&w, REASON_STALE);
                        for (int i = 0; i < at; i++)
                                report(&w, 0);
                        report(&w, REASON_DENIED);
                        static const char *const tried[] = {"host-vcpu0", "host-vcpu0 bind-vcpu0",
                                                            "host-vcpu0 bind-vcpu0 look-vcpu0"};
                        g_autofree char *expected = g_strdup_printf(
                                "look-ram0 look-vcpu0 %s%s%s checked-%d/0/1/0", round ? "" : "changed ",
                                tried[at], round ? "" : " repair-failed", !round);
                        says(&w, expected);
                        g_assert_cmpstr(changed(&w), ==, "vcpu 0 on cpu:0: as the test wants it");
                }
                look(&w);
                report(&w, 0);
                report(&w, 0);
                says(&w, "look-ram0 look-vcpu0 repaired checked-0/1/0/0");
                g_assert_cmpstr(changed(&w), ==, "");
                world_done(&w);
        }
}

static void test_policy(void)
{
        struct world w;
        world_init(&w, false);
        for (int round = 0; round < 2; round++) {
                look(&w);
                report(&w, 0);
                report(&w, REASON_STALE);
                says(&w, round ? "look-ram0 look-vcpu0 checked-0/0/1/0"
                               : "look-ram0 look-vcpu0 changed checked-1/0/1/0");
                g_assert_cmpstr(changed(&w), !=, "");
        }
        look(&w);
        report(&w, 0);
        report(&w, 0);
        says(&w, "look-ram0 look-vcpu0 repaired checked-0/1/0/0");
        g_assert_cmpstr(changed(&w), ==, "");
        world_done(&w);
}

/* Who cannot be asked says nothing about what is held. */
static void test_unknown(void)
{
        static const enum reason reasons[] = {REASON_TIMEOUT, REASON_BUSY, REASON_CANCELLED, REASON_INTERNAL};
        for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++) {
                struct world w;
                world_init(&w, true);
                look(&w);
                report(&w, reasons[i]);
                says(&w, "look-ram0 checked-0/0/0/1");
                g_assert_cmpstr(changed(&w), ==, "");
                world_done(&w);
        }
}

/* Nor where it was repaired, and cannot be asked just now whether that has helped: the next look says it. */
static void test_unknown_after_repair(void)
{
        struct world w;
        world_init(&w, true);
        look(&w);
        report(&w, 0);
        report(&w, REASON_STALE); /* vcpu0 */
        report(&w, 0);
        report(&w, 0);
        report(&w, REASON_BUSY);
        says(&w, "look-ram0 look-vcpu0 changed host-vcpu0 bind-vcpu0 look-vcpu0 checked-1/0/0/1");
        g_assert_cmpstr(changed(&w), !=, "");
        look(&w);
        report(&w, 0);
        report(&w, 0);
        says(&w, "look-ram0 look-vcpu0 repaired checked-0/1/0/0");
        g_assert_cmpstr(changed(&w), ==, "");
        world_done(&w);
}

/* What is given back meanwhile is looked at no more, at whichever step. */
static void test_released(void)
{
        for (int at = 0; at < 4; at++) {
                struct world w;
                struct err err = {0};
                uint64_t serial;
                world_init(&w, true);
                (void)lease(&w, "a", "cpu:1");
                finish(&w);
                look(&w);
                for (int i = 0; i < at; i++)
                        report(&w, i == 0 ? REASON_STALE : 0);
                g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", 2000, &serial, &err), ==, 0);
                drain(&w);
                g_string_truncate(w.log, 0);
                g_assert_true(w.is_out && w.step.is_check);
                report(&w, at % 2 ? 0 : REASON_STALE); /* nobody waits for it any more */
                g_assert_true(w.is_out && !w.step.is_check && w.step.step.is_back);
                g_assert_null(strstr(w.log->str, "changed"));
                while (w.is_out)
                        report(&w, 0);
                g_assert_nonnull(strstr(w.log->str, "ended"));
                g_assert_true(
                        g_str_has_suffix(g_strchomp(w.log->str), "look-ram0 look-vcpu0 checked-0/0/0/0"));
                g_assert_cmpint(hypervisor_find(w.h, "vm:v/a")->state, ==, REQUEST_ENDED);
                world_done(&w);
        }
}

static void test_vm_goes(void)
{
        struct world w;
        struct err err = {0};
        uint64_t serial;
        world_init(&w, true);
        (void)lease(&w, "a", "cpu:1");
        finish(&w);
        look(&w);
        g_assert_cmpint(hypervisor_release(w.h, "vm:v", "killed", 2000, &serial, &err), ==, 0);
        drain(&w);
        report(&w, REASON_STALE);
        while (w.is_out) {
                g_assert_false(w.step.is_check);
                report(&w, 0);
        }
        g_assert_null(strstr(w.log->str, "checked"));
        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->state, ==, REQUEST_ENDED);
        g_assert_cmpint(hypervisor_vm_check(w.h, "v", 2000, &serial, &err), ==, -EAGAIN);
        world_done(&w);
}

/* Who asks while it is under way has all looked at behind that, however often he asks. */
static void test_again(void)
{
        struct world w;
        world_init(&w, true);
        (void)lease(&w, "a", "cpu:1");
        finish(&w);
        look(&w);
        look(&w);
        look(&w);
        while (w.is_out)
                report(&w, 0);
        says(&w, "look-vcpu1 checked-0/0/0/0 look-ram0 look-vcpu0 checked-0/0/0/0 "
                 "look-vcpu1 checked-0/0/0/0 look-ram0 look-vcpu0 checked-0/0/0/0");
        /* What is asked for meanwhile is activated behind it. */
        look(&w);
        uint64_t b = lease(&w, "b", "memory:128M");
        finish(&w);
        g_assert_cmpint(hypervisor_request(w.h, b)->state, ==, REQUEST_GRANTED);
        world_done(&w);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/checks/good", test_good);
        g_test_add_func("/checks/repaired", test_repaired);
        g_test_add_func("/checks/repaired-disk", test_repaired_disk);
        g_test_add_func("/checks/lasting", test_lasting);
        g_test_add_func("/checks/policy", test_policy);
        g_test_add_func("/checks/unknown", test_unknown);
        g_test_add_func("/checks/unknown-after-repair", test_unknown_after_repair);
        g_test_add_func("/checks/released", test_released);
        g_test_add_func("/checks/vm-goes", test_vm_goes);
        g_test_add_func("/checks/again", test_again);
        return g_test_run();
}
