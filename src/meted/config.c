/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/config.h"

#include <errno.h>
#include <glib.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "base/units.h"
#include "core/component.h"

enum type { TEXT, BYTES, MS, COUNT, OCTAL, OPERATORS, OBSERVERS, INT32, RATE, YESNO, SHOW };

/* One row a key: feeds the parser; man/mete.conf.5 has the same rows. */
static const struct key {
        const char *group, *name;
        enum type type;
        size_t offset, size;
        const char *preset;
        int64_t minimum, maximum;
} keys[] = {
#define AT(field) offsetof(struct config, field), sizeof(((struct config *)NULL)->field)
        {"meted",   "name",                TEXT,      AT(name),            "",                             0,    0        },
        {"meted",   "state_dir",           TEXT,      AT(state_dir),       "/var/lib/mete",                0,    0        },
        {"meted",   "run_dir",             TEXT,      AT(run_dir),         "/run/mete",                    0,    0        },
        {"meted",   "socket",              TEXT,      AT(socket),          "/run/mete/meted.sock",         0,    0        },
        {"meted",   "socket_mode",         OCTAL,     AT(socket_mode),     "0660",                         0,    0777     },
        {"listen",  "tls",                 TEXT,      AT(tls),             "",                             0,    0        },
        {"listen",  "cert",                TEXT,      AT(files.cert),      "/etc/mete/host.crt",           0,    0        },
        {"listen",  "key",                 TEXT,      AT(files.key),       "/etc/mete/host.key",           0,    0        },
        {"listen",  "ca",                  TEXT,      AT(files.ca),        "/etc/mete/ca.crt",             0,    0        },
        {"listen",  "peers",               TEXT,      AT(peers),           "/etc/mete/peers.conf",         0,    0        },
        {"listen",  "hello",               MS,        AT(hello_ms),        "10s",                          100,  3600000  },
        {"keeper",  "socket",              TEXT,      AT(keeper_socket),   "/run/mete-keeper/keeper.sock", 0,    0        },
        {"server",  "managed",             YESNO,     AT(is_managed),      "no",                           0,    0        },
        {"server",  "processor",           TEXT,      AT(processor),       "",                             0,    0        },
        {"host",    "source",              TEXT,      AT(source),          "live",                         0,    0        },
        {"host",    "cpus",                TEXT,      AT(cpus),            "",                             0,    0        },
        {"host",    "memory",              BYTES,     AT(memory_bytes),    "0",                            0,    UNITS_MAX},
        {"host",    "reserve",             BYTES,     AT(reserve_bytes),   "512M",                         0,    UNITS_MAX},
        {"host",    "cpu_overcommit",      INT32,     AT(cpu_overcommit),  "1",                            1,    64       },
        {"net",     "manage",              YESNO,     AT(manages_net),     "no",                           0,    0        },
        {"resctrl", "manage",              YESNO,     AT(manages_resctrl), "no",                           0,    0        },
        {"resctrl", "path",                TEXT,      AT(resctrl),         "",                             0,    0        },
        {"net",     "network",             TEXT,      AT(network),         "lan",                          0,    0        },
        {"net",     "uplink",              TEXT,      AT(uplink),          "",                             0,    0        },
        {"net",     "rate",                RATE,      AT(link_bps),        "0",                            0,    UNITS_MAX},
        {"move",    "rate",                RATE,      AT(move_rate_bps),   "0",                            0,    UNITS_MAX},
        {"move",    "ports",               TEXT,      AT(move_ports),      "",                             0,    0        },
        {"move",    "vcpu_least",          COUNT,     AT(vcpu_milli),      "1000",                         100,  1000     },
        {"move",    "shared_disks",        YESNO,     AT(shares_disks),    "no",                           0,    0        },
        {"block",   "rate",                BYTES,     AT(disk_rate),       "0",                            0,    UNITS_MAX},
        {"block",   "iops",                COUNT,     AT(disk_iops),       "0",                            0,    10000000 },
        {"block",   "default",             BYTES,     AT(disk_default),    "0",                            0,    UNITS_MAX},
        {"hhi",     "show",                SHOW,      AT(shows_all),       "all",                          0,    0        },
        {"vm",      "qemu",                TEXT,      AT(qemu),            "/usr/bin/qemu-system-x86_64",  0,    0        },
        {"vm",      "image_dir",           TEXT,      AT(image_dir),       "/var/lib/mete/images",         0,    0        },
        {"vm",      "keep",                YESNO,     AT(keep),            "yes",                          0,    0        },
        {"limits",  "offer",               MS,        AT(offer_ms),        "30s",                          100,  3600000  },
        {"limits",  "activation",          MS,        AT(activation_ms),   "60s",                          1000, 3600000  },
        {"limits",  "retry",               MS,        AT(retry_ms),        "2s",                           10,   60000    },
        {"limits",  "force_after",         MS,        AT(force_after_ms),  "0s",                           0,    86400000 },
        {"limits",  "verify",              MS,        AT(verify_ms),       "60s",                          0,    86400000 },
        {"limits",  "repair",              YESNO,     AT(repairs),         "yes",                          0,    0        },
        {"limits",  "relocate_rate",       BYTES,     AT(relocate_rate),   "16M",                          4096, UNITS_MAX},
        {"limits",  "requests",            COUNT,     AT(live_max),        "100000",                       1,    10000000 },
        {"limits",  "requests_per_vm",     COUNT,     AT(live_per_vm_max), "64",                           1,    256      },
        {"limits",  "messages_per_second", COUNT,     AT(rate_per_s),      "200",                          1,    1000000  },
        {"limits",  "burst",               COUNT,     AT(burst),           "400",                          1,    1000000  },
        {"limits",  "events",              COUNT,     AT(events_max),      "200000",                       1000, 100000000},
        {"roles",   "operators",           OPERATORS, 0,                   0,                              "",   0,         0},
        {"roles",         "observers",                        OBSERVERS,              AT(observers), "all",     0,    0       },
#undef AT
};

static int set_operators(struct config *c, const char *text, struct err *err)
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

static int set(struct config *c, const struct key *k, const char *text, struct err *err)
{
        char *at = (char *)c + k->offset;
        int64_t number = 0;
        int bad = 0;
        switch (k->type) {
        case TEXT:
                if (!str_copy(at, k->size, text))
                        bad = err_set(err, REASON_INVALID, EINVAL, "longer than %zu", k->size - 1);
                return bad;
        case OPERATORS:
                return set_operators(c, text, err);
        case OBSERVERS:
                if (strcmp(text, "all") != 0 && strcmp(text, "none") != 0)
                        return err_set(err, REASON_INVALID, EINVAL, "must be all or none");
                c->observers = strcmp(text, "all") == 0;
                return 0;
        case YESNO:
                if (strcmp(text, "yes") != 0 && strcmp(text, "no") != 0)
                        return err_set(err, REASON_INVALID, EINVAL, "must be yes or no");
                *(bool *)at = strcmp(text, "yes") == 0;
                return 0;
        case SHOW:
                if (strcmp(text, "all") != 0 && strcmp(text, "own") != 0)
                        return err_set(err, REASON_INVALID, EINVAL, "must be all or own");
                *(bool *)at = strcmp(text, "all") == 0;
                return 0;
        case RATE:
                bad = units_parse_rate(text, &number, err);
                break;
        case BYTES:
                bad = units_parse_bytes(text, &number, err);
                break;
        case MS:
                bad = units_parse_ms(text, &number, err);
                break;
        case COUNT:
        case INT32:
                bad = units_parse_count(text, &number, err);
                break;
        case OCTAL: {
                char *end;
                number = strtol(text, &end, 8);
                if (end == text || *end)
                        bad = err_set(err, REASON_INVALID, EINVAL, "\"%.20s\" is not an octal mode", text);
                break;
        }
        }
        if (bad)
                return bad;
        if (number < k->minimum || number > k->maximum)
                return err_set(err, REASON_INVALID, ERANGE, "must be from %lld to %lld",
                               (long long)k->minimum, (long long)k->maximum);
        if (k->type == OCTAL)
                *(unsigned *)at = (unsigned)number;
        else if (k->type == INT32)
                *(int32_t *)at = (int32_t)number;
        else
                *(int64_t *)at = number;
        return 0;
}

static const struct key *find(const char *group, const char *name)
{
        for (size_t i = 0; i < ARRAY_N(keys); i++)
                if (strcmp(keys[i].group, group) == 0 && strcmp(keys[i].name, name) == 0)
                        return &keys[i];
        return NULL;
}

static int take_group(GKeyFile *f, const char *group, struct config *c, struct err *err)
{
        bool is_known = false;
        for (size_t i = 0; i < ARRAY_N(keys); i++)
                is_known = is_known || strcmp(keys[i].group, group) == 0;
        if (!is_known)
                return err_set(err, REASON_INVALID, EINVAL, "there is no group [%.60s]", group);
        char **names = g_key_file_get_keys(f, group, NULL, NULL);
        int bad = 0;
        for (char **n = names; n && *n && !bad; n++) {
                const struct key *k = find(group, *n);
                char *text = g_key_file_get_string(f, group, *n, NULL);
                if (!k)
                        bad = err_set(err, REASON_INVALID, EINVAL, "[%s] has no key %s", group, *n);
                else if (!text)
                        bad = err_set(err, REASON_INVALID, EINVAL, "[%s] %s is not readable text", group, *n);
                else if ((bad = set(c, k, text, err)))
                        err_note(err, "[%s] %s", group, *n);
                g_free(text);
        }
        g_strfreev(names);
        return bad;
}

static int check_net(const struct config *c, struct err *err)
{
        if (!str_is_name(c->network))
                return err_set(err, REASON_INVALID, EINVAL, "[net] network: must be a name");
        if (c->manages_net && (!*c->uplink || !c->link_bps))
                return err_set(err, REASON_INVALID, EINVAL, "[net] manage: needs uplink= and rate=");
        return 0;
}

static int check_listen(struct config *c, struct err *err)
{
        if (*c->tls && tcp_address_parse(c->tls, &c->tls_address, err))
                return err_note(err, "[listen] tls");
        return 0;
}

static int check_move(struct config *c, struct err *err)
{
        int64_t first = 0, last = 0;
        char text[sizeof(c->move_ports)], *end;
        (void)STR_COPY(text, c->move_ports);
        end = strchr(text, '-');
        if (end)
                *end++ = '\0';
        if (*c->move_ports &&
            (!end || units_parse_count(text, &first, NULL) || units_parse_count(end, &last, NULL) ||
             first < 1 || last < first || last > UINT16_MAX))
                return err_set(err, REASON_INVALID, EINVAL,
                               "[move] ports: two ports from 1 to 65535 are wanted, such as 49152-49215");
        c->move_port_first = (int)first;
        c->move_port_last = (int)last;
        return 0;
}

/* There is one who says what is whose. */
static int check_server(const struct config *c, struct err *err)
{
        if (c->is_managed && (*c->cpus || c->memory_bytes))
                return err_set(err, REASON_INVALID, EINVAL,
                               "[host] %s: under a service processor ([server] managed=yes) the partition is "
                               "not this file's to say: take it out, and see 'mete server init'",
                               *c->cpus ? "cpus" : "memory");
        if (*c->processor && (!c->is_managed || *c->processor != '/'))
                return err_set(err, REASON_INVALID, EINVAL, "[server] processor: %s",
                               c->is_managed ? "must be an absolute path"
                                             : "there is none where [server] managed is not yes");
        return 0;
}

/* What nobody spoke for is a fiftieth of the whole, in whole units. */
static int check_block(struct config *c, struct err *err)
{
        enum { DEFAULT_PART = 50 };
        if (!c->disk_rate && (c->disk_iops || c->disk_default))
                return err_set(err, REASON_INVALID, EINVAL, "[block] iops, default: need rate=");
        if (c->disk_default > c->disk_rate)
                return err_set(err, REASON_INVALID, EINVAL, "[block] default: is more than rate=");
        if (!c->disk_default)
                c->disk_default = c->disk_rate / DEFAULT_PART;
        c->disk_default = c->disk_default / BLOCK_UNIT * BLOCK_UNIT;
        if (c->disk_rate && c->disk_default < BLOCK_UNIT)
                c->disk_default = BLOCK_UNIT;
        return 0;
}

int config_read(const char *path, struct config *ret, struct err *err)
{
        struct config c = {0};
        for (size_t i = 0; i < ARRAY_N(keys); i++) {
                int bad = set(&c, &keys[i], keys[i].preset, err);
                if (bad)
                        return bad;
        }
        GKeyFile *f = g_key_file_new();
        GError *gerr = NULL;
        if (!g_key_file_load_from_file(f, path, G_KEY_FILE_NONE, &gerr)) {
                int bad = err_set(err, REASON_INVALID, EINVAL, "%s: %s", path, gerr->message);
                g_error_free(gerr);
                g_key_file_free(f);
                return bad;
        }
        char **groups = g_key_file_get_groups(f, NULL);
        int bad = 0;
        for (char **g = groups; *g && !bad; g++)
                bad = take_group(f, *g, &c, err);
        g_strfreev(groups);
        g_key_file_free(f);
        if (!bad)
                bad = check_listen(&c, err);
        if (!bad)
                bad = check_server(&c, err);
        if (!bad)
                bad = check_net(&c, err);
        if (!bad)
                bad = check_move(&c, err);
        if (!bad)
                bad = check_block(&c, err);
        if (bad) {
                err_note(err, "%s", path);
                return bad;
        }
        if (!*c.name && gethostname(c.name, sizeof(c.name) - 1) < 0)
                (void)str_copy(c.name, sizeof(c.name), "host");
        *ret = c;
        return 0;
}
