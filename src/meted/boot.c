/* SPDX-License-Identifier: Apache-2.0 */
/* meted/boot.c - what is kept of stopped VMs is in the memory of this machine, and the books are on its disk:
 * a reboot takes the one and leaves the other. Which boot it was is noted beside the store, behind the
 * transaction that gives up what was kept before. */
#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "meted/meted.h"

bool boot_read(char ret[BOOT_ID])
{
        g_autofree char *text = NULL;
        if (!g_file_get_contents("/proc/sys/kernel/random/boot_id", &text, NULL, NULL))
                return false;
        return str_copy(ret, BOOT_ID, g_strstrip(text)) && *ret;
}

static char *path_of(const struct meted *m)
{
        return g_strdup_printf("%s/boot", m->config.state_dir);
}

static void on_recorded(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        char boot[BOOT_ID];
        g_autofree char *path = path_of(m);
        g_autoptr(GError) e = NULL;
        (void)call;
        (void)r;
        if (err || !boot_read(boot))
                return; /* the next one finds it not noted, and gives up what is kept once more */
        m->is_boot_noted = g_file_set_contents(path, boot, -1, &e);
        if (!m->is_boot_noted)
                log_warn("%s", e->message);
}

void boot_check(struct meted *m)
{
        char boot[BOOT_ID];
        g_autofree char *path = path_of(m), *noted = NULL;
        if (m->is_boot_noted)
                return;
        bool is_same =
                boot_read(boot) && g_file_get_contents(path, &noted, NULL, NULL) && strcmp(boot, noted) == 0;
        m->is_boot_noted = is_same;
        if (is_same)
                return;
        hypervisor_kept_lost(m->hv, "the machine was booted since", loop_now_ms());
        meted_wait(m, 0, WAIT_COMMIT, on_recorded, NULL);
}
