/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/share.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/str.h"
#include "host/cpu.h"
#include "keeper/space.h"

struct share_vm {
        const struct keeper_user *user;
        GHashTable *items[API_HOST_KIND_N]; /* sets of names; NULL: none yet */
};

static void vm_free(void *arg)
{
        struct share_vm *v = arg;
        for (size_t i = 0; i < ARRAY_N(v->items); i++)
                g_clear_pointer(&v->items[i], g_hash_table_unref);
        g_free(v);
}

void shares_init(struct shares *s, const struct keeper_config *config)
{
        *s = (struct shares){.config = config,
                             .vms = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, vm_free),
                             .groups_max = CPU_GROUPS_MAX / KEEPER_USERS_MAX};
}

void shares_done(struct shares *s)
{
        g_clear_pointer(&s->vms, g_hash_table_unref);
}

static unsigned count(const struct share_vm *v, enum api_host_kind kind)
{
        return v->items[kind] ? g_hash_table_size(v->items[kind]) : 0;
}

struct sum {
        unsigned vms, groups, classes;
};

static struct sum sum_of(const struct shares *s, const struct keeper_user *user)
{
        struct sum sum = {0};
        GHashTableIter i;
        void *value;
        g_hash_table_iter_init(&i, s->vms);
        while (g_hash_table_iter_next(&i, NULL, &value)) {
                const struct share_vm *v = value;
                if (v->user != user)
                        continue;
                sum.vms++;
                sum.groups += count(v, API_HOST_KIND_CPU);
                sum.classes += count(v, API_HOST_KIND_CACHE) + count(v, API_HOST_KIND_MEMBW) > 0;
        }
        return sum;
}

static bool is_class(enum api_host_kind kind)
{
        return kind == API_HOST_KIND_CACHE || kind == API_HOST_KIND_MEMBW;
}

static int check(const struct shares *s, const struct keeper_user *user, const struct share_vm *had,
                 enum api_host_kind kind, unsigned n_classes, struct err *err)
{
        struct sum sum = sum_of(s, user);
        unsigned n = (unsigned)s->config->n_spaces, classes = n_classes / n > 0 ? n_classes / n : 1;
        bool has_class = had && count(had, API_HOST_KIND_CACHE) + count(had, API_HOST_KIND_MEMBW) > 0;
        if (!had && sum.vms >= space_slots(s->config))
                return err_set(err, REASON_BUSY, EBUSY,
                               "this hypervisor has %u VMs for which something is activated, its share",
                               sum.vms);
        if (kind == API_HOST_KIND_CPU && sum.groups >= s->groups_max)
                return err_set(err, REASON_BUSY, EBUSY, "this hypervisor has %u control groups, its share",
                               sum.groups);
        if (is_class(kind) && !has_class && n_classes > 0 && sum.classes >= classes)
                return err_set(err, REASON_BUSY, EBUSY,
                               "this hypervisor has %u classes of service, its share", sum.classes);
        return 0;
}

int share_take(struct shares *s, const char *vm, enum api_host_kind kind, const char *item,
               unsigned n_classes, struct err *err)
{
        if (s->config->n_spaces <= 1)
                return 0;
        struct share_vm *v = g_hash_table_lookup(s->vms, vm);
        if (v && v->items[kind] && g_hash_table_contains(v->items[kind], item))
                return 0;
        const struct keeper_user *user = space_of_vm(s->config, vm);
        int r = check(s, user, v, kind, n_classes, err);
        if (r < 0)
                return r;
        if (!v) {
                v = g_new0(struct share_vm, 1);
                v->user = user;
                (void)g_hash_table_insert(s->vms, g_strdup(vm), v);
        }
        if (!v->items[kind])
                v->items[kind] = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        (void)g_hash_table_add(v->items[kind], g_strdup(item));
        return 0;
}

static void forget_empty(struct shares *s, const char *vm, const struct share_vm *v)
{
        unsigned n = 0;
        for (enum api_host_kind k = 0; k < API_HOST_KIND_N; k++)
                n += count(v, k);
        if (n == 0)
                (void)g_hash_table_remove(s->vms, vm);
}

void share_let_go(struct shares *s, const char *vm, enum api_host_kind kind, const char *item)
{
        struct share_vm *v = g_hash_table_lookup(s->vms, vm);
        if (!v || !v->items[kind] || !g_hash_table_remove(v->items[kind], item))
                return;
        forget_empty(s, vm, v);
}

void share_drop(struct shares *s, const char *vm, const char (*keep)[32], size_t n_keep)
{
        struct share_vm *v = g_hash_table_lookup(s->vms, vm);
        if (!v)
                return;
        for (size_t k = 0; k < ARRAY_N(v->items); k++) {
                GHashTableIter i;
                void *item;
                if (!v->items[k])
                        continue;
                g_hash_table_iter_init(&i, v->items[k]);
                while (g_hash_table_iter_next(&i, &item, NULL)) {
                        bool stays = false;
                        for (size_t n = 0; n < n_keep; n++)
                                stays = stays || strcmp(keep[n], item) == 0;
                        if (!stays)
                                g_hash_table_iter_remove(&i);
                }
        }
        forget_empty(s, vm, v);
}
