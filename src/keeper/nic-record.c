/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/nic-record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "base/units.h"
#include "host/net.h"
#include "json/read.h"

enum { TEXT_MAX = 8192 * 2, FILE_NAME = 80 };

static void file_name(char buf[FILE_NAME], const char *vm, const char *end)
{
        (void)snprintf(buf, FILE_NAME, "%s%s", vm, end);
}

/* ---- items ---- */

static size_t find(const struct nic_record *r, const char *item)
{
        size_t i = 0;
        while (i < r->n_items && strcmp(r->items[i].name, item) != 0)
                i++;
        return i;
}

int nic_record_set(struct nic_record *r, const char *item, const struct net_rate *rate, struct err *err)
{
        size_t i = find(r, item);
        if (i == NIC_ITEMS_MAX)
                return err_set(err, REASON_BUSY, E2BIG, "the network card of %s has %d items already", r->vm,
                               NIC_ITEMS_MAX);
        if (!STR_COPY(r->items[i].name, item))
                return err_set(err, REASON_INVALID, EINVAL, "the name of an item is too long");
        r->items[i].rate = *rate;
        if (i == r->n_items)
                r->n_items++;
        return 0;
}

bool nic_record_has(const struct nic_record *r, const char *item, uint64_t *ret_rate_bps)
{
        size_t i = find(r, item);
        if (i == r->n_items)
                return false;
        *ret_rate_bps = r->items[i].rate.rate_bps;
        return true;
}

void nic_record_take_out(struct nic_record *r, const char *item)
{
        size_t i = find(r, item);
        if (i < r->n_items)
                r->items[i] = r->items[--r->n_items];
}

struct net_rate nic_record_rate(const struct nic_record *r)
{
        struct net_rate all = {0};
        for (size_t i = 0; i < r->n_items; i++) {
                const struct net_rate *each = &r->items[i].rate;
                all.rate_bps += each->rate_bps;
                if (each->ceiling_bps && (!all.ceiling_bps || each->ceiling_bps < all.ceiling_bps))
                        all.ceiling_bps = each->ceiling_bps;
        }
        return all;
}

/* ---- files ---- */

static bool take_number(const json_t *v, int64_t minimum, int64_t maximum, int64_t *ret)
{
        *ret = json_integer_value(v);
        return json_is_integer(v) && *ret >= minimum && *ret <= maximum;
}

static bool take_items(const json_t *items, struct nic_record *r)
{
        void *i = json_object_iter((json_t *)items);
        if (!json_is_object(items))
                return false;
        for (; i; i = json_object_iter_next((json_t *)items, i)) {
                int64_t rate, ceiling;
                const char *name = json_object_iter_key(i);
                const json_t *item = json_object_iter_value(i);
                if (!str_is_name(name) || json_object_size(item) != 2 ||
                    !take_number(json_object_get(item, "rate_bps"), NET_RATE_MIN_BPS, UNITS_MAX - 1, &rate) ||
                    !take_number(json_object_get(item, "ceiling_bps"), 0, UNITS_MAX - 1, &ceiling) ||
                    nic_record_set(r, name, &(struct net_rate){(uint64_t)rate, (uint64_t)ceiling}, NULL) < 0)
                        return false;
        }
        return r->n_items > 0;
}

int nic_record_parse(const char *text, size_t n, struct nic_record *ret, struct err *err)
{
        json_t *v = json_read(text, n, err);
        if (!v)
                return -EINVAL;
        struct nic_record r = {0};
        int64_t tap = 0;
        const char *vm = json_string_value(json_object_get(v, "vm"));
        bool is_good = vm && str_is_name(vm) && STR_COPY(r.vm, vm) &&
                       take_number(json_object_get(v, "tap"), 0, NET_SLOT_MAX - 1, &tap) &&
                       take_items(json_object_get(v, "items"), &r) && json_object_size(v) == 3;
        json_decref(v);
        if (!is_good)
                return err_set(err, REASON_INVALID, EINVAL, "not a record of a VM's network card");
        r.tap = (unsigned)tap;
        *ret = r;
        return 0;
}

static int read_file(int dir_fd, const char *name, struct nic_record *ret, struct err *err)
{
        char text[TEXT_MAX], expected[FILE_NAME];
        struct nic_record r;
        int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return err_set(err, errno == ENOENT ? REASON_NOT_FOUND : REASON_INTERNAL, errno, "%s: %s",
                               name, strerror(errno));
        ssize_t n = read(fd, text, sizeof(text));
        int code = errno;
        (void)close(fd);
        if (n < 0)
                return err_set(err, REASON_INTERNAL, code, "%s: %s", name, strerror(code));
        code = nic_record_parse(text, (size_t)n, &r, err);
        if (code < 0)
                return err_note(err, "%s", name);
        file_name(expected, r.vm, ".json");
        if (strcmp(expected, name) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s is the record of another VM", name);
        *ret = r;
        return 0;
}

int nic_record_read(int dir_fd, const char *vm, struct nic_record *ret, struct err *err)
{
        char name[FILE_NAME];
        file_name(name, vm, ".json");
        return read_file(dir_fd, name, ret, err);
}

static char *print(const struct nic_record *r)
{
        json_t *items = json_object();
        for (size_t i = 0; i < r->n_items; i++)
                json_object_set_new(items, r->items[i].name,
                                    json_pack("{s:I, s:I}", "rate_bps", (json_int_t)r->items[i].rate.rate_bps,
                                              "ceiling_bps", (json_int_t)r->items[i].rate.ceiling_bps));
        json_t *v = json_pack("{s:s, s:i, s:o}", "vm", r->vm, "tap", (int)r->tap, "items", items);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        return text;
}

static int write_file(int dir_fd, const char *name, const char *text)
{
        int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return errno;
        ssize_t n = (ssize_t)strlen(text);
        int code = write(fd, text, (size_t)n) == n ? 0 : ENOSPC;
        (void)close(fd);
        return code;
}

int nic_record_write(int dir_fd, const struct nic_record *r, struct err *err)
{
        char name[FILE_NAME], temporary[FILE_NAME];
        char *text = print(r);
        if (!text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a record");
        file_name(name, r->vm, ".json");
        file_name(temporary, r->vm, ".json.new");
        int code = write_file(dir_fd, temporary, text);
        free(text);
        if (code == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
                code = errno;
        if (code == 0)
                return 0;
        (void)unlinkat(dir_fd, temporary, 0);
        return err_set(err, REASON_INTERNAL, code, "%s: %s", name, strerror(code));
}

int nic_record_remove(int dir_fd, const char *vm, struct err *err)
{
        char name[FILE_NAME];
        file_name(name, vm, ".json");
        if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", name, strerror(errno));
        return 0;
}

static bool is_record(const char *name)
{
        size_t n = strlen(name);
        return n > 5 && strcmp(name + n - 5, ".json") == 0;
}

unsigned nic_records_each(int dir_fd, void (*fn)(const struct nic_record *r, void *arg), void *arg)
{
        unsigned bad = 0;
        int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d) {
                log_error("the records of network cards cannot be listed: %s", strerror(errno));
                if (fd >= 0)
                        (void)close(fd);
                return 1;
        }
        for (struct dirent *e; (e = readdir(d));) {
                struct nic_record r;
                struct err err = {0};
                if (!is_record(e->d_name))
                        continue;
                if (read_file(dir_fd, e->d_name, &r, &err) == 0) {
                        fn(&r, arg);
                } else {
                        log_error("record left alone: %s", err.sentence);
                        bad++;
                }
        }
        (void)closedir(d);
        return bad;
}
