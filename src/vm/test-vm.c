/* SPDX-License-Identifier: Apache-2.0 */
/* A connection to a VMM that is played: it has vCPUs and memory, and is told when to refuse, to keep silent,
 * to lie and to die. Real ones are in test-live.c. */
#include "vm/vm.h"

#include <errno.h>
#include <glib.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "json/read.h"
#include "vm/pick.h"
#include "vm/socket.h"
#include "vm/test-played.h"
#include "vm/test-sample.h"

enum { UNIT = 128 << 20 };

enum guest { GUEST_YIELDS = 1, GUEST_YIELDS_BY_OST, GUEST_REFUSES, GUEST_REFUSES_BY_ERROR, GUEST_SILENT };

/* The VMM. */
static struct {
        const char *name, *uuid;
        bool cpu[4];
        int64_t backend[8];
        bool dimm[8];
        enum guest guest;
        bool is_paused;
        const char *fails;  /* this command has an error */
        const char *mute;   /* this one no answer at all */
        const char *lies;   /* this one says yes and does nothing */
        const char *broken; /* this one answers nonsense */
        int dies_at;        /* the connections end at the command of this number, from 1 on; 0: never */
        bool dies_after;    /* having carried it out */
        int commands;       /* since the last attach */
        int64_t size_limit;
} vmm;

static char *dir;

static void vmm_event(const char *name, json_t *data)
{
        json_t *v =
                json_pack("{s:s, s:{s:i, s:i}}", "event", name, "timestamp", "seconds", 1, "microseconds", 2);
        if (data != NULL)
                json_object_set_new(v, "data", data);
        for (int i = 0; i < MONITORS; i++)
                played_say(i, json_incref(v));
        json_decref(v);
}

/* What the guest makes of a request to let go. */
static void vmm_eject(const char *id)
{
        int slot = atoi(strpbrk(id, "0123456789"));
        bool cpu = id[0] == 'c';
        switch (vmm.guest) {
        case GUEST_YIELDS:
        case GUEST_YIELDS_BY_OST:
                *(cpu ? &vmm.cpu[slot] : &vmm.dimm[slot]) = false;
                if (vmm.guest == GUEST_YIELDS) {
                        vmm_event("DEVICE_DELETED", json_pack("{s:s}", "path", "/machine/peripheral/other"));
                        vmm_event("DEVICE_DELETED",
                                  json_pack("{s:s, s:s}", "device", id, "path", "/machine"));
                } else {
                        char text[8];
                        snprintf(text, sizeof(text), "%d", slot);
                        vmm_event("ACPI_DEVICE_OST",
                                  json_pack("{s:{s:i, s:i, s:s, s:s}}", "info", "source", 3, "status", 0,
                                            "slot", text, "slot-type", cpu ? "CPU" : "DIMM"));
                }
                break;
        case GUEST_REFUSES:
                for (int status = 132; status >= 1; status -= 131) /* under way, then no */
                        vmm_event("ACPI_DEVICE_OST", json_pack("{s:{s:s, s:i, s:i}}", "info", "device", id,
                                                               "source", 3, "status", status));
                break;
        case GUEST_REFUSES_BY_ERROR:
                vmm_event("MEM_UNPLUG_ERROR", json_pack("{s:s, s:s}", "device", id, "msg", "no"));
                break;
        case GUEST_SILENT:
                break;
        }
}

static json_t *cpu_list(bool hotpluggable)
{
        json_t *list = json_array();
        for (int slot = 3; slot >= 0; slot--) { /* in QEMU's order */
                json_t *props = json_pack("{s:i, s:i, s:i, s:i}", "core-id", slot, "thread-id", 0,
                                          "socket-id", 0, "node-id", 0);
                json_t *entry = json_pack("{s:o}", "props", props);
                if (hotpluggable)
                        json_object_set_new(entry, "type", json_string("Westmere-v1-x86_64-cpu"));
                else
                        json_object_set_new(entry, "thread-id", json_integer(1000 + slot));
                if (hotpluggable || vmm.cpu[slot])
                        json_array_append_new(list, entry);
                else
                        json_decref(entry);
        }
        return list;
}

static json_t *memory_list(bool devices)
{
        json_t *list = json_array();
        json_array_append_new(
                list, devices ? json_pack("{s:s, s:{s:s}}", "type", "virtio-mem", "data", "id", "dimm01")
                              : json_pack("{s:s, s:i}", "id", "ram0", "size", 512 << 20));
        for (int slot = 0; slot < 8; slot++) {
                char id[16];
                snprintf(id, sizeof(id), devices ? "dimm%d" : "dimmmem%d", slot);
                if (devices && vmm.dimm[slot])
                        json_array_append_new(list, json_pack("{s:s, s:{s:s, s:I}}", "type", "dimm", "data",
                                                              "id", id, "addr", (json_int_t)1 << 32));
                else if (!devices && vmm.backend[slot] != 0)
                        json_array_append_new(list, json_pack("{s:s, s:I}", "id", id, "size",
                                                              (json_int_t)vmm.backend[slot]));
        }
        return list;
}

static bool is(const char *command, const char *which)
{
        return which != NULL && strcmp(command, which) == 0;
}

/* NULL: an error. Changes what the VMM has. */
static json_t *vmm_do(const char *command, const json_t *arguments)
{
        const char *id = pick_text(arguments, "id");
        if (is(command, "query-name"))
                return json_pack("{s:s}", "name", vmm.name);
        if (is(command, "query-uuid"))
                return json_pack("{s:s}", "UUID", vmm.uuid);
        if (is(command, "query-status"))
                return json_pack("{s:s, s:b}", "status", vmm.is_paused ? "paused" : "running", "running",
                                 !vmm.is_paused);
        if (is(command, "query-hotpluggable-cpus") || is(command, "query-cpus-fast"))
                return cpu_list(command[6] == 'h');
        if (is(command, "query-memdev") || is(command, "query-memory-devices"))
                return memory_list(is(command, "query-memory-devices"));
        if (is(command, "query-yank"))
                return json_array();
        if (is(command, "object-add")) {
                int slot = atoi(id + strlen("dimmmem"));
                if (vmm.backend[slot] != 0 ||
                    !pick_integer(arguments, "size", UNIT, INT64_C(1) << 40, &vmm.backend[slot]))
                        return NULL;
                return json_object();
        }
        if (is(command, "object-del")) {
                int slot = atoi(id + strlen("dimmmem"));
                if (vmm.backend[slot] == 0 || vmm.dimm[slot])
                        return NULL;
                vmm.backend[slot] = 0;
                return json_object();
        }
        if (is(command, "device_add") && is(pick_text(arguments, "driver"), "pc-dimm")) {
                int slot = atoi(id + strlen("dimm"));
                if (vmm.dimm[slot] || vmm.backend[slot] == 0 || vmm.backend[slot] > vmm.size_limit)
                        return NULL;
                vmm.dimm[slot] = true;
                return json_object();
        }
        if (is(command, "device_add")) {
                int64_t slot;
                if (!pick_integer(arguments, "core-id", 0, 3, &slot) || vmm.cpu[slot] ||
                    !is(pick_text(arguments, "driver"), "Westmere-v1-x86_64-cpu"))
                        return NULL;
                vmm.cpu[slot] = true;
                return json_object();
        }
        return is(command, "device_del") || is(command, "cont") || is(command, "quit") ||
                               is(command, "system_powerdown")
                       ? json_object()
                       : NULL;
}

static void vmm_serve(int i, const char *command, json_t *arguments, const json_t *id)
{
        json_t *ret = NULL;
        bool counts = !is(command, "qmp_capabilities");
        bool dies = counts && ++vmm.commands == vmm.dies_at;
        if (!counts || is(command, vmm.lies))
                ret = json_object();
        else if (is(command, vmm.broken))
                ret = json_string("nonsense");
        else if (!is(command, vmm.fails) && (!dies || vmm.dies_after))
                ret = vmm_do(command, arguments);
        if (dies) {
                json_decref(ret);
                played_hang_up();
        } else if (is(command, vmm.mute)) {
                json_decref(ret);
        } else {
                played_answer(i, id, ret);
                if (is(command, "device_del") && ret != NULL && !is(command, vmm.lies))
                        vmm_eject(pick_text(arguments, "id"));
                if (is(command, "quit"))
                        played_hang_up();
        }
}

/* ---- the owner */

struct rig {
        struct api_vm_definition d;
        struct vm *vm;
        struct vm_result result;
        int results, deaths;
        unsigned events[VM_EVENT_N];
        int index[VM_EVENT_N];
        char words[64];
        bool free_on_result, free_on_event, free_on_death, call_on_death;
};

static void let_go(struct rig *r)
{
        struct vm *vm = r->vm;
        r->vm = NULL;
        vm_free(vm);
}

static void on_result(void *arg, const struct vm_result *result)
{
        struct rig *r = arg;
        g_assert_true((result->err.reason == 0) ==
                      (result->outcome == VM_DONE || result->outcome == VM_PARKED));
        r->result = *result;
        r->results++;
        if (r->free_on_result && r->vm != NULL)
                let_go(r);
}

static void on_event(void *arg, struct vm *vm, enum vm_event event, int index, const char *words)
{
        struct rig *r = arg;
        r->events[event]++;
        r->index[event] = index;
        snprintf(r->words, sizeof(r->words), "%s", words);
        if (r->free_on_event)
                let_go(r);
}

static void on_death(void *arg, struct vm *vm, const struct err *why)
{
        struct rig *r = arg;
        r->deaths++;
        g_assert_cmpint(why->reason, !=, 0);
        if (r->call_on_death)
                vm_cont(vm, 1000, on_result, r);
        if (r->free_on_death)
                let_go(r);
}

#define WAIT_FOR(condition, ms)                                                                              \
        for (gint64 end = g_get_monotonic_time() + (gint64)(ms)*1000;                                        \
             !(condition) && g_get_monotonic_time() < end;)                                                  \
                if (!g_main_context_iteration(NULL, FALSE))                                                  \
                        g_usleep(100);

static void settle(void)
{
        for (int i = 0; i < 30; i++)
                if (!g_main_context_iteration(NULL, FALSE))
                        g_usleep(100);
}

static void expect(struct rig *r, enum vm_outcome outcome)
{
        WAIT_FOR(r->results > 0, 5000);
        g_assert_cmpint(r->results, ==, 1);
        r->results = 0;
        if (r->result.outcome != outcome)
                g_error("%s instead of %s: %s", vm_outcome_name(r->result.outcome), vm_outcome_name(outcome),
                        r->result.err.sentence);
}

static void attach_within(struct rig *r, int timeout_ms)
{
        struct err err = {0};
        vmm.commands = 0;
        r->vm = vm_attach(&(struct vm_options){.definition = &r->d,
                                               .qmp_path = played.path[0],
                                               .oob_path = played.path[1],
                                               .ram_dir = "/ram",
                                               .on_event = on_event,
                                               .on_death = on_death},
                          timeout_ms, on_result, r, &err);
        if (r->vm == NULL)
                g_error("%s", err.sentence);
}

static void attach(struct rig *r)
{
        attach_within(r, 2000);
}

static void opened(struct rig *r)
{
        *r = (struct rig){.d = sample_definition()};
        r->d.dimm_slots = 8;
        played_open(dir, 7, vmm_serve);
        vmm.name = "v1";
        vmm.uuid = "4f0a3c1e-1111-4222-8333-444455556666";
        vmm.cpu[0] = true;
        vmm.guest = GUEST_YIELDS;
        vmm.size_limit = INT64_C(1) << 30;
}

static void closed(struct rig *r)
{
        if (r->vm != NULL)
                let_go(r);
        played_close();
        memset(&vmm, 0, sizeof(vmm));
}

/* ---- */

static void test_attach(void)
{
        struct rig r;
        opened(&r);
        vmm.cpu[2] = true;
        vmm.backend[3] = UNIT;
        vmm.backend[4] = 2 * UNIT;
        vmm.dimm[4] = true;
        attach(&r);
        expect(&r, VM_DONE);
        g_assert_cmpint(vm_cpu(r.vm, 2)->tid, ==, 1002);
        g_assert_false(vm_cpu(r.vm, 1)->plugged);
        g_assert_true(vm_dimm(r.vm, 3)->backed && !vm_dimm(r.vm, 3)->plugged);
        g_assert_true(vm_dimm(r.vm, 4)->plugged);
        g_assert_cmpint(vm_dimm(r.vm, 4)->bytes, ==, 2 * UNIT);
        g_assert_false(vm_dimm(r.vm, 1)->plugged); /* "dimm01" is none of ours */
        g_assert_cmpint(vm_run(r.vm), ==, VM_RUN_RUNNING);
        vm_ping(r.vm, 1000, on_result, &r);
        expect(&r, VM_DONE);
        closed(&r);
}

static void test_attach_refused(void)
{
        static const struct {
                const char *name, *uuid, *mute, *broken;
                enum reason reason;
        } rows[] = {
                {"v2", NULL,                                   NULL, NULL,              REASON_INCOMPATIBLE},
                {NULL, "00000000-1111-4222-8333-444455556666", NULL, NULL,              REASON_INCOMPATIBLE},
                {NULL, NULL,                                   NULL, "query-cpus-fast", REASON_INTERNAL    },
                {NULL, NULL,                                   NULL, "query-uuid",      REASON_INTERNAL    },
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct rig r;
                opened(&r);
                vmm.name = rows[i].name != NULL ? rows[i].name : vmm.name;
                vmm.uuid = rows[i].uuid != NULL ? rows[i].uuid : vmm.uuid;
                vmm.broken = rows[i].broken;
                attach(&r);
                expect(&r, VM_FAILED);
                g_assert_cmpint(r.result.err.reason, ==, rows[i].reason);
                /* Nothing is done to a VM that may be another's. */
                vm_cpu_ensure(r.vm, 1, 1000, on_result, &r);
                expect(&r, VM_FAILED);
                g_assert_false(vmm.cpu[1]);
                closed(&r);
        }
        struct rig r;
        struct err err = {0};
        opened(&r);
        let_go(&r); /* nothing */
        g_assert_null(vm_attach(&(struct vm_options){.definition = &r.d,
                                                     .qmp_path = "/nonexistent",
                                                     .oob_path = "/nonexistent",
                                                     .ram_dir = "/ram"},
                                100, on_result, &r, &err));
        g_assert_cmpint(err.reason, ==, REASON_PEER_LOST);
        r.d.cpus = 9;
        g_assert_null(vm_attach(
                &(struct vm_options){.definition = &r.d, .qmp_path = "", .oob_path = "", .ram_dir = ""}, 100,
                on_result, &r, &err));
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        settle();
        g_assert_cmpint(r.results, ==, 0);
        closed(&r);
}

static gboolean never(gpointer data)
{
        (void)data;
        return G_SOURCE_CONTINUE;
}

/* Nobody takes the connections, as of a VMM that is stopped: it is not attached to, and not said to be dead.
 */
static void test_attach_to_one_that_is_slow(void)
{
        struct rig r;
        opened(&r);
        for (int i = 0; i < MONITORS; i++) {
                g_source_remove(played.accepting[i]);
                played.accepting[i] = g_timeout_add_seconds(3600, never, NULL);
        }
        attach_within(&r, 50);
        expect(&r, VM_FAILED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_TIMEOUT);
        WAIT_FOR(r.deaths > 0, 100);
        g_assert_cmpint(r.deaths, ==, 0);
        closed(&r);
}

static void test_cpus(void)
{
        for (int kvm = 0; kvm <= 1; kvm++) {
                struct rig r;
                opened(&r);
                r.d.accelerator = kvm ? API_ACCELERATOR_KVM : API_ACCELERATOR_TCG;
                r.d.cpu_mechanism = kvm ? API_CPU_MECHANISM_UNPLUG : API_CPU_MECHANISM_PARK;
                attach(&r);
                expect(&r, VM_DONE);
                vm_cpu_ensure(r.vm, 3, 1000, on_result, &r);
                expect(&r, VM_DONE);
                g_assert_cmpint(r.result.tid, ==, 1003);
                g_assert_cmpint(vmm.cpu[1] + vmm.cpu[2], ==, kvm ? 0 : 2);
                g_assert_cmpint(r.events[VM_EVENT_CPU_NEW], ==, kvm ? 0 : 2);
                g_assert_cmpint(r.index[VM_EVENT_CPU_NEW], ==, kvm ? 0 : 2);
                vm_cpu_remove(r.vm, 3, 1000, on_result, &r);
                expect(&r, kvm ? VM_DONE : VM_PARKED);
                g_assert_cmpint(vmm.cpu[3], ==, !kvm);
                if (kvm) {
                        vm_cpu_remove(r.vm, 3, 1000, on_result, &r); /* once more */
                        expect(&r, VM_DONE);
                        vmm.guest = GUEST_YIELDS_BY_OST;
                        vm_cpu_ensure(r.vm, 3, 1000, on_result, &r);
                        expect(&r, VM_DONE);
                        vm_cpu_remove(r.vm, 3, 1000, on_result, &r);
                        expect(&r, VM_DONE);
                        g_assert_false(vmm.cpu[3]);
                        vmm.guest = GUEST_REFUSES;
                        vm_cpu_ensure(r.vm, 3, 1000, on_result, &r);
                        expect(&r, VM_DONE);
                        vm_cpu_remove(r.vm, 3, 1000, on_result, &r);
                        expect(&r, VM_REFUSED);
                        g_assert_true(vm_cpu(r.vm, 3)->plugged);
                }
                closed(&r);
        }
}

static void test_memory(void)
{
        struct rig r;
        opened(&r);
        attach(&r);
        expect(&r, VM_DONE);
        vm_memory_ensure(r.vm, 2, UNIT, 1000, on_result, &r);
        expect(&r, VM_DONE);
        g_assert_cmpint(vmm.backend[2], ==, UNIT);
        g_assert_true(vmm.dimm[2]);
        vm_memory_ensure(r.vm, 2, 2 * UNIT, 1000, on_result, &r);
        expect(&r, VM_FAILED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_STALE);
        vmm.guest = GUEST_REFUSES;
        vm_memory_remove(r.vm, 2, 1000, on_result, &r);
        expect(&r, VM_REFUSED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_BUSY);
        vmm.guest = GUEST_REFUSES_BY_ERROR;
        vm_memory_remove(r.vm, 2, 1000, on_result, &r);
        expect(&r, VM_REFUSED);
        vmm.guest = GUEST_SILENT;
        vm_memory_remove(r.vm, 2, 20, on_result, &r);
        expect(&r, VM_LATE);
        g_assert_cmpint(r.result.err.reason, ==, REASON_TIMEOUT);
        /* It lets go after all. */
        vmm.guest = GUEST_YIELDS;
        vmm_eject("dimm2");
        WAIT_FOR(r.events[VM_EVENT_DIMM_GONE] > 0, 1000);
        g_assert_cmpint(r.index[VM_EVENT_DIMM_GONE], ==, 2);
        vm_memory_remove(r.vm, 2, 1000, on_result, &r);
        expect(&r, VM_DONE);
        g_assert_cmpint(vmm.backend[2], ==, 0);
        /* The device is refused: no memory is left behind. */
        vmm.size_limit = UNIT;
        vm_memory_ensure(r.vm, 3, 2 * UNIT, 1000, on_result, &r);
        expect(&r, VM_FAILED);
        g_assert_nonnull(strstr(r.result.err.sentence, "device_add: cannot do that"));
        g_assert_cmpint(vmm.backend[3], ==, 0);
        closed(&r);
}

static void test_lies(void)
{
        static const struct {
                const char *lies, *mute, *fails, *broken;
                enum reason reason;
        } rows[] = {
                {"device_add", NULL,           NULL,                   NULL,           REASON_INTERNAL},
                {"object-add", NULL,           NULL,                   NULL,           REASON_INTERNAL},
                {NULL,         "device_add",   NULL,                   NULL,           REASON_TIMEOUT },
                {NULL,         "query-memdev", NULL,                   NULL,           REASON_TIMEOUT },
                {NULL,         NULL,           "object-add",           NULL,           REASON_INTERNAL},
                {NULL,         NULL,           "query-memory-devices", NULL,           REASON_INTERNAL},
                {NULL,         NULL,           NULL,                   "query-memdev", REASON_INTERNAL},
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct rig r;
                opened(&r);
                attach(&r);
                expect(&r, VM_DONE);
                vmm.lies = rows[i].lies;
                vmm.mute = rows[i].mute;
                vmm.fails = rows[i].fails;
                vmm.broken = rows[i].broken;
                vm_memory_ensure(r.vm, 1, UNIT, rows[i].mute != NULL ? 50 : 2000, on_result, &r);
                expect(&r, VM_FAILED);
                g_assert_cmpstr(reason_name(r.result.err.reason), ==, reason_name(rows[i].reason));
                /* The truth again, and all is well. */
                vmm.lies = vmm.mute = vmm.fails = vmm.broken = NULL;
                vm_memory_ensure(r.vm, 1, UNIT, 2000, on_result, &r);
                expect(&r, VM_DONE);
                g_assert_true(vmm.dimm[1]);
                closed(&r);
        }
}

enum step { STEP_CPU_ENSURE = 1, STEP_CPU_REMOVE, STEP_MEMORY_ENSURE, STEP_MEMORY_REMOVE, STEP_N };

static void call_step(struct rig *r, enum step step)
{
        switch (step) {
        case STEP_CPU_ENSURE:
                vm_cpu_ensure(r->vm, 2, 2000, on_result, r);
                break;
        case STEP_CPU_REMOVE:
                vm_cpu_remove(r->vm, 2, 2000, on_result, r);
                break;
        case STEP_MEMORY_ENSURE:
                vm_memory_ensure(r->vm, 1, UNIT, 2000, on_result, r);
                break;
        case STEP_MEMORY_REMOVE:
                vm_memory_remove(r->vm, 1, 2000, on_result, r);
                break;
        case STEP_N:
                g_assert_not_reached();
        }
}

static void call_and_expect(struct rig *r, enum step step)
{
        call_step(r, step);
        expect(r, VM_DONE);
}

/* Cut off at each command, carried out or not, and called again after attaching anew: the target is reached.
 */
static void test_cut_off_anywhere(void)
{
        for (enum step step = STEP_CPU_ENSURE; step < STEP_N; step++) {
                int points = 0;
                for (int at = 1, after = 0; at < 60; after = !after, at += !after) {
                        struct rig r;
                        opened(&r);
                        r.d.cpu_mechanism = API_CPU_MECHANISM_UNPLUG;
                        attach(&r);
                        expect(&r, VM_DONE);
                        if (step == STEP_CPU_REMOVE)
                                call_and_expect(&r, STEP_CPU_ENSURE);
                        if (step == STEP_MEMORY_REMOVE)
                                call_and_expect(&r, STEP_MEMORY_ENSURE);
                        vmm.dies_at = vmm.commands + at;
                        vmm.dies_after = after;
                        call_step(&r, step);
                        WAIT_FOR(r.results > 0, 2000);
                        bool reached = r.result.outcome == VM_DONE && r.deaths == 0;
                        if (!reached) {
                                points++;
                                g_assert_cmpint(r.result.outcome, ==, VM_FAILED);
                                g_assert_cmpint(r.result.err.reason, ==, REASON_PEER_LOST);
                                WAIT_FOR(r.deaths > 0, 1000);
                                g_assert_cmpint(r.deaths, ==, 1);
                                vmm.dies_at = 0;
                                vm_free(r.vm);
                                r.results = 0;
                                attach(&r);
                                expect(&r, VM_DONE);
                                call_and_expect(&r, step);
                        }
                        g_assert_cmpint(vmm.cpu[2], ==, step == STEP_CPU_ENSURE);
                        g_assert_cmpint(vmm.dimm[1], ==, step == STEP_MEMORY_ENSURE);
                        g_assert_cmpint(vmm.backend[1], ==, step == STEP_MEMORY_ENSURE ? UNIT : 0);
                        closed(&r);
                        if (reached)
                                break;
                }
                g_test_message("step %d: cut off at %d points", step, points);
                g_assert_cmpint(points, >=, 8);
        }
}

static void test_order_and_deadlines(void)
{
        struct rig r;
        opened(&r);
        attach(&r); /* operations may be called at once; they wait for their turn */
        vm_memory_ensure(r.vm, 0, UNIT, 2000, on_result, &r);
        vm_cpu_ensure(r.vm, 1, 2000, on_result, &r);
        g_assert_cmpint(vm_operations(r.vm), ==, 3);
        WAIT_FOR(r.results == 3, 2000);
        g_assert_cmpint(r.result.tid, ==, 1001);
        r.results = 0;
        vmm.guest = GUEST_SILENT;
        vm_memory_remove(r.vm, 0, 60, on_result, &r);
        vm_refresh(r.vm, 20, on_result, &r); /* its time is over before its turn */
        expect(&r, VM_FAILED);
        g_assert_cmpint(r.result.err.reason, ==, REASON_TIMEOUT);
        vm_refresh(r.vm, 2000, on_result, &r);
        WAIT_FOR(r.results == 2, 2000);
        g_assert_cmpint(r.result.outcome, ==, VM_DONE);
        g_assert_cmpint(vm_operations(r.vm), ==, 0);
        closed(&r);
}

static void test_events(void)
{
        struct rig r;
        opened(&r);
        attach(&r);
        expect(&r, VM_DONE);
        vmm_event("RESET", json_pack("{s:b, s:s}", "guest", 1, "reason", "guest-reset"));
        vmm_event("STOP", NULL);
        vmm_event("GUEST_PANICKED", json_pack("{s:s}", "action", "pause"));
        vmm_event("RESUME", NULL);
        vmm_event("DEVICE_DELETED", json_pack("{s:s}", "device", "dimm99"));
        vmm_event("DEVICE_DELETED", json_pack("{s:s}", "device", "dimm1x"));
        vmm_event("DEVICE_DELETED", json_pack("{s:s}", "device", "dimm4294967297"));
        vmm_event("DEVICE_DELETED", json_string("dimm1"));
        vmm_event("ACPI_DEVICE_OST", json_pack("{s:i}", "info", 5));
        vmm_event("SHUTDOWN", json_pack("{s:b, s:s}", "guest", 1, "reason", "guest\nshutdown"));
        WAIT_FOR(r.events[VM_EVENT_SHUTDOWN] > 0, 1000);
        for (int e = VM_EVENT_SHUTDOWN; e < VM_EVENT_N; e++)
                g_assert_cmpint(r.events[e], ==, e <= VM_EVENT_PANIC); /* once, though both monitors say it */
        g_assert_cmpstr(r.words, ==, "guest?shutdown");
        g_assert_cmpint(vm_run(r.vm), ==, VM_RUN_SHUTDOWN);
        closed(&r);
}

static void test_death(void)
{
        /* Either monitor. */
        for (int i = 0; i < MONITORS; i++) {
                struct rig r;
                opened(&r);
                attach(&r);
                expect(&r, VM_DONE);
                r.call_on_death = true;
                vmm.mute = "query-memdev";
                vm_memory_ensure(r.vm, 1, UNIT, 2000, on_result, &r);
                vm_cont(r.vm, 2000, on_result, &r);
                settle();
                shutdown(played.fd[i], SHUT_RDWR);
                WAIT_FOR(r.results == 3, 1000);
                g_assert_cmpint(r.results, ==, 3);
                g_assert_cmpint(r.deaths, ==, 1);
                g_assert_cmpint(r.result.err.reason, ==, REASON_PEER_LOST);
                closed(&r);
        }
        struct rig r;
        opened(&r);
        attach(&r);
        expect(&r, VM_DONE);
        vm_quit(r.vm, 1000, on_result, &r);
        expect(&r, VM_DONE);
        WAIT_FOR(r.deaths > 0, 1000);
        g_assert_cmpint(r.deaths, ==, 1);
        closed(&r);
}

/* Of one that died it is known whether it may have run: it was told so, or it did not come to that. */
static void test_told_to_run(void)
{
        for (int at = 1; at <= 2; at++) { /* as it is looked at, as it is told */
                struct rig r;
                opened(&r);
                vmm.is_paused = true;
                attach(&r);
                expect(&r, VM_DONE);
                g_assert_false(vm_was_told_to_run(r.vm));
                vmm.dies_at = vmm.commands + at;
                vm_cont(r.vm, 2000, on_result, &r);
                expect(&r, VM_FAILED);
                g_assert_cmpint(vm_was_told_to_run(r.vm), ==, at == 2);
                closed(&r);
        }
}

/* The owner lets go from within each callback; every answer comes once. */
static void test_free_within(void)
{
        struct rig r;
        opened(&r);
        r.free_on_result = true;
        attach(&r);
        vm_refresh(r.vm, 1000, on_result, &r);
        vm_ping(r.vm, 1000, on_result, &r);
        WAIT_FOR(r.results == 3, 1000);
        g_assert_cmpint(r.results, ==, 3);
        closed(&r);

        opened(&r);
        attach(&r);
        expect(&r, VM_DONE);
        r.free_on_event = true;
        vm_cpu_ensure(r.vm, 3, 1000, on_result, &r); /* VM_EVENT_CPU_NEW comes on the way */
        WAIT_FOR(r.results == 1, 1000);
        g_assert_cmpint(r.result.err.reason, ==, REASON_CANCELLED);
        g_assert_cmpint(r.events[VM_EVENT_CPU_NEW], ==, 1);
        closed(&r);

        opened(&r);
        attach(&r);
        expect(&r, VM_DONE);
        r.free_on_death = r.call_on_death = true;
        played_hang_up();
        WAIT_FOR(r.deaths == 1, 1000);
        settle();
        g_assert_cmpint(r.results, ==, 1);
        g_assert_cmpint(r.result.err.reason, ==, REASON_CANCELLED);
        closed(&r);

        /* In the midst of a flight. */
        opened(&r);
        attach(&r);
        vm_refresh(r.vm, 1000, on_result, &r);
        for (int i = 0; i < 3; i++)
                g_main_context_iteration(NULL, FALSE);
        let_go(&r);
        g_assert_cmpint(r.results, ==, 2);
        closed(&r);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-vm-XXXXXX", NULL);
        g_test_add_func("/vm/attach", test_attach);
        g_test_add_func("/vm/attach-refused", test_attach_refused);
        g_test_add_func("/vm/attach-to-one-that-is-slow", test_attach_to_one_that_is_slow);
        g_test_add_func("/vm/cpus", test_cpus);
        g_test_add_func("/vm/memory", test_memory);
        g_test_add_func("/vm/lies", test_lies);
        g_test_add_func("/vm/cut-off-anywhere", test_cut_off_anywhere);
        g_test_add_func("/vm/order-and-deadlines", test_order_and_deadlines);
        g_test_add_func("/vm/events", test_events);
        g_test_add_func("/vm/death", test_death);
        g_test_add_func("/vm/told-to-run", test_told_to_run);
        g_test_add_func("/vm/free-within", test_free_within);
        int r = g_test_run();
        g_rmdir(dir);
        g_free(dir);
        return r;
}
