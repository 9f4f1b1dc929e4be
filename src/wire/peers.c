/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/peers.h"

#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"

static int take_key(GKeyFile *f, struct peer_entry *e, const char *key, struct err *err)
{
        g_autofree char *text = g_key_file_get_string(f, e->name, key, NULL);
        bool is_good = true;
        if (!text)
                return err_set(err, REASON_INVALID, EINVAL, "%s: is not readable text", key);
        if (strcmp(key, "address") == 0) {
                e->has_address = true;
                return tcp_address_parse(text, &e->address, err);
        }
        if (strcmp(key, "pin") == 0)
                is_good = cert_is_pin(text) && STR_COPY(e->pin, text);
        else if (strcmp(key, "server") == 0)
                is_good = str_is_name(text) && STR_COPY(e->server, text);
        else
                return err_set(err, REASON_INVALID, EINVAL, "there is no key %.60s", key);
        if (!is_good)
                return err_set(err, REASON_INVALID, EINVAL, "%s: must be %s", key,
                               key[0] == 'p' ? "sha256// and base64, as 'mete pki show' prints it"
                                             : "a name");
        return 0;
}

static int take_group(GKeyFile *f, const char *group, struct peer_entry *e, size_t *n_keys, struct err *err)
{
        if (!str_is_name(group) || !STR_COPY(e->name, group))
                return err_set(err, REASON_INVALID, EINVAL, "[%.60s]: is no name of a host", group);
        char **keys = g_key_file_get_keys(f, group, NULL, NULL);
        int bad = 0;
        for (char **k = keys; k && *k && !bad; k++, (*n_keys)++) {
                for (char **before = keys; before != k && !bad; before++)
                        if (strcmp(*before, *k) == 0)
                                bad = err_set(err, REASON_INVALID, EINVAL, "%.60s: is there twice", *k);
                if (!bad)
                        bad = take_key(f, e, *k, err);
        }
        g_strfreev(keys);
        if (!bad && !*e->pin)
                bad = err_set(err, REASON_INVALID, EINVAL, "pin: is needed");
        return bad ? err_note(err, "[%s]", group) : 0;
}

/* GKeyFile makes one group of two without a word, and of two keys takes the last; whether it lists both
 * depends on its version. */
static int nothing_twice(const char *text, size_t n_groups, size_t n_keys, struct err *err)
{
        size_t groups = 0, keys = 0;
        char **lines = g_strsplit(text, "\n", -1);
        for (char **l = lines; *l; l++) {
                const char *first = g_strstrip(*l);
                groups += *first == '[';
                keys += *first != '[' && *first != '#' && strchr(first, '=') != NULL;
        }
        g_strfreev(lines);
        if (groups != n_groups)
                return err_set(err, REASON_INVALID, EINVAL, "a host is there twice");
        if (keys != n_keys)
                return err_set(err, REASON_INVALID, EINVAL, "a key is twice in its group");
        return 0;
}

static int by_name(const void *a, const void *b)
{
        return strcmp(((const struct peer_entry *)a)->name, ((const struct peer_entry *)b)->name);
}

/* One key for two names would let one speak for the other. */
static int check_pins(const struct peers *p, struct err *err)
{
        for (size_t i = 0; i < p->n; i++)
                for (size_t k = 0; k < i; k++)
                        if (strcmp(p->list[i].pin, p->list[k].pin) == 0)
                                return err_set(err, REASON_INVALID, EINVAL, "[%s] and [%s] have the same pin",
                                               p->list[k].name, p->list[i].name);
        return 0;
}

static int read_text(const char *text, size_t n, struct peers *ret, struct err *err)
{
        GKeyFile *f = g_key_file_new();
        GError *gerr = NULL;
        if (!g_key_file_load_from_data(f, text, n, G_KEY_FILE_NONE, &gerr)) {
                int bad = err_set(err, REASON_INVALID, EINVAL, "%s", gerr->message);
                g_error_free(gerr);
                g_key_file_free(f);
                return bad;
        }
        size_t n_groups = 0, n_keys = 0;
        char **groups = g_key_file_get_groups(f, &n_groups);
        struct peers p = {.list = g_new0(struct peer_entry, n_groups + 1)};
        int bad = n_groups > PEERS_MAX ? err_set(err, REASON_INVALID, E2BIG, "more than %d hosts", PEERS_MAX)
                                       : 0;
        for (size_t i = 0; i < n_groups && !bad; i++)
                bad = take_group(f, groups[i], &p.list[p.n++], &n_keys, err);
        g_strfreev(groups);
        g_key_file_free(f);
        if (!bad)
                bad = nothing_twice(text, n_groups, n_keys, err);
        if (!bad)
                bad = check_pins(&p, err);
        if (bad) {
                peers_done(&p);
                return bad;
        }
        qsort(p.list, p.n, sizeof(p.list[0]), by_name);
        *ret = p;
        return 0;
}

int peers_read(const char *path, struct peers *ret, struct err *err)
{
        g_autofree char *text = NULL;
        GError *gerr = NULL;
        struct stat st;
        size_t n;
        if (stat(path, &st) < 0)
                return err_set(err, errno == ENOENT ? REASON_NOT_FOUND : REASON_INVALID, errno, "%.150s: %s",
                               path, strerror(errno));
        if (!S_ISREG(st.st_mode) || st.st_size > PEERS_FILE_MAX)
                return err_set(err, REASON_INVALID, EINVAL, "%.150s: is no file, or is larger than %d bytes",
                               path, PEERS_FILE_MAX);
        if (!g_file_get_contents(path, &text, &n, &gerr)) {
                int bad = err_set(err, REASON_INVALID, EIO, "%s", gerr->message);
                g_error_free(gerr);
                return bad;
        }
        if (strlen(text) != n)
                return err_set(err, REASON_INVALID, EINVAL, "%.150s: is no text", path);
        int bad = read_text(text, n, ret, err);
        return bad ? err_note(err, "%.150s", path) : 0;
}

void peers_done(struct peers *p)
{
        g_free(p->list);
        *p = (struct peers){0};
}

const struct peer_entry *peers_find(const struct peers *p, const char *name)
{
        struct peer_entry key = {0};
        if (p->n == 0 || !STR_COPY(key.name, name))
                return NULL;
        return bsearch(&key, p->list, p->n, sizeof(p->list[0]), by_name);
}
