/* SPDX-License-Identifier: Apache-2.0 */
/* Another part of the machine is a hypervisor's: what is free comes and goes, what is claimed stays. */
#include "core/hypervisor.h"

#include <glib.h>
#include <string.h>

enum { MIB = 1024 * 1024, N = 4, CPU1 = 1, NODE0 = 2 };

/* clang-format off */
static const struct component machine[N] = {
        {.id = "cpu:0", .kind = COMPONENT_CPU, .os_index = 0, .capacity = 1000, .owned = 1000, .healthy = true},
        {.id = "cpu:1", .kind = COMPONENT_CPU, .os_index = 1, .capacity = 1000, .owned = 1000, .healthy = true},
        {.id = "memory:node0", .kind = COMPONENT_MEMORY, .capacity = 4096L * MIB, .owned = 1024L * MIB, .healthy = true},
        {.id = "net:eth0", .kind = COMPONENT_NET, .capacity = 100, .owned = 100, .healthy = true},
};
/* clang-format on */

static struct hypervisor *here;
static int64_t part[N];
static struct hypervisor_leaving leaving;
static unsigned events;

static void run(void)
{
        struct effect f;
        while (hypervisor_next_effect(here, &f)) {
                if (f.kind == EFFECT_STEP)
                        hypervisor_step_done(here, f.serial, f.token, NULL, NULL, 2000);
                events += f.kind == EFFECT_EVENT && strcmp(f.event, "repartitioned") == 0;
        }
        g_assert_true(hypervisor_is_sound(here));
}

static void begin(void)
{
        struct err err = {0};
        const struct hypervisor_config config = {.cpu_overcommit = 1,
                                                 .offer_ms = 1000,
                                                 .live_max = 100,
                                                 .live_per_vm_max = 8,
                                                 .finished_max = 64,
                                                 .retry_first_ms = 100,
                                                 .retry_max_ms = 1000,
                                                 .keeps = true,
                                                 .reclaim_ms = 20000,
                                                 .first_serial = 1};
        const struct vm_shape shape = {.name = "v",
                                       .cpus = 1,
                                       .cpus_max = 1,
                                       .share_milli = 200,
                                       .memory_bytes = 512L * MIB,
                                       .memory_max_bytes = 512L * MIB,
                                       .unit_bytes = 128L * MIB,
                                       .memory_slots = 4};
        here = hypervisor_new(&config, machine, N, 1000);
        for (size_t i = 0; i < N; i++)
                part[i] = machine[i].owned;
        g_assert_cmpint(hypervisor_vm_define(here, &shape, &err), ==, 0);
        g_assert_cmpint(hypervisor_vm_start(here, "v", 1000, &err), ==, 0);
        run();
        g_assert_cmpint(hypervisor_find(here, "vm:v")->state, ==, REQUEST_GRANTED);
        events = 0;
}

static int set(struct err *err)
{
        int bad = hypervisor_repartition(here, part, &leaving, "r1", "by the service processor, epoch 2",
                                         2000, err);
        run();
        return bad;
}

static int64_t owned(uint32_t component)
{
        size_t n;
        g_assert_cmpint(hypervisor_components(here, &n)[component].owned, ==,
                        ledger_owned(hypervisor_ledger(here), component));
        return ledger_owned(hypervisor_ledger(here), component);
}

static int reserve(const char *id, const char *text, int64_t start_ms)
{
        struct need need;
        struct err err = {0};
        uint64_t serial;
        const char *const words[] = {text};
        g_assert_cmpint(needs_parse(words, 1, &need, &err), ==, 0);
        struct ask a = {.kind = REQUEST_RESERVATION,
                        .id = id,
                        .needs = &need,
                        .n_needs = 1,
                        .start_ms = start_ms,
                        .end_ms = LEDGER_OPEN};
        g_assert_cmpint(hypervisor_ask(here, &a, 2000, &serial, &err), ==, 0);
        run();
        return hypervisor_request(here, serial)->outcome;
}

static void test_free(void)
{
        struct err err = {0};
        begin();
        part[NODE0] = 512L * MIB;
        part[3] = 0;
        g_assert_cmpint(set(&err), ==, 0);
        g_assert_cmpint(events, ==, 2); /* one a component that changed */
        g_assert_cmpint(owned(NODE0), ==, 512L * MIB);
        g_assert_cmpint(owned(3), ==, 0);
        g_assert_cmpint(reserve("r", "memory:128M", 0), ==, OUTCOME_NOT_NOW);
        part[NODE0] = 2048L * MIB;
        g_assert_cmpint(set(&err), ==, 0);
        g_assert_cmpint(reserve("s", "memory:1500M", 0), ==, OUTCOME_GRANTED);
        g_assert_cmpint(set(&err), ==, 0);
        g_assert_cmpint(events, ==, 3);
        hypervisor_free(here);
}

/* All or nothing: also what could have been changed is not. */
static void test_claimed(void)
{
        struct err err = {0};
        begin();
        uint32_t cpu = CPU1;
        const struct request *base = hypervisor_find(here, "vm:v");
        for (size_t i = 0; i < base->n_definitions; i++)
                cpu = base->definitions[i].kind == VIRTUAL_VCPU ? base->definitions[i].component : cpu;
        part[!cpu] = 0;
        part[cpu] = 0;
        g_assert_cmpint(set(&err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_UNREASSIGNABLE);
        g_assert_nonnull(strstr(err.sentence, "claimed by vm:v"));
        g_assert_cmpint(owned(!cpu), ==, 1000);
        part[cpu] = 1000;
        part[NODE0] = 511L * MIB;
        g_assert_cmpint(set(&err), <, 0);
        g_assert_cmpint(owned(!cpu), ==, 1000);
        g_assert_cmpint(events, ==, 0);
        part[NODE0] = 512L * MIB;
        g_assert_cmpint(set(&err), ==, 0);
        hypervisor_free(here);
}

/* What a VM has that is another's already goes with it; what others have does not, and nobody is given it
 * meanwhile. */
static void test_leaving(void)
{
        struct err err = {0};
        uint64_t serial;
        begin();
        g_assert_cmpint(reserve("r", "memory:128M", 0), ==, OUTCOME_GRANTED);
        part[NODE0] = 127L * MIB;
        leaving = (struct hypervisor_leaving){.n = 1, .vms = {"nobody"}};
        g_assert_cmpint(set(&err), <, 0);
        leaving.vms[0] = "v";
        g_assert_cmpint(set(&err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_UNREASSIGNABLE);
        part[NODE0] = 128L * MIB;
        g_assert_cmpint(set(&err), ==, 0);
        leaving.n = 0;
        g_assert_cmpint(owned(NODE0), ==, 128L * MIB);
        g_assert_cmpint(reserve("s", "memory:128M", 0), ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(hypervisor_release(here, "vm:v", "it was handed over", 2000, &serial, &err), ==, 0);
        run();
        g_assert_cmpint(owned(NODE0), ==, 128L * MIB);
        g_assert_cmpint(reserve("t", "memory:128M", 0), ==, OUTCOME_NOT_NOW);
        g_assert_true(hypervisor_is_sound(here));
        hypervisor_free(here);
}

/* A window that has not begun stands in the way, too. */
static void test_future(void)
{
        struct err err = {0};
        begin();
        g_assert_cmpint(reserve("later", "memory:256M", 1000000), ==, OUTCOME_GRANTED);
        part[NODE0] = 600L * MIB;
        g_assert_cmpint(set(&err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_UNREASSIGNABLE);
        part[NODE0] = 768L * MIB;
        g_assert_cmpint(set(&err), ==, 0);
        hypervisor_free(here);
}

/* What is kept of a stopped VM goes first, and the asker comes again. */
static void test_kept(void)
{
        struct err err = {0};
        uint64_t serial;
        begin();
        g_assert_cmpint(hypervisor_vm_stopped(here, "v", "powered down", 2000, &serial, &err), ==, 0);
        run();
        g_assert_nonnull(hypervisor_kept(here, "v"));
        part[NODE0] = 512L * MIB; /* room enough */
        g_assert_cmpint(set(&err), ==, 0);
        g_assert_nonnull(hypervisor_kept(here, "v"));
        part[NODE0] = 256L * MIB;
        g_assert_cmpint(set(&err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        g_assert_cmpint(owned(NODE0), ==, 512L * MIB);
        g_assert_null(hypervisor_kept(here, "v"));
        g_assert_cmpint(set(&err), ==, 0);
        g_assert_cmpint(owned(NODE0), ==, 256L * MIB);
        hypervisor_free(here);
}

static const struct vm_shape guest = {.name = "w",
                                      .cpus = 1,
                                      .cpus_max = 1,
                                      .share_milli = 200,
                                      .memory_bytes = 1024L * MIB,
                                      .memory_max_bytes = 1280L * MIB,
                                      .unit_bytes = 128L * MIB,
                                      .memory_slots = 4};

static int64_t claimed(void)
{
        return ledger_claimed(hypervisor_ledger(here), NODE0);
}

static void bring_guest(int64_t mib)
{
        int64_t brings[N] = {[NODE0] = mib * MIB};
        struct err err = {0};
        g_assert_cmpint(hypervisor_vm_define(here, &guest, &err), ==, 0);
        g_assert_cmpint(hypervisor_vm_fits(here, &guest, &err), ==,
                        0); /* this host gives away as much in all */
        g_assert_cmpint(hypervisor_vm_hold(here, "w", 60000, 2000, &err), ==, 0);
        run();
        g_assert_cmpint(hypervisor_find(here, "vm:w")->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(hypervisor_vm_brings(here, "w", brings, &err), ==, 0);
        g_assert_true(hypervisor_vm_is_bringing(here, "w"));
        g_assert_cmpint(hypervisor_vm_hold(here, "w", 60000, 2000, &err), ==, 0);
        run();
}

static const struct request *lease_arrives(const char *id, int64_t mib, int slot)
{
        struct need need;
        struct err err = {0};
        uint64_t serial;
        g_autofree char *text = g_strdup_printf("memory:%dM", (int)mib);
        const char *const words[] = {text};
        struct arrival comes = {VIRTUAL_DIMM, (int16_t)slot, mib * MIB};
        g_assert_cmpint(needs_parse(words, 1, &need, &err), ==, 0);
        struct ask a = {.kind = REQUEST_APP,
                        .vm = "w",
                        .id = id,
                        .needs = &need,
                        .n_needs = 1,
                        .end_ms = 900000,
                        .arrivals = &comes,
                        .n_arrivals = 1};
        g_assert_cmpint(hypervisor_ask(here, &a, 2000, &serial, &err), ==, 0);
        run();
        return hypervisor_request(here, serial);
}

/* A VM that brings its memory needs none that is here, takes none, and leaves none to others; with the
 * partition that has it, it is a VM as any other. */
static void test_brings(void)
{
        struct err err = {0};
        uint64_t serial;
        begin(); /* v has 512 of 1024 MiB */
        bring_guest(1152);
        g_assert_cmpint(hypervisor_find(here, "vm:w")->state, ==, REQUEST_OFFERED);
        g_assert_cmpint(claimed(), ==, 1536L * MIB);
        g_assert_cmpint(hypervisor_accept(here, "vm:w", 2000, &serial, &err), ==, 0);
        run();
        g_assert_cmpint(hypervisor_find(here, "vm:w")->state, ==, REQUEST_GRANTED);
        g_assert_cmpint(lease_arrives("big", 256, 0)->outcome, ==, OUTCOME_NOT_NOW); /* more than it brings */
        const struct request *lease = lease_arrives("m", 128, 1);
        g_assert_cmpint(lease->state, ==, REQUEST_GRANTED);
        g_autofree char *key = g_strdup(lease->key);
        g_assert_cmpint(claimed(), ==, 1664L * MIB);
        /* what is free here is what was, now and behind the end of the lease that came */
        g_assert_cmpint(reserve("r", "memory:513M", 0), ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(reserve("later", "memory:513M", 1000000), ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(reserve("s", "memory:512M", 0), ==, OUTCOME_GRANTED);
        /* the lease ends: what it brought is nobody's here */
        g_assert_cmpint(hypervisor_release(here, key, "released", 2000, &serial, &err), ==, 0);
        run();
        g_assert_cmpint(reserve("t", "memory:1M", 0), ==, OUTCOME_NOT_NOW);
        /* a change of the host leaves it as it is */
        struct host_change change = {.component = NODE0, .healthy = true, .lost = 0};
        (void)hypervisor_host_changed(here, &change, 1, "by a test", 2000);
        run();
        g_assert_cmpint(hypervisor_find(here, "vm:w")->state, ==, REQUEST_GRANTED);
        /* ours, and what it does not have of it is free */
        part[NODE0] += 1152L * MIB;
        hypervisor_vm_brought(here, "w");
        g_assert_cmpint(set(&err), ==, 0);
        g_assert_false(hypervisor_vm_is_bringing(here, "w"));
        g_assert_cmpint(owned(NODE0), ==, 2176L * MIB);
        g_assert_cmpint(reserve("u", "memory:129M", 0), ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(reserve("u2", "memory:128M", 0), ==, OUTCOME_GRANTED);
        hypervisor_free(here);
}

/* It leaves again before anything was assigned: all is as it was. */
static void test_brings_and_leaves(void)
{
        struct err err = {0};
        uint64_t serial;
        begin();
        bring_guest(1024);
        g_assert_cmpint(hypervisor_accept(here, "vm:w", 2000, &serial, &err), ==, 0);
        run();
        /* what it has may not be more than it brings */
        int64_t less[N] = {[NODE0] = 1023L * MIB};
        g_assert_cmpint(hypervisor_vm_brings(here, "w", less, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INCOMPATIBLE);
        run();
        g_assert_cmpint(hypervisor_release(here, "vm:w", "it did not come", 2000, &serial, &err), ==, 0);
        run();
        g_assert_cmpint(claimed(), ==, 512L * MIB);
        g_assert_cmpint(owned(NODE0), ==, 1024L * MIB);
        g_assert_cmpint(hypervisor_vm_forget(here, "w", &err), ==, 0);
        run();
        g_assert_cmpint(reserve("r", "memory:513M", 0), ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(reserve("s", "memory:512M", 0), ==, OUTCOME_GRANTED);
        hypervisor_free(here);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/repartition/free", test_free);
        g_test_add_func("/repartition/claimed", test_claimed);
        g_test_add_func("/repartition/leaving", test_leaving);
        g_test_add_func("/repartition/future", test_future);
        g_test_add_func("/repartition/kept", test_kept);
        g_test_add_func("/repartition/brings", test_brings);
        g_test_add_func("/repartition/brings-and-leaves", test_brings_and_leaves);
        return g_test_run();
}
