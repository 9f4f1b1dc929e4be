/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/space.h"

#include <dirent.h>
#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "json/read.h"

const struct keeper_user *space_of_uid(const struct keeper_config *c, uid_t uid)
{
        for (size_t i = 0; i < c->n_users; i++)
                if (c->users[i].uid == uid)
                        return &c->users[i];
        return uid == 0 ? &c->users[0] : NULL;
}

const struct keeper_user *space_of_vm(const struct keeper_config *c, const char *vm)
{
        const struct keeper_user *otherwise = &c->users[0];
        for (size_t i = 0; i < c->n_spaces; i++) {
                const struct keeper_user *u = &c->users[i];
                if (!*u->prefix)
                        otherwise = u;
                else if (strncmp(vm, u->prefix, strlen(u->prefix)) == 0)
                        return u;
        }
        return otherwise;
}

static bool is_alone(const struct keeper_config *c)
{
        return c->n_spaces <= 1 && !*c->users[0].prefix;
}

unsigned space_slots(const struct keeper_config *c)
{
        return is_alone(c) ? c->uid_count : c->uid_count / KEEPER_USERS_MAX;
}

const char *space_name(const struct keeper_config *c, const struct keeper_user *u, const char *vm)
{
        return space_of_vm(c, vm) == u ? vm + strlen(u->prefix) : NULL;
}

/* ---- who has which ---- */

void space_number(struct keeper_user *u, unsigned number)
{
        u->number = number;
        u->prefix[0] = '\0';
        if (number > 0)
                (void)snprintf(u->prefix, sizeof(u->prefix), "%s..", u->name);
}

static struct space_row *find_row(struct space_row *rows, size_t n, const char *name)
{
        for (size_t i = 0; i < n; i++)
                if (strcmp(rows[i].name, name) == 0)
                        return &rows[i];
        return NULL;
}

static bool is_configured(const struct keeper_config *c, const char *name)
{
        for (size_t i = 0; i < c->n_users; i++)
                if (strcmp(c->users[i].name, name) == 0)
                        return true;
        return false;
}

static void forget_unused(const struct keeper_config *c, struct space_row *rows, size_t *n)
{
        for (size_t i = 0; i < *n;)
                if (!rows[i].is_used && !is_configured(c, rows[i].name))
                        rows[i] = rows[--*n];
                else
                        i++;
}

static unsigned free_number(const struct space_row *rows, size_t n)
{
        bool is_taken[KEEPER_USERS_MAX] = {false};
        unsigned at = 0;
        for (size_t i = 0; i < n; i++)
                is_taken[rows[i].number] = true;
        while (is_taken[at]) /* n is less than there are */
                at++;
        return at;
}

int space_assign(struct keeper_config *c, struct space_row *rows, size_t *n, struct err *err)
{
        forget_unused(c, rows, n);
        for (size_t i = 0; i < c->n_users; i++) {
                struct space_row *row = find_row(rows, *n, c->users[i].name);
                if (!row && *n == KEEPER_USERS_MAX)
                        return err_set(err, REASON_BUSY, EBUSY,
                                       "[keeper] meted_user: no space is left for \"%s\" until all VMs of a "
                                       "user who is not named any more have ended",
                                       c->users[i].name);
                if (!row) {
                        unsigned number = free_number(rows, *n);
                        row = &rows[(*n)++];
                        *row = (struct space_row){.number = number};
                        (void)STR_COPY(row->name, c->users[i].name);
                }
                space_number(&c->users[i], row->number);
        }
        c->n_spaces = c->n_users;
        for (size_t i = 0; i < *n; i++) {
                if (is_configured(c, rows[i].name))
                        continue;
                struct keeper_user *u = &c->users[c->n_spaces++];
                *u = (struct keeper_user){.uid = (uid_t)-1}; /* nobody connects as that; root's group looks */
                (void)STR_COPY(u->name, rows[i].name);
                space_number(u, rows[i].number);
        }
        return 0;
}

/* What is there, by name: of the space whose prefix it has, else of space 0. */
static void mark(struct space_row *rows, size_t n, const char *name)
{
        struct space_row *zero = NULL;
        char prefix[KEEPER_PREFIX];
        for (size_t i = 0; i < n; i++) {
                (void)snprintf(prefix, sizeof(prefix), "%s..", rows[i].name);
                if (rows[i].number == 0)
                        zero = &rows[i];
                else if (strncmp(name, prefix, strlen(prefix)) == 0) {
                        rows[i].is_used = true;
                        return;
                }
        }
        if (zero)
                zero->is_used = true;
}

static void mark_all(struct space_row *rows, size_t n, const char *dir)
{
        DIR *d = opendir(dir);
        for (struct dirent *e; d && (e = readdir(d));)
                if (str_is_name(e->d_name))
                        mark(rows, n, e->d_name);
        if (d)
                (void)closedir(d);
}

/* Wherever something of a VM has a name. */
static void look_around(const struct keeper_config *c, struct space_row *rows, size_t n)
{
        static const char *const folders[] = {"vm", "loan", "nic", "flow", "class"};
        for (size_t i = 0; i < ARRAY_N(folders); i++) {
                g_autofree char *path = g_build_filename(c->run_dir, folders[i], NULL);
                mark_all(rows, n, path);
        }
        mark_all(rows, n, c->ram_dir);
        g_autofree char *name = g_strdelimit(g_strdup(c->cgroup_prefix), "/", '-');
        for (char **each = c->huge_dirs; each && *each; each++) {
                g_autofree char *path = g_build_filename(*each, name, NULL);
                mark_all(rows, n, path);
        }
}

static int parse(const char *text, size_t size, struct space_row *rows, size_t *ret_n, struct err *err)
{
        json_t *v = json_read(text, size, err);
        const char *name;
        json_t *number;
        size_t n = 0;
        bool is_good = json_is_object(v) && json_object_size(v) <= KEEPER_USERS_MAX;
        unsigned taken = 0;
        json_object_foreach(v, name, number)
        {
                json_int_t at = json_integer_value(number);
                if (!is_good)
                        break;
                is_good = json_is_integer(number) && at >= 0 && at < KEEPER_USERS_MAX &&
                          !(taken & 1U << at) && str_is_name(name) && STR_COPY(rows[n].name, name);
                rows[n].number = (unsigned)at;
                rows[n].is_used = false;
                taken |= is_good ? 1U << at : 0;
                n++;
        }
        json_decref(v);
        *ret_n = n;
        return is_good ? 0 : err_set(err, REASON_INVALID, EINVAL, "not a list of spaces");
}

static char *emit(const struct space_row *rows, size_t n)
{
        json_t *v = json_object();
        for (size_t i = 0; i < n; i++)
                (void)json_object_set_new(v, rows[i].name, json_integer(rows[i].number));
        char *text = json_write(v, NULL);
        json_decref(v);
        return text;
}

int space_settle(struct keeper_config *c, struct err *err)
{
        struct space_row rows[KEEPER_USERS_MAX] = {0};
        size_t n = 0, size = 0;
        g_autoptr(GError) e = NULL;
        g_autofree char *path = g_build_filename(c->run_dir, "spaces.json", NULL), *had = NULL;
        int r = 0;
        if (g_file_get_contents(path, &had, &size, &e))
                r = size <= SPACE_FILES ? parse(had, size, rows, &n, err)
                                        : err_set(err, REASON_INVALID, E2BIG, "too long");
        else if (!g_error_matches(e, G_FILE_ERROR, G_FILE_ERROR_NOENT))
                return err_set(err, REASON_INTERNAL, EIO, "%s", e->message);
        if (r < 0)
                return err_note(err, "%s", path);
        look_around(c, rows, n);
        if ((r = space_assign(c, rows, &n, err)) < 0)
                return r;
        char *text = emit(rows, n);
        g_clear_error(&e);
        /* Replaced as a whole. */
        bool is_written =
                text && g_file_set_contents_full(path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, &e);
        free(text);
        return is_written ? 0
                          : err_set(err, REASON_INTERNAL, EIO, "%s: %s", path, e ? e->message : "no memory");
}

json_t *space_enter(const struct keeper_config *c, const struct keeper_user *u, const json_t *params,
                    struct err *err)
{
        unsigned n = u->number;
        if (!params)
                return NULL;
        const char *vm = json_string_value(json_object_get(params, "vm"));
        const json_t *slot = json_object_get(params, "slot"),
                     *activation = json_object_get(params, "activation");
        json_int_t number = json_integer_value(slot), id = json_integer_value(activation);
        /* Also where there is one meted alone: it is the same then and with others beside it. */
        if (json_is_integer(activation) && id > SPACE_ACTIVATION_MAX) {
                (void)err_set(err, REASON_INVALID, EINVAL, "activation %lld: the last is %lld", (long long)id,
                              (long long)SPACE_ACTIVATION_MAX);
                return NULL;
        }
        if (is_alone(c))
                return json_incref((json_t *)params);
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
        if (json_is_integer(activation) && id > 0)
                (void)json_object_set_new(ours, "activation",
                                          json_integer(id * KEEPER_USERS_MAX + (json_int_t)n));
        return ours;
}
