/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/space.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const struct keeper_user *space_of_uid(const struct keeper_config *c, uid_t uid)
{
        for (size_t i = 0; i < c->n_users; i++)
                if (c->users[i].uid == uid)
                        return &c->users[i];
        return uid == 0 ? &c->users[0] : NULL;
}

const struct keeper_user *space_of_vm(const struct keeper_config *c, const char *vm)
{
        for (size_t i = 1; i < c->n_users; i++)
                if (strncmp(vm, c->users[i].prefix, strlen(c->users[i].prefix)) == 0)
                        return &c->users[i];
        return &c->users[0];
}

unsigned space_slots(const struct keeper_config *c)
{
        return c->n_users > 1 ? c->uid_count / KEEPER_USERS_MAX : c->uid_count;
}

const char *space_name(const struct keeper_config *c, const struct keeper_user *u, const char *vm)
{
        return space_of_vm(c, vm) == u ? vm + strlen(u->prefix) : NULL;
}

json_t *space_enter(const struct keeper_config *c, const struct keeper_user *u, const json_t *params,
                    struct err *err)
{
        size_t n = (size_t)(u - c->users);
        if (c->n_users <= 1 || !params)
                return json_incref((json_t *)params);
        const char *vm = json_string_value(json_object_get(params, "vm"));
        const json_t *slot = json_object_get(params, "slot"),
                     *activation = json_object_get(params, "activation");
        json_int_t number = json_integer_value(slot), id = json_integer_value(activation);
        if (vm && !*u->prefix && space_of_vm(c, vm) != u) {
                (void)err_set(err, REASON_DENIED, EPERM, "%.63s is a name in the space of another meted", vm);
                return NULL;
        }
        if (slot && (number < 0 || number >= space_slots(c))) {
                (void)err_set(err, REASON_INVALID, EINVAL, "slot %lld: there are %u", (long long)number,
                              space_slots(c));
                return NULL;
        }
        json_t *ours = json_copy((json_t *)params);
        if (vm)
                (void)json_object_set_new(ours, "vm", json_sprintf("%s%s", u->prefix, vm));
        if (json_is_integer(slot))
                (void)json_object_set_new(ours, "slot",
                                          json_integer(number + (json_int_t)(n * space_slots(c))));
        /* Too large a one is out of the contract's range, and refused where it is read. */
        if (json_is_integer(activation) && id > 0 && id < INT64_MAX / KEEPER_USERS_MAX)
                (void)json_object_set_new(ours, "activation",
                                          json_integer(id * KEEPER_USERS_MAX + (json_int_t)n));
        return ours;
}
