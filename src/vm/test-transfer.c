/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of a handover beside a VMM that is played: what it is told and in which order, and what becomes
 * of it when that refuses, keeps silent, lies, or dies; what two sides must have in common. Real VMMs are in
 * test-transfer-live.c. */
#include "vm/transfer.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/str.h"
#include "json/read.h"
#include "vm/pick.h"
#include "vm/test-played.h"
#include "vm/test-sample.h"

enum { LONG_MS = 20000, SHORT_MS = 60 };

/* The VMM. */
static struct {
        GString *heard; /* the commands of a handover, with spaces between them */
        const char *fails, *mute, *broken, *dies_at;
        bool is_deaf, is_private;
        const char *status, *later; /* of its migration; what it becomes after some looks */
        int looks, settles_after;
        json_t *capabilities;
} vmm;

static char *dir;

static bool is(const char *command, const char *which)
{
        return which && strcmp(command, which) == 0;
}

static json_t *vmm_do(const char *command, const json_t *arguments)
{
        if (is(command, "query-name"))
                return json_pack("{s:s}", "name", "v1");
        if (is(command, "query-uuid"))
                return json_pack("{s:s}", "UUID", "4f0a3c1e-1111-4222-8333-444455556666");
        if (is(command, "query-status"))
                return json_pack("{s:s}", "status",
                                 vmm.settles_after-- > 0 ? "finish-migrate" : "postmigrate");
        if (is(command, "query-memdev"))
                return json_pack("[{s:s, s:I, s:b}, {s:s, s:I, s:b}]", "id", "ram0", "size",
                                 (json_int_t)512 << 20, "share", !vmm.is_private, "id", "dimmmem0", "size",
                                 (json_int_t)128 << 20, "share", 1);
        if (is(command, "qom-get"))
                return json_pack("s++", "/ram/",
                                 strstr(pick_text(arguments, "path"), "ram") ? "ram0" : "dimm0-128M", "");
        if (is(command, "query-migrate-capabilities"))
                return vmm.is_deaf ? json_array() : json_incref(vmm.capabilities);
        if (is(command, "migrate-set-capabilities")) {
                json_decref(vmm.capabilities);
                vmm.capabilities = json_incref(json_object_get(arguments, "capabilities"));
        }
        if (is(command, "query-migrate") && vmm.status) {
                if (vmm.later && ++vmm.looks > 2)
                        vmm.status = vmm.later;
                return json_pack("{s:s, s:i, s:i, s:{s:i, s:i}}", "status", vmm.status, "total-time",
                                 ++vmm.looks > 1 ? 12 : 0, "downtime", 5, "ram", "transferred", 200000,
                                 "normal-bytes", 4096);
        }
        return g_str_has_prefix(command, "query-") && !strstr(command, "migrate") ? json_array()
                                                                                  : json_object();
}

static void vmm_serve(int i, const char *command, json_t *arguments, const json_t *id)
{
        bool is_ours = !g_str_has_prefix(command, "query-") || strstr(command, "migrate") ||
                       is(command, "query-memdev");
        if (is_ours && !is(command, "qmp_capabilities")) {
                g_string_append_printf(vmm.heard, "%s%s", vmm.heard->len ? " " : "", command);
                if (is(command, "qom-set"))
                        g_string_append_printf(vmm.heard, "(%s,%d)", pick_text(arguments, "path"),
                                               json_is_true(json_object_get(arguments, "value")));
        }
        if (is(command, vmm.dies_at))
                played_hang_up();
        else if (!is(command, vmm.mute))
                played_answer(i, id,
                              is(command, vmm.broken)  ? json_integer(7)
                              : is(command, vmm.fails) ? NULL
                                                       : vmm_do(command, arguments));
}

/* ---- the owner */

struct rig {
        struct api_vm_definition d;
        struct vm *vm;
        struct transfer *transfer;
        struct vm_result result;
        struct transfer_seen seen;
        uint64_t inode;
        int results;
        bool frees;
};

static void on_result(void *arg, const struct vm_result *result)
{
        struct rig *r = arg;
        g_assert_true((result->err.reason == 0) == (result->outcome == VM_DONE));
        r->result = *result;
        r->results++;
        if (r->frees) {
                transfer_free(r->transfer);
                r->transfer = NULL;
        }
}

static void on_seen(void *arg, const struct transfer_seen *seen, const struct err *err)
{
        struct rig *r = arg;
        g_assert_true((seen == NULL) == (err != NULL));
        r->seen = seen ? *seen : (struct transfer_seen){0};
        r->result = (struct vm_result){.outcome = err ? VM_FAILED : VM_DONE};
        if (err)
                r->result.err = *err;
        r->results++;
}

static int find(void *arg, struct transfer_ram *ram, struct err *err)
{
        ram->device = 5;
        ram->inode = ((struct rig *)arg)->inode;
        return ram->inode ? 0 : err_set(err, REASON_INCOMPATIBLE, ENOENT, "not mapped");
}

#define WAIT_FOR(condition)                                                                                  \
        for (gint64 end = g_get_monotonic_time() + (gint64)LONG_MS * 1000;                                   \
             !(condition) && g_get_monotonic_time() < end;)                                                  \
                if (!g_main_context_iteration(NULL, FALSE))                                                  \
                        g_usleep(100);

static void expect(struct rig *r, enum reason reason)
{
        WAIT_FOR(r->results > 0);
        g_assert_cmpint(r->results, ==, 1);
        r->results = 0;
        if (r->result.err.reason != reason)
                g_error("\"%s\" instead of %s", r->result.err.sentence, reason_name(reason));
}

static void expect_heard(const char *text)
{
        g_assert_cmpstr(vmm.heard->str, ==, text);
        g_string_truncate(vmm.heard, 0);
}

static void opened(struct rig *r, bool is_target)
{
        struct err err = {0};
        *r = (struct rig){.d = sample_definition(), .inode = 77};
        memset(&vmm, 0, sizeof(vmm));
        vmm.heard = g_string_new(NULL);
        played_open(dir, 7, vmm_serve);
        const struct vm_options o = {.definition = &r->d,
                                     .qmp_path = played.path[0],
                                     .oob_path = played.path[1],
                                     .ram_dir = "/ram"};
        r->vm = vm_attach(&o, LONG_MS, on_result, r, &err);
        if (!r->vm)
                g_error("%s", err.sentence);
        r->transfer = transfer_new(
                &(struct transfer_options){.vm = r->vm, .is_target = is_target, .find = find, .find_arg = r});
        expect(r, 0);
        g_string_truncate(vmm.heard, 0);
}

static void closed(struct rig *r)
{
        transfer_free(r->transfer);
        vm_free(r->vm);
        played_close();
        g_string_free(vmm.heard, TRUE);
        json_decref(vmm.capabilities);
}

/* ---- tests */

static void test_source(void)
{
        struct rig r;
        size_t n;
        opened(&r, false);
        transfer_prepare(r.transfer, LONG_MS, on_result, &r);
        expect(&r, 0);
        expect_heard(
                "migrate-set-capabilities query-migrate-capabilities migrate-set-parameters query-memdev "
                "qom-get qom-get qom-set(/objects/dimmmem0,0)");
        const struct transfer_ram *ram = transfer_ram(r.transfer, &n);
        g_assert_cmpuint(n, ==, 2);
        g_assert_cmpstr(ram[0].path, ==, "/ram/ram0");
        g_assert_cmpuint(ram[1].inode, ==, 77);
        transfer_begin(r.transfer, "/run/x", LONG_MS, on_result, &r);
        expect(&r, 0);
        expect_heard("migrate");
        vmm.status = "completed";
        vmm.settles_after = 2;
        transfer_look(r.transfer, LONG_MS, on_seen, &r);
        expect(&r, 0);
        g_assert_cmpint(r.seen.status, ==, COPY_COMPLETED);
        g_assert_cmpint(r.seen.total_ms, ==, 12);
        g_assert_cmpint(r.seen.firmware_bytes, ==, 4096);
        g_assert_cmpint(vmm.settles_after, <, 0); /* it can be told to run again by now */
        g_string_truncate(vmm.heard, 0);
        transfer_settle(r.transfer, LONG_MS, on_result, &r);
        expect(&r, 0);
        expect_heard("qom-set(/objects/dimmmem0,1)");
        closed(&r);
}

/* It runs by a single command, and not before it was seen to have everything. */
static void test_target(void)
{
        struct rig r;
        opened(&r, true);
        transfer_listen(r.transfer, "/run/x", LONG_MS, on_result, &r);
        expect(&r, 0);
        transfer_run(r.transfer, LONG_MS, on_result, &r);
        expect(&r, REASON_STALE);
        transfer_note(r.transfer, "active");
        transfer_run(r.transfer, LONG_MS, on_result, &r);
        expect(&r, REASON_STALE);
        expect_heard("migrate-incoming");
        transfer_note(r.transfer, "completed");
        transfer_run(r.transfer, LONG_MS, on_result, &r);
        expect(&r, 0);
        expect_heard("cont");
        transfer_announce(r.transfer, LONG_MS, on_result, &r);
        expect(&r, 0);
        expect_heard("announce-self");
        /* Another VM comes: what was seen of the last one is not meant. */
        transfer_listen(r.transfer, "/run/x", LONG_MS, on_result, &r);
        expect(&r, 0);
        transfer_run(r.transfer, LONG_MS, on_result, &r);
        expect(&r, REASON_STALE);
        vmm.status = "completed";
        transfer_look(r.transfer, LONG_MS, on_seen, &r);
        expect(&r, 0);
        transfer_run(r.transfer, LONG_MS, on_result, &r);
        expect(&r, 0);
        closed(&r);
}

static void test_refused(void)
{
        static const struct {
                const char *fails, *mute, *broken, *dies_at;
                bool is_deaf, is_private;
                enum reason reason;
        } rows[] = {
                {.fails = "migrate-set-capabilities", .reason = REASON_INCOMPATIBLE},
                {.is_deaf = true,                     .reason = REASON_INCOMPATIBLE},
                {.is_private = true,                  .reason = REASON_INCOMPATIBLE},
                {.fails = "query-memdev",             .reason = REASON_INTERNAL    },
                {.broken = "query-memdev",            .reason = REASON_INTERNAL    },
                {.broken = "qom-get",                 .reason = REASON_INTERNAL    },
                {.fails = "qom-set",                  .reason = REASON_INTERNAL    },
                {.mute = "query-memdev",              .reason = REASON_TIMEOUT     },
                {.dies_at = "qom-get",                .reason = REASON_PEER_LOST   },
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct rig r;
                opened(&r, false);
                vmm.fails = rows[i].fails;
                vmm.mute = rows[i].mute;
                vmm.broken = rows[i].broken;
                vmm.dies_at = rows[i].dies_at;
                vmm.is_deaf = rows[i].is_deaf;
                vmm.is_private = rows[i].is_private;
                transfer_prepare(r.transfer, rows[i].mute ? SHORT_MS : LONG_MS, on_result, &r);
                WAIT_FOR(r.results > 0);
                g_test_message("%zu: %s", i, r.result.err.sentence);
                expect(&r, rows[i].reason);
                closed(&r);
        }
        struct rig r;
        opened(&r, false);
        r.inode = 0;
        transfer_prepare(r.transfer, LONG_MS, on_result, &r);
        expect(&r, REASON_INCOMPATIBLE);
        closed(&r);
}

static void test_cancel(void)
{
        struct rig r;
        opened(&r, false);
        vmm.status = "active";
        vmm.later = "failed";
        transfer_cancel(r.transfer, LONG_MS, on_result, &r);
        expect(&r, 0);
        g_assert_true(g_str_has_prefix(vmm.heard->str, "yank query-migrate"));
        /* There is nothing to cut. */
        vmm.fails = "yank";
        vmm.status = vmm.later = NULL;
        transfer_cancel(r.transfer, LONG_MS, on_result, &r);
        expect(&r, 0);
        vmm.status = "completed";
        transfer_cancel(r.transfer, LONG_MS, on_result, &r);
        expect(&r, REASON_STALE);
        vmm.status = "active";
        transfer_cancel(r.transfer, SHORT_MS, on_result, &r);
        expect(&r, REASON_TIMEOUT);
        vmm.mute = "yank";
        transfer_cancel(r.transfer, SHORT_MS, on_result, &r);
        expect(&r, REASON_TIMEOUT);
        closed(&r);
}

/* Let go of in the middle, and from within the answer. */
static void test_free(void)
{
        struct rig r;
        opened(&r, false);
        vmm.mute = "query-memdev";
        transfer_prepare(r.transfer, LONG_MS, on_result, &r);
        WAIT_FOR(strstr(vmm.heard->str, "query-memdev"));
        transfer_free(r.transfer);
        r.transfer = NULL;
        expect(&r, REASON_CANCELLED);
        closed(&r);
        opened(&r, false);
        r.frees = true;
        transfer_prepare(r.transfer, LONG_MS, on_result, &r);
        expect(&r, 0);
        closed(&r);
}

static void test_maps(void)
{
        static char text[] = "7f1 rw-p 00000000 00:00 0 \n"
                             "7f2 rw-p 00000000 00:1b 40 /ram/ram0\n"
                             "7f3-7f4 rw-s 00000000 00:1b 41                         /ram/ram0x\n"
                             "7f3-7f4 rw-s 00000000 fe:1b 42                         /ram/ram0\n"
                             "7f5-7f6 rw-s 00000000 fe:1b 43                         /ram/gone (deleted)\n";
        static const char *const paths[] = {"/ram/ram0", "/ram/gone", "/ram/none", ""};
        for (size_t i = 0; i < ARRAY_N(paths); i++) {
                struct transfer_ram ram = {.id = "ram0"};
                struct err err = {0};
                FILE *maps = fmemopen(text, sizeof(text) - 1, "r");
                g_assert_nonnull(maps);
                (void)g_strlcpy(ram.path, paths[i], sizeof(ram.path));
                int r = transfer_ram_find(maps, &ram, &err);
                (void)fclose(maps);
                g_assert_cmpint(r, ==, i == 0 ? 0 : -ENOENT);
                g_assert_cmpuint(ram.inode, ==, i == 0 ? 42 : 0);
                g_assert_cmpint(err.reason, ==, i == 0 ? 0 : REASON_INCOMPATIBLE);
        }
}

static void expect_difference(const struct api_vm_definition *a, const char *version_a,
                              const struct api_vm_definition *b, const char *version_b, const char *names)
{
        struct err err = {0};
        int r = transfer_check(a, version_a, b, version_b, &err);
        g_assert_cmpint(r < 0, ==, names != NULL);
        g_assert_cmpint(err.reason, ==, names ? REASON_INCOMPATIBLE : 0);
        if (names && !strstr(err.sentence, names))
                g_error("\"%s\" does not name %s", err.sentence, names);
}

static void test_check(void)
{
        const struct api_vm_definition d = sample_definition();
        struct api_vm_definition o[9];
        static const char *const names[] = {"machine", "CPU model", "vCPU slots",  "most memory", "disks",
                                            "network", "MAC",       "accelerator", "page size"};
        expect_difference(&d, "7.2.22", &d, "7.2.22", NULL);
        expect_difference(&d, "7.2.22", &d, "10.0.2", NULL); /* 5.22 */
        expect_difference(&d, "10.0.2", &d, "7.2.22", "older than 10.0.2");
        expect_difference(&d, "7.1.0", &d, "7.2.22", "QEMU 7.1.0");
        expect_difference(&d, "nonsense", &d, "7.2.22", "nonsense");
        for (size_t i = 0; i < ARRAY_N(o); i++)
                o[i] = d;
        struct api_vm_definition with_net = d;
        with_net.has_network = true;
        (void)STR_COPY(o[0].machine, "pc-q35-8.0");
        (void)STR_COPY(o[1].cpu_model, "Nehalem-v1");
        o[2].cpus_max--;
        o[3].memory_max_bytes -= VM_UNIT_BYTES;
        o[4].has_disk = !d.has_disk;
        o[5].has_network = true;
        o[6].has_network = true;
        (void)STR_COPY(o[6].mac, "52:54:00:00:00:01");
        o[7].accelerator = API_ACCELERATOR_KVM;
        o[8].page_bytes = 2 << 20;
        for (size_t i = 0; i < ARRAY_N(o); i++)
                expect_difference(i == 6 ? &with_net : &d, "7.2.22", &o[i], "7.2.22", names[i]);
        struct api_vm_definition m = d;
        m.memory_mechanism = API_MEMORY_MECHANISM_VIRTIO_MEM;
        expect_difference(&m, "7.2.22", &m, "10.0.2", "virtio-mem");
        expect_difference(&m, "8.1.0", &m, "10.0.2", NULL);
}

/* Each side's own VMM is played in turn; what both have is compared. */
static void test_memory(void)
{
        struct rig a, b;
        struct err err = {0};
        opened(&a, false);
        transfer_prepare(a.transfer, LONG_MS, on_result, &a);
        expect(&a, 0);
        g_assert_cmpint(transfer_ram_check(a.transfer, a.transfer, &err), ==, 0);
        b = a;
        b.inode = 78;
        b.transfer = transfer_new(
                &(struct transfer_options){.vm = a.vm, .is_target = true, .find = find, .find_arg = &b});
        g_assert_cmpint(transfer_ram_check(a.transfer, b.transfer, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "lacks memory ram0"));
        transfer_prepare(b.transfer, LONG_MS, on_result, &b);
        expect(&b, 0);
        g_assert_cmpint(transfer_ram_check(a.transfer, b.transfer, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "another file"));
        transfer_free(b.transfer);
        closed(&a);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-transfer-XXXXXX", NULL);
        g_test_add_func("/transfer/source", test_source);
        g_test_add_func("/transfer/target", test_target);
        g_test_add_func("/transfer/refused", test_refused);
        g_test_add_func("/transfer/cancel", test_cancel);
        g_test_add_func("/transfer/free", test_free);
        g_test_add_func("/transfer/maps", test_maps);
        g_test_add_func("/transfer/check", test_check);
        g_test_add_func("/transfer/memory", test_memory);
        int r = g_test_run();
        g_rmdir(dir);
        g_free(dir);
        return r;
}
