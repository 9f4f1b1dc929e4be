/* SPDX-License-Identifier: Apache-2.0 */
#include "sp/config.h"

#include <errno.h>
#include <glib.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "base/units.h"

enum type { NAME, PATH, TEXT, BYTES, OCTAL, OPERATORS, OBSERVERS };

/* One row a key; man/mete.conf.5 and dist/sp.conf have the same rows. */
static const struct key {
        const char *group, *name;
        enum type type;
        size_t offset, size;
        const char *preset;
} keys[] = {
#define AT(field) offsetof(struct sp_config, field), sizeof(((struct sp_config *)NULL)->field)
        {"sp",     "name",            NAME,      AT(name),           ""                         },
        {"sp",     "state_dir",       PATH,      AT(state_dir),      "/var/lib/mete-sp"         },
        {"sp",     "run_dir",         PATH,      AT(run_dir),        "/run/mete-sp"             },
        {"sp",     "socket",          PATH,      AT(socket),         "/run/mete-sp/sp.sock"     },
        {"sp",     "socket_mode",     OCTAL,     AT(socket_mode),    "0660"                     },
        {"sp",     "lock",            PATH,      AT(lock),           "/run/mete-sp.lock"        },
        {"sp",     "meted",           PATH,      AT(meted),          METE_SBINDIR "/meted"      },
        {"sp",     "hypervisor_conf", PATH,      AT(base),           "/etc/mete/hypervisor.conf"},
        {"keeper", "run_dir",         PATH,      AT(keeper_run_dir), "/run/mete-keeper"         },
        {"host",   "source",          TEXT,      AT(source),         "live"                     },
        {"host",   "reserve",         BYTES,     AT(reserve_bytes),  "512M"                     },
        {"roles",  "operators",       OPERATORS, 0,                  0,                           ""},
        {"roles",        "observers",                   OBSERVERS,          AT(observers), "all"     },
#undef AT
};

static int set_operators(struct sp_config *c, const char *text, struct err *err)
{
        g_auto(GStrv) parts = g_strsplit(text, ",", -1);
        int bad = 0;
        c->n_operators = 0;
        for (char **p = parts; *p && !bad && !(*g_strstrip(*p) == '\0' && !p[1]); p++) {
                int64_t uid = 0;
                bad = units_parse_count(*p, &uid, err);
                if (!bad && (c->n_operators == SP_OPERATORS_MAX || uid > UINT32_MAX))
                        bad = err_set(err, REASON_INVALID, EINVAL, "at most %d uids", SP_OPERATORS_MAX);
                if (!bad)
                        c->operators[c->n_operators++] = (uid_t)uid;
        }
        return bad;
}

static int set(struct sp_config *c, const struct key *k, const char *text, struct err *err)
{
        char *at = (char *)c + k->offset, *end;
        unsigned long mode;
        switch (k->type) {
        case NAME:
                if (*text && !str_is_name(text))
                        return err_set(err, REASON_INVALID, EINVAL, "must be a name");
                break;
        case PATH:
                if (*text != '/')
                        return err_set(err, REASON_INVALID, EINVAL, "must be an absolute path");
                break;
        case TEXT:
                break;
        case BYTES:
                return units_parse_bytes(text, &c->reserve_bytes, err);
        case OCTAL:
                mode = strtoul(text, &end, 8);
                if (*text == '\0' || *end || mode > 0777)
                        return err_set(err, REASON_INVALID, EINVAL, "must be an octal mode");
                c->socket_mode = (unsigned)mode;
                return 0;
        case OPERATORS:
                return set_operators(c, text, err);
        case OBSERVERS:
                if (strcmp(text, "all") != 0 && strcmp(text, "none") != 0)
                        return err_set(err, REASON_INVALID, EINVAL, "must be all or none");
                c->observers = strcmp(text, "all") == 0;
                return 0;
        }
        return str_copy(at, k->size, text)
                       ? 0
                       : err_set(err, REASON_INVALID, EINVAL, "longer than %zu", k->size - 1);
}

static int take(GKeyFile *f, const char *group, const char *name, struct sp_config *c, struct err *err)
{
        g_autofree char *text = g_key_file_get_string(f, group, name, NULL);
        for (size_t i = 0; i < ARRAY_N(keys); i++)
                if (strcmp(keys[i].group, group) == 0 && strcmp(keys[i].name, name) == 0)
                        return set(c, &keys[i], text ? g_strstrip(text) : "", err);
        return err_set(err, REASON_INVALID, EINVAL, "there is no such key");
}

int sp_config_read(const char *path, struct sp_config *ret, struct err *err)
{
        g_autoptr(GKeyFile) f = g_key_file_new();
        g_autoptr(GError) e = NULL;
        struct sp_config c = {0};
        int bad = 0;
        for (size_t i = 0; i < ARRAY_N(keys) && !bad; i++)
                bad = set(&c, &keys[i], keys[i].preset, err);
        if (!bad && !g_key_file_load_from_file(f, path, G_KEY_FILE_NONE, &e))
                bad = err_set(err, REASON_INVALID, EINVAL, "%s", e->message);
        g_auto(GStrv) groups = bad ? NULL : g_key_file_get_groups(f, NULL);
        for (char **g = groups; g && *g && !bad; g++) {
                g_auto(GStrv) names = g_key_file_get_keys(f, *g, NULL, NULL);
                for (char **n = names; n && *n && !bad; n++)
                        if ((bad = take(f, *g, *n, &c, err)))
                                err_note(err, "[%s] %s", *g, *n);
        }
        if (bad)
                return err_note(err, "%s", path);
        if (!*c.name && (gethostname(c.name, sizeof(c.name) - 1) < 0 || !str_is_name(c.name)))
                (void)STR_COPY(c.name, "server");
        *ret = c;
        return 0;
}
