/* SPDX-License-Identifier: Apache-2.0 */
/* What one of several hypervisors may have of what the keeper has for all. */
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include "base/str.h"
#include "keeper/share.h"
#include "keeper/space.h"

static struct keeper_config config;

static void begin(struct shares *s, const char *users)
{
        struct err err = {0};
        g_autofree char *text =
                g_strdup_printf("[keeper]\nmeted_user=%s\nuid_first=70000\nuid_count=24\n", users);
        if (keeper_config_parse(text, &config, &err) < 0)
                g_error("%s", err.sentence);
        shares_init(s, &config);
}

static void end(struct shares *s)
{
        shares_done(s);
        shares_done(s);
        keeper_config_done(&config);
}

static int take(struct shares *s, const char *vm, enum api_host_kind kind, const char *item, unsigned classes)
{
        struct err err = {0};
        int r = share_take(s, vm, kind, item, classes, &err);
        g_assert_cmpint(r == 0 ? 0 : err.reason, ==, r == 0 ? 0 : REASON_BUSY);
        return r;
}

/* Three slots each: so many VMs, and the other has his all the same. */
static void test_vms(void)
{
        struct shares s;
        char vm[16];
        begin(&s, "nobody;daemon");
        g_assert_cmpuint(space_slots(&config), ==, 3);
        for (int turn = 0; turn < 2; turn++)
                for (int i = 0; i < 4; i++) {
                        (void)snprintf(vm, sizeof(vm), "v%d", i);
                        g_assert_cmpint(take(&s, vm, API_HOST_KIND_NET, "nic0", 0) < 0, ==, i == 3);
                        g_assert_cmpint(take(&s, vm, API_HOST_KIND_MEMORY, "ram0", 0) < 0, ==, i == 3);
                }
        g_assert_cmpint(take(&s, "daemon..v", API_HOST_KIND_NET, "nic0", 0), ==, 0);
        share_let_go(&s, "v1", API_HOST_KIND_NET, "nic0");
        g_assert_cmpint(take(&s, "v3", API_HOST_KIND_NET, "nic0", 0), <, 0); /* it has memory still */
        share_let_go(&s, "v1", API_HOST_KIND_CPU, "ram0");                   /* another kind of that name */
        share_let_go(&s, "v7", API_HOST_KIND_CPU, "ram0");
        g_assert_cmpint(take(&s, "v3", API_HOST_KIND_NET, "nic0", 0), <, 0);
        share_let_go(&s, "v1", API_HOST_KIND_MEMORY, "ram0");
        g_assert_cmpint(take(&s, "v3", API_HOST_KIND_NET, "nic0", 0), ==, 0);
        const char keep[1][32] = {"ram0"};
        share_drop(&s, "v0", keep, 1);
        g_assert_cmpint(take(&s, "v4", API_HOST_KIND_NET, "nic0", 0), <, 0);
        share_drop(&s, "v0", NULL, 0);
        g_assert_cmpint(take(&s, "v4", API_HOST_KIND_NET, "nic0", 0), ==, 0);
        end(&s);
}

static void test_groups(void)
{
        struct shares s;
        begin(&s, "nobody;daemon");
        g_assert_cmpuint(s.groups_max, ==, 65536 / 8);
        s.groups_max = 3;
        g_assert_cmpint(take(&s, "v", API_HOST_KIND_CPU, "vcpu0", 0), ==, 0);
        g_assert_cmpint(take(&s, "v", API_HOST_KIND_CPU, "vcpu1", 0), ==, 0);
        g_assert_cmpint(take(&s, "w", API_HOST_KIND_CPU, "vcpu0", 0), ==, 0);
        g_assert_cmpint(take(&s, "w", API_HOST_KIND_CPU, "vcpu1", 0), <, 0);
        g_assert_cmpint(take(&s, "w", API_HOST_KIND_CPU, "vcpu0", 0), ==, 0); /* what it has, again */
        g_assert_cmpint(take(&s, "w", API_HOST_KIND_NET, "nic0", 0), ==, 0);
        g_assert_cmpint(take(&s, "daemon..v", API_HOST_KIND_CPU, "vcpu0", 0), ==, 0);
        share_let_go(&s, "v", API_HOST_KIND_CPU, "vcpu0");
        g_assert_cmpint(take(&s, "w", API_HOST_KIND_CPU, "vcpu1", 0), ==, 0);
        end(&s);
}

/* A class is a VM's, whichever of the two kinds it has. */
static void test_classes(void)
{
        struct shares s;
        begin(&s, "nobody;daemon");
        g_assert_cmpint(take(&s, "v", API_HOST_KIND_CACHE, "c0", 3), ==, 0);
        g_assert_cmpint(take(&s, "v", API_HOST_KIND_MEMBW, "m0", 3), ==, 0);
        g_assert_cmpint(take(&s, "v", API_HOST_KIND_CACHE, "c1", 3), ==, 0);
        g_assert_cmpint(take(&s, "w", API_HOST_KIND_MEMBW, "m0", 3), <, 0);
        g_assert_cmpint(take(&s, "w", API_HOST_KIND_MEMBW, "m0", 4), ==, 0);
        g_assert_cmpint(take(&s, "daemon..v", API_HOST_KIND_CACHE, "c0", 1), ==, 0); /* one at least */
        g_assert_cmpint(take(&s, "daemon..w", API_HOST_KIND_CACHE, "c0", 0), ==, 0); /* not known: no bound */
        end(&s);
}

static void test_alone(void)
{
        struct shares s;
        char vm[16];
        begin(&s, "nobody");
        s.groups_max = 1;
        for (int i = 0; i < 100; i++) {
                (void)snprintf(vm, sizeof(vm), "v%d", i);
                g_assert_cmpint(take(&s, vm, API_HOST_KIND_CPU, "vcpu0", 0), ==, 0);
        }
        end(&s);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/share/vms", test_vms);
        g_test_add_func("/share/groups", test_groups);
        g_test_add_func("/share/classes", test_classes);
        g_test_add_func("/share/alone", test_alone);
        return g_test_run();
}
