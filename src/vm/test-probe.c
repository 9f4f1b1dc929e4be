/* SPDX-License-Identifier: Apache-2.0 */
/* Probing programs that are no QEMU, or a strange one. The real ones are probed by the system tests. */
#include "vm/probe.h"

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"

static char *dir;

/* A program that plays QEMU: descriptor 3 is its monitor. */
static char *script(const char *name, const char *body)
{
        char *path = g_build_filename(dir, name, NULL);
        char *text = g_strdup_printf("#!/bin/sh\n%s\n", body);
        g_assert_true(g_file_set_contents_full(path, text, -1, G_FILE_SET_CONTENTS_NONE, 0755, NULL));
        g_free(text);
        return path;
}

#define GREET(major, minor)                                                                                  \
        "echo '{\"QMP\":{\"version\":{\"qemu\":{\"micro\":1,\"minor\":" #minor ",\"major\":" #major          \
        "},\"package\":\"\"},\"capabilities\":[]}}' >&3; read x <&3; echo '{\"return\":{},\"id\":1}' >&3;"
#define MACHINES                                                                                             \
        "read x <&3; echo '{\"id\":2,\"return\":[{\"name\":\"pc-q35-9.2\"},{\"name\":\"pc-q35-10.0\"},"      \
        "{\"name\":\"pc-q35-11.0\",\"deprecated\":true},{\"name\":\"pc-q35-99.9,x\"},{\"name\":\"q35\"},{"   \
        "\"name\":\"pc-q35-12\"},{\"name\":\"pc-q35-12.\"},{\"name\":\"pc-q35-10.0.0.1\"},{"                 \
        "\"name\":7},5]}' >&3;"
#define MODELS                                                                                               \
        "read x <&3; echo "                                                                                  \
        "'{\"id\":3,\"return\":[{\"name\":\"EPYC\",\"alias-of\":\"EPYC-v1\",\"unavailable-features\":["      \
        "\"x\"]},"                                                                                           \
        "{\"name\":\"max\",\"unavailable-features\":[]},"                                                    \
        "{\"name\":\"Nehalem\",\"alias-of\":\"Nehalem-v1\",\"unavailable-features\":[]},{\"name\":"          \
        "\"Nehalem-v1\",\"unavailable-features\":[]},"                                                       \
        "{\"name\":\"Westmere\",\"alias-of\":\"Westmere-v2\",\"unavailable-features\":[]},{\"name\":"        \
        "\"Westmere-v2\",\"unavailable-features\":[\"aes\"]}]}' >&3;"

/* What it was made for must be there; the newest is not all that there is. */
static void test_runs(const struct api_qemu_probe *p)
{
        struct api_vm_definition d = {.name = "v", .machine = "pc-q35-10.0", .cpu_model = "Nehalem-v1"};
        struct err err = {0};
        g_assert_cmpint(p->n_machines, >, 1);
        for (size_t i = 0; i < p->n_machines; i++) {
                g_assert_true(g_str_has_prefix(p->machines[i], "pc-q35-"));
                (void)STR_COPY(d.machine, p->machines[i]);
                g_assert_cmpint(probe_runs(p, &d, &err), ==, 0);
        }
        (void)STR_COPY(d.machine, "pc-q35-99.0");
        g_assert_cmpint(probe_runs(p, &d, &err), <, 0);
        g_assert_true(err.reason == REASON_INCOMPATIBLE &&
                      strstr(err.sentence, "pc-q35-99.0, which QEMU 10.0.1"));
        (void)STR_COPY(d.machine, p->machine);
        (void)STR_COPY(d.cpu_model, "Westmere-v2"); /* without one of its features here */
        g_assert_cmpint(probe_runs(p, &d, &err), <, 0);
        g_assert_true(err.reason == REASON_INCOMPATIBLE && strstr(err.sentence, "CPU model Westmere-v2"));
}

static void test_choice_is_remembered(void)
{
        char *count = g_build_filename(dir, "count", NULL),
             *memory = g_build_filename(dir, "memory.json", NULL);
        char *body = g_strdup_printf("echo x >>%s; " GREET(10, 0) MACHINES MODELS "read x <&3", count);
        char *path = script("qemu", body), *text;
        struct api_qemu_probe p, again;
        struct err err = {0};
        g_assert_cmpint(probe_qemu(path, memory, 5000, &p, &err), ==, 0);
        g_assert_cmpstr(p.version, ==, "10.0.1");
        g_assert_cmpstr(p.machine, ==, "pc-q35-10.0");
        g_assert_cmpstr(p.cpu_model, ==, "Nehalem-v1");
        g_assert_true(p.virtio_mem_safe);
        test_runs(&p);
        g_assert_cmpint(probe_qemu(path, memory, 5000, &again, &err), ==, 0);
        test_runs(&again);
        g_assert_cmpstr(again.machine, ==, p.machine);
        g_assert_true(g_file_get_contents(count, &text, NULL, NULL));
        g_assert_cmpstr(text, ==, "x\n"); /* run once */
        g_free(text);
        /* Another file under the same name is asked again; so is everything when the memory is spoiled. */
        g_free(path);
        char *spaced = g_strconcat(body, " ", NULL);
        path = script("qemu", spaced);
        g_free(spaced);
        g_assert_cmpint(probe_qemu(path, memory, 5000, &again, &err), ==, 0);
        g_assert_true(g_file_set_contents(memory, "{\"probes\":[{}]}", -1, NULL));
        g_assert_cmpint(probe_qemu(path, memory, 5000, &again, &err), ==, 0);
        g_assert_true(g_file_get_contents(count, &text, NULL, NULL));
        g_assert_cmpstr(text, ==, "x\nx\nx\n");
        g_free(text);
        g_free(body);
        g_free(path);
        g_free(count);
        g_free(memory);
}

static void refused(const char *name, const char *body, int timeout_ms, enum reason reason, const char *says)
{
        char *path = script(name, body);
        struct api_qemu_probe p, before;
        struct err err = {0};
        memset(&before, 3, sizeof(before));
        p = before;
        g_assert_cmpint(probe_qemu(path, NULL, timeout_ms, &p, &err), <, 0);
        g_assert_cmpstr(reason_name(err.reason), ==, reason_name(reason));
        if (strstr(err.sentence, says) == NULL)
                g_error("\"%s\" does not say \"%s\"", err.sentence, says);
        g_assert_nonnull(strstr(err.sentence, path));
        g_assert_cmpmem(&p, sizeof(p), &before, sizeof(before));
        g_free(path);
}

static void test_refused(void)
{
        refused("dies", "echo 'no such thing' >&2; exit 1", 5000, REASON_UNSUPPORTED,
                "it says: no such thing");
        refused("silent", "exec sleep 10", 50, REASON_TIMEOUT, "not ready in time");
        refused("old", GREET(7, 1) "read x <&3", 5000, REASON_UNSUPPORTED, "7.1.1 is too old");
        refused("no-machine", GREET(9, 0) "read x <&3; echo '{\"id\":2,\"return\":[]}' >&3; read x <&3", 5000,
                REASON_UNSUPPORTED, "no versioned q35");
        refused("no-model",
                GREET(9, 0) MACHINES "read x <&3; echo '{\"id\":3,\"return\":{}}' >&3; read x <&3", 5000,
                REASON_UNSUPPORTED, "CPU models");
        refused("half", GREET(9, 0) "read x <&3; printf '{\"id\":2,' >&3", 5000, REASON_PEER_LOST, "monitor");
        struct api_qemu_probe p;
        struct err err = {0};
        g_assert_cmpint(probe_qemu("/nonexistent", NULL, 100, &p, &err), ==, -ENOENT);
        g_assert_cmpint(probe_qemu("qemu", NULL, 100, &p, &err), ==, -EINVAL);
        g_assert_cmpint(probe_qemu(dir, NULL, 100, &p, &err), ==, -EACCES);
}

static void test_kvm(void)
{
        char *cpuinfo = g_build_filename(dir, "cpuinfo", NULL), why[128];
        g_assert_true(g_file_set_contents(cpuinfo, "flags\t\t: fpu vmx sse\n", -1, NULL));
        g_assert_false(probe_kvm("/nonexistent", cpuinfo, why, sizeof(why)));
        g_assert_nonnull(strstr(why, "No such file"));
        g_assert_false(probe_kvm("/dev/null", cpuinfo, why, sizeof(why)));
        g_assert_cmpstr(why, ==, "KVM cannot make a VM");
        /* "vmxx" and another line's "svm" are not the flag. */
        g_assert_true(g_file_set_contents(cpuinfo, "model\t: svm\nflags\t\t: fpu vmxx sse\n", -1, NULL));
        g_assert_false(probe_kvm("/dev/kvm", cpuinfo, why, sizeof(why)));
        g_assert_cmpstr(why, ==, "the CPU shows neither vmx nor svm");
        g_free(cpuinfo);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        dir = g_dir_make_tmp("mete-probe-XXXXXX", NULL);
        g_assert_nonnull(dir);
        g_test_add_func("/probe/choice-is-remembered", test_choice_is_remembered);
        g_test_add_func("/probe/refused", test_refused);
        g_test_add_func("/probe/kvm", test_kvm);
        int r = g_test_run();
        GDir *d = g_dir_open(dir, 0, NULL);
        const char *name;
        while ((name = g_dir_read_name(d)) != NULL) {
                char *path = g_build_filename(dir, name, NULL);
                g_unlink(path);
                g_free(path);
        }
        g_dir_close(d);
        g_rmdir(dir);
        g_free(dir);
        return r;
}
