/* SPDX-License-Identifier: Apache-2.0 */
#include <glib.h>
#include <string.h>
#include "keeper/argv.h"

static char *qemu[] = {(char *)"/usr/bin/qemu-system-x86_64", (char *)"/opt/q/bin/qemu-system-x86_64", NULL};

static struct api_keeper_vmm_start *start_of(const char *line)
{
        struct api_keeper_vmm_start *s = g_new0(struct api_keeper_vmm_start, 1);
        g_auto(GStrv) words = g_strsplit(line, " ", -1);
        for (char **w = words; *w; w++)
                g_strlcpy(s->argv[s->n_argv++], *w, sizeof(s->argv[0]));
        return s;
}

static void makes(const char *line, const char *expected, bool expected_kvm)
{
        g_autofree struct api_keeper_vmm_start *s = start_of(line);
        struct keeper_argv argv;
        struct err err = {0};
        s->fds = 5;
        if (keeper_argv_make(qemu, s, "/dev/shm/mete/v", &argv, &err) < 0)
                g_error("%s: %s", line, err.sentence);
        g_autofree char *joined = g_strjoinv(" ", argv.words);
        g_assert_cmpstr(joined, ==, expected);
        g_assert_cmpint(argv.is_kvm, ==, expected_kvm);
        g_assert_cmpint(argv.has_tap, ==, strstr(line, "=@TAP@") != NULL);
        g_strfreev(argv.words);
}

#define SANDBOX "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

static void test_made(void)
{
        const char *q = qemu[0];
        g_autofree char *a = g_strdup_printf("%s -S -m 64", q),
                        *b = g_strdup_printf("%s " SANDBOX " -S -m 64", q);
        makes(a, b, false);
        g_autofree char *c = g_strdup_printf("%s -object x,mem-path=@RAM@/ram0,y=@RAM@ @RAM@", qemu[1]);
        g_autofree char *d = g_strdup_printf(
                "%s " SANDBOX " -object x,mem-path=/dev/shm/mete/v/ram0,y=/dev/shm/mete/v @RAM@", qemu[1]);
        makes(c, d, false);
        for (const char *const *k = (const char *const[]){"-accel kvm", "--accel kvm,x=y", "-enable-kvm",
                                                          "-machine q35,accel=kvm:tcg", NULL};
             *k; k++) {
                g_autofree char *e = g_strdup_printf("%s %s", q, *k),
                                *f = g_strdup_printf("%s " SANDBOX " %s", q, *k);
                makes(e, f, true);
        }
        g_autofree char *g = g_strdup_printf("%s -append kvm -accel tcg", q);
        g_autofree char *h = g_strdup_printf("%s " SANDBOX " -append kvm -accel tcg", q);
        makes(g, h, false);
        g_autofree char *i = g_strdup_printf("%s -netdev tap,id=n,fd=@TAP@", q);
        g_autofree char *j = g_strdup_printf("%s " SANDBOX " -netdev tap,id=n,fd=8", q);
        makes(i, j, false);
        g_autofree char *k = g_strdup_printf("%s -name @TAP@", q);
        g_autofree char *l = g_strdup_printf("%s " SANDBOX " -name @TAP@", q);
        makes(k, l, false);
}

static void is_refused(struct api_keeper_vmm_start *s, enum reason reason)
{
        struct keeper_argv argv = {.words = (char **)1};
        struct err err = {0};
        g_assert_cmpint(keeper_argv_make(qemu, s, "/r", &argv, &err), <, 0);
        g_assert_cmpint(err.reason, ==, reason);
        g_assert_true(argv.words == (char **)1);
        g_test_message("%s", err.sentence);
}

static void test_refused(void)
{
        static const char *const words[] = {"-sandbox",
                                            "--sandbox",
                                            "-runas",
                                            "-run-with",
                                            "-daemonize",
                                            "-chroot",
                                            "-pidfile",
                                            "-D",
                                            "--D",
                                            "-plugin",
                                            "-set",
                                            "-trace",
                                            "-readconfig",
                                            "--readconfig",
                                            "-writeconfig",
                                            "-async-teardown",
                                            "--async-teardown"};
        for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
                g_autofree char *line = g_strdup_printf("%s -S %s off", qemu[0], words[i]);
                g_autofree struct api_keeper_vmm_start *s = start_of(line);
                is_refused(s, REASON_DENIED);
        }
        static const char *const programs[] = {"/bin/sh", "qemu-system-x86_64", "",
                                               "/usr/bin/../bin/qemu-system-x86_64"};
        for (size_t i = 0; i < G_N_ELEMENTS(programs); i++) {
                g_autofree struct api_keeper_vmm_start *s = start_of(programs[i]);
                is_refused(s, REASON_DENIED);
        }
        static const char *const texts[] = {"a\nb", "\x01", "x\x7f", "a\rb"};
        for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
                g_autofree char *line = g_strdup_printf("%s %s", qemu[0], texts[i]);
                g_autofree struct api_keeper_vmm_start *s = start_of(line);
                is_refused(s, REASON_INVALID);
        }
        static const char *const taps[] = {"-add-fd set=1,fd=@TAP@", "-netdev user,fd=@TAP@",
                                           "-netdev -x tap,fd=@TAP@", "-device vhost,vhostfd=@TAP@"};
        for (size_t i = 0; i < G_N_ELEMENTS(taps); i++) {
                g_autofree char *line = g_strdup_printf("%s %s", qemu[0], taps[i]);
                g_autofree struct api_keeper_vmm_start *s = start_of(line);
                is_refused(s, REASON_DENIED);
        }
        g_autofree struct api_keeper_vmm_start *none = g_new0(struct api_keeper_vmm_start, 1);
        is_refused(none, REASON_DENIED);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/argv/made", test_made);
        g_test_add_func("/argv/refused", test_refused);
        return g_test_run();
}
