/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/argv.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include "base/str.h"

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

static char *with_ram_dir(const char *argument, const char *ram_dir)
{
        g_autofree char *value = g_strconcat("=", ram_dir, NULL);
        g_auto(GStrv) parts = g_strsplit(argument, "=@RAM@", -1);
        return g_strjoinv(value, parts);
}

int keeper_argv_make(char *const *qemu, const struct api_keeper_vmm_start *s, const char *ram_dir,
                     char ***ret, bool *ret_is_kvm, struct err *err)
{
        if (s->n_argv == 0 || !g_strv_contains((const char *const *)qemu, s->argv[0]))
                return err_set(err, REASON_DENIED, EPERM,
                               "\"%.100s\" is not among the programs of qemu= in keeper.conf",
                               s->n_argv ? s->argv[0] : "");
        bool is_kvm = false;
        for (size_t i = 1; i < s->n_argv; i++) {
                int r = check(s->argv[i], err);
                if (r < 0)
                        return r;
                is_kvm |= is_asking_for_kvm(s->argv[i - 1], s->argv[i]);
        }
        char **argv = g_new0(char *, s->n_argv + 3);
        size_t n = 0;
        argv[n++] = g_strdup(s->argv[0]);
        argv[n++] = g_strdup("-sandbox");
        argv[n++] = g_strdup(sandbox);
        for (size_t i = 1; i < s->n_argv; i++)
                argv[n++] = with_ram_dir(s->argv[i], ram_dir);
        *ret = argv;
        *ret_is_kvm = is_kvm;
        return 0;
}
