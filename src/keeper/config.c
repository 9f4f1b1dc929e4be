/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/config.h"

#include <errno.h>
#include <net/if.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "base/str.h"
#include "base/units.h"
#include "keeper/space.h"

#define KEEPER  "keeper"
#define NET     "net"
#define RESCTRL "resctrl"

/* man/mete.conf.5 and dist/keeper.conf have the same rows. */
static const struct {
        const char *group, *name;
} keys[] = {
        {"keeper",  "run_dir"      },
        {"keeper",  "socket"       },
        {"keeper",  "ram_dir"      },
        {"keeper",  "huge_dir"     },
        {"keeper",  "cgroup_prefix"},
        {"keeper",  "scope"        },
        {"keeper",  "cpus"         },
        {"keeper",  "housekeeping" },
        {"keeper",  "qemu"         },
        {"keeper",  "guard"        },
        {"keeper",  "uid_first"    },
        {"keeper",  "uid_count"    },
        {"keeper",  "meted_user"   },
        {"keeper",  "best_effort"  },
        {"net",     "manage"       },
        {"net",     "bridge"       },
        {"net",     "uplink"       },
        {"net",     "rate"         },
        {"resctrl", "manage"       },
        {"resctrl", "path"         },
};

static int bad(struct err *err, const char *group, const char *key, const char *why)
{
        return err_set(err, REASON_INVALID, EINVAL, "[%s] %s: %s", group, key, why);
}

static int check_group(GKeyFile *f, const char *group, struct err *err)
{
        bool is_group = false;
        for (size_t i = 0; i < ARRAY_N(keys); i++)
                is_group |= strcmp(group, keys[i].group) == 0;
        if (!is_group)
                return err_set(err, REASON_INVALID, EINVAL, "unknown section [%.60s]", group);
        g_auto(GStrv) names = g_key_file_get_keys(f, group, NULL, NULL);
        for (char **n = names; n && *n; n++) {
                bool is_known = false;
                for (size_t i = 0; i < ARRAY_N(keys); i++)
                        is_known |= strcmp(group, keys[i].group) == 0 && strcmp(*n, keys[i].name) == 0;
                if (!is_known)
                        return err_set(err, REASON_INVALID, EINVAL, "[%s] %.60s: there is no such key", group,
                                       *n);
        }
        return 0;
}

static int check_keys(GKeyFile *f, struct err *err)
{
        g_auto(GStrv) groups = g_key_file_get_groups(f, NULL);
        int r = 0;
        for (char **g = groups; *g && r == 0; g++)
                r = check_group(f, *g, err);
        return r;
}

static char *text_of(GKeyFile *f, const char *group, const char *key, const char *otherwise)
{
        char *text = g_key_file_get_string(f, group, key, NULL);
        return text ? g_strstrip(text) : g_strdup(otherwise);
}

static int read_path(GKeyFile *f, const char *group, const char *key, const char *otherwise, size_t max,
                     char **ret, struct err *err)
{
        *ret = text_of(f, group, key, otherwise);
        if ((*ret)[0] != '/' || strstr(*ret, "/../") || g_str_has_suffix(*ret, "/"))
                return bad(err, group, key, "must be an absolute path, without a slash at its end");
        return strlen(*ret) > max ? bad(err, group, key, "is too long") : 0;
}

static int read_number(GKeyFile *f, const char *key, guint64 otherwise, guint64 min, guint64 max,
                       guint64 *ret, struct err *err)
{
        g_autofree char *text = text_of(f, KEEPER, key, NULL);
        *ret = otherwise;
        if (text && !g_ascii_string_to_unsigned(text, 10, min, max, ret, NULL))
                return err_set(err, REASON_INVALID, EINVAL,
                               "[keeper] %s: must be a number from %" G_GUINT64_FORMAT
                               " to %" G_GUINT64_FORMAT,
                               key, min, max);
        return 0;
}

static int read_user(const char *name, struct keeper_config *c, struct err *err)
{
        guint64 uid;
        struct passwd *p = g_ascii_string_to_unsigned(name, 10, 0, G_MAXUINT32 - 1, &uid, NULL)
                                   ? getpwuid((uid_t)uid)
                                   : getpwnam(name);
        if (!p)
                return err_set(err, REASON_INVALID, ENOENT, "[keeper] meted_user: there is no user \"%.60s\"",
                               name);
        for (size_t i = 0; i < c->n_users; i++)
                if (c->users[i].uid == p->pw_uid)
                        return err_set(err, REASON_INVALID, EEXIST,
                                       "[keeper] meted_user: \"%.60s\" is there twice", name);
        struct keeper_user *u = &c->users[c->n_users];
        *u = (struct keeper_user){.uid = p->pw_uid, .gid = p->pw_gid};
        /* With two dots in it, it could be a part of another's prefix. The first may have any. */
        bool is_good = str_is_name(p->pw_name) && !strstr(p->pw_name, "..") && STR_COPY(u->name, p->pw_name);
        if (!is_good && c->n_users > 0)
                return err_set(err, REASON_INVALID, EINVAL,
                               "[keeper] meted_user: \"%.60s\" is too long, or no name of ours", p->pw_name);
        if (!is_good)
                (void)snprintf(u->name, sizeof(u->name), "uid-%u", (unsigned)p->pw_uid);
        space_number(u, (unsigned)c->n_users);
        c->n_spaces = ++c->n_users;
        return 0;
}

static int read_users(GKeyFile *f, struct keeper_config *c, struct err *err)
{
        g_autofree char *text = text_of(f, KEEPER, "meted_user", "mete");
        g_auto(GStrv) names = g_strsplit(text, ";", -1);
        int r = 0;
        if (g_strv_length(names) > KEEPER_USERS_MAX)
                return err_set(err, REASON_INVALID, E2BIG, "[keeper] meted_user: at most %d",
                               KEEPER_USERS_MAX);
        for (char **n = names; *n && r == 0; n++)
                r = read_user(g_strstrip(*n), c, err);
        return r;
}

static int read_qemu(GKeyFile *f, struct keeper_config *c, struct err *err)
{
        c->qemu = g_key_file_get_string_list(f, KEEPER, "qemu", NULL, NULL);
        if (!c->qemu)
                c->qemu = g_strsplit("/usr/bin/qemu-system-x86_64", ";", -1);
        if (!c->qemu[0])
                return bad(err, KEEPER, "qemu", "names no program");
        for (char **q = c->qemu; *q; q++) {
                g_strstrip(*q);
                if ((*q)[0] != '/')
                        return bad(err, KEEPER, "qemu",
                                   "must be absolute paths with semicolons between them");
        }
        return 0;
}

static int read_huge(GKeyFile *f, struct keeper_config *c, struct err *err)
{
        c->huge_dirs = g_key_file_get_string_list(f, KEEPER, "huge_dir", NULL, NULL);
        for (char **d = c->huge_dirs; d && *d; d++) {
                g_strstrip(*d);
                if ((*d)[0] != '/' || strlen(*d) > KEEPER_PATH_MAX || g_str_has_suffix(*d, "/") ||
                    strstr(*d, "/../"))
                        return bad(err, KEEPER, "huge_dir",
                                   "must be absolute paths with semicolons between them");
        }
        return 0;
}

static int read_link(GKeyFile *f, const char *key, char **ret, struct err *err)
{
        *ret = text_of(f, NET, key, NULL);
        if (!*ret || (str_is_name(*ret) && strlen(*ret) < IFNAMSIZ))
                return 0;
        return bad(err, NET, key, "must be the name of a network interface");
}

static int read_net(GKeyFile *f, struct keeper_config *c, struct err *err)
{
        g_autofree char *manage = text_of(f, NET, "manage", "no"), *rate = text_of(f, NET, "rate", NULL);
        int64_t bps = 0;
        c->manages_net = strcmp(manage, "yes") == 0;
        if (!c->manages_net && strcmp(manage, "no") != 0)
                return bad(err, NET, "manage", "must be yes or no");
        int r = read_link(f, "bridge", &c->bridge, err);
        if (r == 0)
                r = read_link(f, "uplink", &c->uplink, err);
        if (r == 0 && rate && units_parse_rate(rate, &bps, err) < 0)
                r = err_note(err, "[net] rate");
        if (r < 0)
                return r;
        c->link_bps = (uint64_t)bps;
        if (c->manages_net && (!c->bridge || !c->uplink))
                return bad(err, NET, "manage", "needs bridge= and uplink=");
        return 0;
}

static int read_resctrl(GKeyFile *f, struct keeper_config *c, struct err *err)
{
        g_autofree char *manage = text_of(f, RESCTRL, "manage", "no");
        c->manages_resctrl = strcmp(manage, "yes") == 0;
        if (!c->manages_resctrl && strcmp(manage, "no") != 0)
                return bad(err, RESCTRL, "manage", "must be yes or no");
        return g_key_file_has_key(f, RESCTRL, "path", NULL)
                       ? read_path(f, RESCTRL, "path", NULL, KEEPER_PATH_MAX, &c->resctrl, err)
                       : 0;
}

static int fill(GKeyFile *f, struct keeper_config *c, struct err *err)
{
        guint64 first = 0, count = 0;
        int r = check_keys(f, err);
        if (r == 0)
                r = read_path(f, KEEPER, "run_dir", "/run/mete-keeper", KEEPER_PATH_MAX, &c->run_dir, err);
        if (r == 0) {
                g_autofree char *socket = g_strconcat(c->run_dir, "/keeper.sock", NULL);
                r = read_path(f, KEEPER, "socket", socket, KEEPER_SOCKET_MAX, &c->socket, err);
        }
        if (r == 0)
                r = read_path(f, KEEPER, "ram_dir", "/dev/shm/mete", KEEPER_PATH_MAX, &c->ram_dir, err);
        if (r == 0)
                r = read_huge(f, c, err);
        if (r == 0)
                r = read_qemu(f, c, err);
        if (r == 0)
                r = read_path(f, KEEPER, "guard", METE_LIBEXECDIR "/mete-guard", KEEPER_PATH_MAX, &c->guard,
                              err);
        if (r == 0)
                r = read_users(f, c, err);
        /* Above Debian's and systemd's own ranges, below the first subordinate uid. */
        if (r == 0)
                r = read_number(f, "uid_first", 70000, 1000, INT32_MAX - KEEPER_SLOTS_MAX, &first, err);
        if (r == 0)
                r = read_number(f, "uid_count", KEEPER_SLOTS_MAX, 1, KEEPER_SLOTS_MAX, &count, err);
        if (r < 0)
                return r;
        c->uid_first = (uid_t)first;
        c->uid_count = (unsigned)count;
        for (size_t i = 0; i < c->n_users; i++)
                if (c->users[i].uid >= c->uid_first && c->users[i].uid - c->uid_first < c->uid_count)
                        return bad(err, KEEPER, "uid_first", "the uids for VMs include meted's own");
        if (c->n_users > 1 && c->uid_count < KEEPER_USERS_MAX)
                return bad(err, KEEPER, "uid_count", "must be 8 at least where there are several meted_user");
        c->cgroup_prefix = text_of(f, KEEPER, "cgroup_prefix", "mete");
        c->cpus = text_of(f, KEEPER, "cpus", NULL);
        c->housekeeping = text_of(f, KEEPER, "housekeeping", NULL);
        GError *e = NULL;
        c->is_best_effort = g_key_file_get_boolean(f, KEEPER, "best_effort", &e);
        if (g_error_matches(e, G_KEY_FILE_ERROR, G_KEY_FILE_ERROR_INVALID_VALUE))
                r = bad(err, KEEPER, "best_effort", "must be true or false");
        g_clear_error(&e);
        c->wants_scope = !g_key_file_has_key(f, KEEPER, "scope", NULL) ||
                         g_key_file_get_boolean(f, KEEPER, "scope", &e);
        if (e)
                r = bad(err, KEEPER, "scope", "must be true or false");
        g_clear_error(&e);
        if (r == 0)
                r = read_net(f, c, err);
        return r < 0 ? r : read_resctrl(f, c, err);
}

int keeper_config_parse(const char *text, struct keeper_config *ret, struct err *err)
{
        g_autoptr(GKeyFile) f = g_key_file_new();
        g_autoptr(GError) e = NULL;
        if (!g_key_file_load_from_data(f, text, strlen(text), G_KEY_FILE_NONE, &e))
                return err_set(err, REASON_INVALID, EINVAL, "%s", e->message);
        struct keeper_config c = {0};
        int r = fill(f, &c, err);
        if (r < 0)
                keeper_config_done(&c);
        else
                *ret = c;
        return r;
}

int keeper_config_read(const char *path, struct keeper_config *ret, struct err *err)
{
        g_autofree char *text = NULL;
        g_autoptr(GError) e = NULL;
        if (!g_file_get_contents(path, &text, NULL, &e))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "%s", e->message);
        int r = keeper_config_parse(text, ret, err);
        return r < 0 ? err_note(err, "%s", path) : 0;
}

void keeper_config_done(struct keeper_config *c)
{
        g_free(c->run_dir);
        g_free(c->socket);
        g_free(c->ram_dir);
        g_free(c->cgroup_prefix);
        g_free(c->cpus);
        g_free(c->housekeeping);
        g_strfreev(c->huge_dirs);
        g_strfreev(c->qemu);
        g_free(c->guard);
        g_free(c->bridge);
        g_free(c->uplink);
        g_free(c->resctrl);
        *c = (struct keeper_config){0};
}
