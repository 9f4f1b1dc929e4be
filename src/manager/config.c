/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/config.h"

#include <errno.h>
#include <glib.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "base/units.h"

enum type { TEXT = 1, OCTAL, MS, OPERATORS, OBSERVERS };

#define AT(member) offsetof(struct manager_config, member), sizeof(((struct manager_config *)NULL)->member)

/* clang-format off */
static const struct key {
        const char *group, *name;
        enum type type;
        size_t offset, size;
        const char *preset;
        int64_t minimum, maximum;
} keys[] = {
        {"manager", "state_dir", TEXT, AT(state_dir), "/var/lib/mete-manager", 0, 0},
        {"manager", "socket", TEXT, AT(socket), "/run/mete-manager/manager.sock", 0, 0},
        {"manager", "socket_mode", OCTAL, AT(socket_mode), "0660", 0, 0777},
        {"listen", "tls", TEXT, AT(tls), "", 0, 0},
        {"listen", "cert", TEXT, AT(files.cert), "/etc/mete/manager.crt", 0, 0},
        {"listen", "key", TEXT, AT(files.key), "/etc/mete/manager.key", 0, 0},
        {"listen", "ca", TEXT, AT(files.ca), "/etc/mete/ca.crt", 0, 0},
        {"store", "etcd", TEXT, AT(etcd_at), "", 0, 0},
        {"store", "prefix", TEXT, AT(etcd.prefix), "/mete/manager", 0, 0},
        {"store", "lease", MS, AT(etcd.lease_ms), "10s", 3000, 600000},
        {"store", "cert", TEXT, AT(etcd.files.cert), "", 0, 0},
        {"store", "key", TEXT, AT(etcd.files.key), "", 0, 0},
        {"store", "ca", TEXT, AT(etcd.files.ca), "", 0, 0},
        {"hosts", "file", TEXT, AT(hosts), "/etc/mete/hosts.conf", 0, 0},
        {"hosts", "poll", MS, AT(poll_ms), "2s", 100, 3600000},
        {"policy", "floor_time", MS, AT(floor_total_ms), "0s", 0, 604800000},
        {"policy", "floor_downtime", MS, AT(floor_downtime_ms), "0s", 0, 604800000},
        {"policy", "wait", MS, AT(wait_ms), "0s", 0, 604800000},
        {"roles", "operators", OPERATORS, 0, 0, "", 0, 0},
        {"roles", "observers", OBSERVERS, AT(observers), "all", 0, 0},
};
/* clang-format on */

static int set_operators(struct manager_config *c, const char *text, struct err *err)
{
        char **parts = g_strsplit(text, ",", -1);
        int bad = 0;
        c->n_operators = 0;
        for (char **p = parts; *p && !bad; p++) {
                int64_t uid;
                if (*g_strstrip(*p) == '\0' && !p[1])
                        break;
                bad = units_parse_count(*p, &uid, err);
                if (!bad && (c->n_operators == (int)ARRAY_N(c->operators) || uid > UINT32_MAX))
                        bad = err_set(err, REASON_INVALID, EINVAL, "at most %zu uids", ARRAY_N(c->operators));
                if (!bad)
                        c->operators[c->n_operators++] = (uid_t)uid;
        }
        g_strfreev(parts);
        return bad;
}

static int set(struct manager_config *c, const struct key *k, const char *text, struct err *err)
{
        char *at = (char *)c + k->offset, *end;
        int64_t number = 0;
        int bad = 0;
        switch (k->type) {
        case TEXT:
                return str_copy(at, k->size, text)
                               ? 0
                               : err_set(err, REASON_INVALID, EINVAL, "longer than %zu", k->size - 1);
        case OPERATORS:
                return set_operators(c, text, err);
        case OBSERVERS:
                if (strcmp(text, "all") != 0 && strcmp(text, "none") != 0)
                        return err_set(err, REASON_INVALID, EINVAL, "must be all or none");
                c->observers = strcmp(text, "all") == 0;
                return 0;
        case MS:
                bad = units_parse_ms(text, &number, err);
                break;
        case OCTAL:
                number = strtol(text, &end, 8);
                if (end == text || *end)
                        bad = err_set(err, REASON_INVALID, EINVAL, "\"%.20s\" is not an octal mode", text);
                break;
        }
        if (bad)
                return bad;
        if (number < k->minimum || number > k->maximum)
                return err_set(err, REASON_INVALID, ERANGE, "must be from %lld to %lld",
                               (long long)k->minimum, (long long)k->maximum);
        if (k->type == OCTAL)
                *(unsigned *)at = (unsigned)number;
        else
                *(int64_t *)at = number;
        return 0;
}

static int take_key(GKeyFile *f, const char *group, const char *name, struct manager_config *c,
                    struct err *err)
{
        const struct key *k = NULL;
        for (size_t i = 0; i < ARRAY_N(keys) && !k; i++)
                if (strcmp(keys[i].group, group) == 0 && strcmp(keys[i].name, name) == 0)
                        k = &keys[i];
        g_autofree char *text = g_key_file_get_string(f, group, name, NULL);
        int bad;
        if (!k)
                bad = err_set(err, REASON_INVALID, EINVAL, "there is no such key");
        else if (!text)
                bad = err_set(err, REASON_INVALID, EINVAL, "is not readable text");
        else
                bad = set(c, k, text, err);
        return bad ? err_note(err, "[%.40s] %.40s", group, name) : 0;
}

static int take_group(GKeyFile *f, const char *group, struct manager_config *c, struct err *err)
{
        bool is_known = false;
        for (size_t i = 0; i < ARRAY_N(keys); i++)
                is_known = is_known || strcmp(keys[i].group, group) == 0;
        if (!is_known)
                return err_set(err, REASON_INVALID, EINVAL, "there is no group [%.60s]", group);
        char **names = g_key_file_get_keys(f, group, NULL, NULL);
        int bad = 0;
        for (char **n = names; n && *n && !bad; n++)
                bad = take_key(f, group, *n, c, err);
        g_strfreev(names);
        return bad;
}

/* Keys of etcd are told from one another by what is behind the prefix. */
static bool is_prefix(const char *text)
{
        size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-");
        return n > 1 && !text[n] && text[0] == '/' && text[n - 1] != '/';
}

static int check_store(struct manager_config *c, struct err *err)
{
        static const char *const names[] = {"cert", "key", "ca"};
        char *const mine[] = {c->etcd.files.cert, c->etcd.files.key, c->etcd.files.ca};
        const char *const listen[] = {c->files.cert, c->files.key, c->files.ca};
        if (!*c->etcd_at)
                return 0;
        int bad = etcd_places_parse(c->etcd_at, &c->etcd.places, err);
        if (bad)
                return err_note(err, "[store] etcd");
        if (!is_prefix(c->etcd.prefix))
                return err_set(err, REASON_INVALID, EINVAL,
                               "[store] prefix: \"%.60s\" is not like /mete/manager", c->etcd.prefix);
        for (size_t i = 0; i < ARRAY_N(names); i++)
                if (!*mine[i])
                        (void)str_copy(mine[i], sizeof(c->files.cert), listen[i]);
        for (size_t i = 0; i < ARRAY_N(names) && !bad; i++) {
                size_t n = 0;
                char *text = cert_file_read(mine[i], &n, err);
                if (text)
                        explicit_bzero(text, n);
                else
                        bad = err_note(err, "[store] %s", names[i]);
                free(text);
        }
        return bad;
}

int manager_config_read(const char *path, struct manager_config *ret, struct err *err)
{
        struct manager_config c = {0};
        int bad = 0;
        for (size_t i = 0; i < ARRAY_N(keys) && !bad; i++)
                bad = set(&c, &keys[i], keys[i].preset, err);
        if (bad)
                return bad;
        GKeyFile *f = g_key_file_new();
        GError *gerr = NULL;
        if (!g_key_file_load_from_file(f, path, G_KEY_FILE_NONE, &gerr)) {
                bad = err_set(err, REASON_INVALID, EINVAL, "%s: %s", path, gerr->message);
                g_error_free(gerr);
                g_key_file_free(f);
                return bad;
        }
        char **groups = g_key_file_get_groups(f, NULL);
        for (char **g = groups; *g && !bad; g++)
                bad = take_group(f, *g, &c, err);
        g_strfreev(groups);
        g_key_file_free(f);
        if (!bad && *c.tls && (bad = tcp_address_parse(c.tls, &c.tls_address, err)))
                err_note(err, "[listen] tls");
        bad = bad ? bad : check_store(&c, err);
        if (bad)
                return err_note(err, "%.150s", path);
        *ret = c;
        return 0;
}
