/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/argv.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include "base/str.h"
#include "keeper/launch.h"

static const char sandbox[] = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/* Options with one dash or two. readconfig and set could change the sandbox again; plugin loads code;
 * async-teardown forks a process that shares the VMM's memory before the sandbox is there. */
static const char *const refused[] = {"sandbox",     "runas", "run-with", "daemonize",     "chroot",
                                      "pidfile",     "D",     "plugin",   "set",           "readconfig",
                                      "writeconfig", "trace", "iscsi",    "async-teardown"};

static int check(const char *argument, struct err *err)
{
        for (const char *c = argument; *c; c++)
                if ((unsigned char)*c < 0x20 || *c == 0x7f)
                        return err_set(err, REASON_INVALID, EINVAL,
                                       "an argument of the VMM holds a control character");
        if (argument[0] != '-')
                return 0;
        const char *option = argument + (argument[1] == '-' ? 2 : 1);
        for (size_t i = 0; i < ARRAY_N(refused); i++)
                if (strcmp(option, refused[i]) == 0)
                        return err_set(err, REASON_DENIED, EPERM, "a VMM may not be given -%s", option);
        return 0;
}

static bool is_asking_for_kvm(const char *before, const char *argument)
{
        if (strcmp(argument, "-enable-kvm") == 0 || strcmp(argument, "--enable-kvm") == 0)
                return true;
        if (g_str_has_suffix(before, "-accel"))
                return strncmp(argument, "kvm", 3) == 0;
        return g_str_has_suffix(before, "-machine") && strstr(argument, "accel=kvm");
}

/* A tap is for the card that it was made for, and for nothing else that takes a descriptor. */
static int check_tap(const char *before, const char *argument, struct err *err)
{
        if (g_str_has_suffix(before, "-netdev") && g_str_has_prefix(argument, "tap,"))
                return 0;
        return err_set(err, REASON_DENIED, EPERM, "fd=@TAP@ is for -netdev tap alone");
}

static char *filled_in(const char *argument, const char *mark, const char *text)
{
        g_autofree char *value = g_strconcat("=", text, NULL);
        g_auto(GStrv) parts = g_strsplit(argument, mark, -1);
        return g_strjoinv(value, parts);
}

int keeper_argv_make(char *const *qemu, const struct api_keeper_vmm_start *s, const char *ram_dir,
                     struct keeper_argv *ret, struct err *err)
{
        if (s->n_argv == 0 || !g_strv_contains((const char *const *)qemu, s->argv[0]))
                return err_set(err, REASON_DENIED, EPERM,
                               "\"%.100s\" is not among the programs of qemu= in keeper.conf",
                               s->n_argv ? s->argv[0] : "");
        struct keeper_argv a = {0};
        for (size_t i = 1; i < s->n_argv; i++) {
                int r = check(s->argv[i], err);
                if (r < 0)
                        return r;
                a.is_kvm |= is_asking_for_kvm(s->argv[i - 1], s->argv[i]);
                if (!strstr(s->argv[i], "=@TAP@"))
                        continue;
                if ((r = check_tap(s->argv[i - 1], s->argv[i], err)) < 0)
                        return r;
                a.has_tap = true;
        }
        g_autofree char *tap = g_strdup_printf("%d", LAUNCH_FIRST_FD + (int)s->fds);
        a.words = g_new0(char *, s->n_argv + 3);
        size_t n = 0;
        a.words[n++] = g_strdup(s->argv[0]);
        a.words[n++] = g_strdup("-sandbox");
        a.words[n++] = g_strdup(sandbox);
        for (size_t i = 1; i < s->n_argv; i++) {
                g_autofree char *with_tap = filled_in(s->argv[i], "=@TAP@", tap);
                a.words[n++] = filled_in(with_tap, "=@RAM@", ram_dir);
        }
        *ret = a;
        return 0;
}
