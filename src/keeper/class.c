/* SPDX-License-Identifier: Apache-2.0 */
/* Order: the record says what shall be before it is made, and says less only after less is there. So whatever
 * is in the tree is in a record, and whoever repeats the call, or drops the VM, finds it. */
#include "keeper/class.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <jansson.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "json/read.h"

enum { TEXT_MAX = 8192, FILE_NAME = 80, WAYS_MAX = 32, PERCENT_MAX = 100 };

/* ---- records ---- */

static size_t find_item(const struct class_record *r, const char *item)
{
        size_t i = 0;
        while (i < r->n_items && strcmp(r->items[i].name, item) != 0)
                i++;
        return i;
}

static int set_item(struct class_record *r, const char *item, const struct class_part *part, struct err *err)
{
        size_t i = find_item(r, item);
        for (size_t k = 0; k < r->n_items; k++)
                if (k != i && r->items[k].part.domain != part->domain)
                        return err_set(err, REASON_INVALID, EINVAL,
                                       "%s has a class of service for L3 cache %u, not %u", r->vm,
                                       r->items[k].part.domain, part->domain);
        if (i == CLASS_ITEMS_MAX)
                return err_set(err, REASON_BUSY, E2BIG, "the class of service of %s has %d items already",
                               r->vm, CLASS_ITEMS_MAX);
        if (!STR_COPY(r->items[i].name, item))
                return err_set(err, REASON_INVALID, EINVAL, "the name of an item is too long");
        r->items[i].part = *part;
        if (i == r->n_items)
                r->n_items++;
        return 0;
}

static struct class_part sum_of(const struct class_record *r)
{
        struct class_part all = {0};
        for (size_t i = 0; i < r->n_items; i++) {
                all.domain = r->items[i].part.domain;
                all.ways += r->items[i].part.ways;
                all.percent += r->items[i].part.percent;
        }
        return all;
}

static bool take_number(const json_t *v, uint32_t maximum, uint32_t *ret)
{
        json_int_t n = json_integer_value(v);
        if (!json_is_integer(v) || n < 0 || n > maximum)
                return false;
        *ret = (uint32_t)n;
        return true;
}

static bool take_items(json_t *items, struct class_record *r)
{
        void *i = json_object_iter(items);
        if (!json_is_object(items))
                return false;
        for (; i; i = json_object_iter_next(items, i)) {
                struct class_part p;
                const char *name = json_object_iter_key(i);
                const json_t *item = json_object_iter_value(i);
                if (!str_is_name(name) || json_object_size(item) != 3 ||
                    !take_number(json_object_get(item, "domain"), CPULIST_MAX - 1, &p.domain) ||
                    !take_number(json_object_get(item, "ways"), WAYS_MAX, &p.ways) ||
                    !take_number(json_object_get(item, "percent"), PERCENT_MAX, &p.percent) ||
                    (p.ways > 0) == (p.percent > 0) || set_item(r, name, &p, NULL) < 0)
                        return false;
        }
        return r->n_items > 0;
}

int class_record_parse(const char *text, size_t n, struct class_record *ret, struct err *err)
{
        json_t *v = json_read(text, n, err);
        if (!v)
                return -EINVAL;
        struct class_record r = {0};
        const char *vm = json_string_value(json_object_get(v, "vm"));
        bool is_good = vm && str_is_name(vm) && STR_COPY(r.vm, vm) && json_object_size(v) == 2 &&
                       take_items(json_object_get(v, "items"), &r);
        json_decref(v);
        if (!is_good)
                return err_set(err, REASON_INVALID, EINVAL, "not a record of a VM's class of service");
        *ret = r;
        return 0;
}

char *class_record_print(const struct class_record *r)
{
        json_t *items = json_object();
        for (size_t i = 0; i < r->n_items; i++)
                json_object_set_new(items, r->items[i].name,
                                    json_pack("{s:I, s:I, s:I}", "domain",
                                              (json_int_t)r->items[i].part.domain, "ways",
                                              (json_int_t)r->items[i].part.ways, "percent",
                                              (json_int_t)r->items[i].part.percent));
        json_t *v = json_pack("{s:s, s:o}", "vm", r->vm, "items", items);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        return text;
}

static void file_name(char buf[FILE_NAME], const char *vm, const char *end)
{
        (void)snprintf(buf, FILE_NAME, "%s%s", vm, end);
}

/* 1: it has something. 0: it has nothing. */
static int record_find(const struct classes *c, const char *vm, struct class_record *ret, struct err *err)
{
        char text[TEXT_MAX], name[FILE_NAME];
        file_name(name, vm, ".json");
        *ret = (struct class_record){0};
        (void)g_strlcpy(ret->vm, vm, sizeof(ret->vm));
        int fd = c->dir_fd < 0 ? -1 : openat(c->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (c->dir_fd < 0 || (fd < 0 && errno == ENOENT))
                return 0;
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
        int code = errno;
        if (fd >= 0)
                (void)close(fd);
        if (n < 0)
                return err_set(err, REASON_INTERNAL, code, "%s: %s", name, strerror(code));
        code = class_record_parse(text, (size_t)n, ret, err);
        if (code == 0 && strcmp(ret->vm, vm) != 0)
                code = err_set(err, REASON_INVALID, EINVAL, "it is the record of another VM");
        return code < 0 ? err_note(err, "%s", name) : 1;
}

static int record_remove(const struct classes *c, const char *vm, struct err *err)
{
        char name[FILE_NAME];
        file_name(name, vm, ".json");
        if (unlinkat(c->dir_fd, name, 0) < 0 && errno != ENOENT)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", name, strerror(errno));
        return 0;
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

static int record_write(const struct classes *c, const struct class_record *r, struct err *err)
{
        char name[FILE_NAME], temporary[FILE_NAME];
        if (r->n_items == 0)
                return record_remove(c, r->vm, err);
        char *text = class_record_print(r);
        if (!text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a record");
        file_name(name, r->vm, ".json");
        file_name(temporary, r->vm, ".json.new");
        int code = write_file(c->dir_fd, temporary, text);
        free(text);
        if (code == 0 && renameat(c->dir_fd, temporary, c->dir_fd, name) < 0)
                code = errno;
        if (code == 0)
                return 0;
        (void)unlinkat(c->dir_fd, temporary, 0);
        return err_set(err, REASON_INTERNAL, code, "%s: %s", name, strerror(code));
}

/* ---- the host ---- */

static void publish(struct classes *c, int r, const struct err *why)
{
        const struct resctrl_host *h = &c->host;
        struct class_said said = {0};
        unsigned n = 0;
        if (r < 0) {
                (void)snprintf(said.fallbacks[0], sizeof(said.fallbacks[0]), "%.150s", why->sentence);
        } else {
                said.is_ready = *h->root != '\0';
                said.is_made_up = h->is_fake;
                (void)STR_COPY(said.root, h->root);
                said.ways = h->level == 3 ? (unsigned)__builtin_popcount(h->full_mask) : 0;
                said.membw_step = h->membw_step;
                (void)STR_COPY(said.fallbacks[0], h->cache_fallback);
                if (strcmp(h->cache_fallback, h->membw_fallback) != 0)
                        (void)STR_COPY(said.fallbacks[1], h->membw_fallback);
                if (said.is_ready && resctrl_groups(h, &n, NULL) == 0) {
                        said.classes = h->n_groups;
                        said.left = n < h->n_groups ? h->n_groups - n : 0;
                }
        }
        (void)pthread_mutex_lock(&c->said_lock);
        c->said = said;
        (void)pthread_mutex_unlock(&c->said_lock);
}

static void publish_change(struct classes *c)
{
        if (c->is_ready && c->config->manages_resctrl)
                publish(c, 0, NULL);
}

void classes_say(struct classes *c, struct class_said *ret)
{
        (void)pthread_mutex_lock(&c->said_lock);
        *ret = c->said;
        (void)pthread_mutex_unlock(&c->said_lock);
}

bool classes_is_made_up(struct classes *c)
{
        struct class_said said;
        classes_say(c, &said);
        return said.is_made_up;
}

static bool has_record(const char *vm, void *arg)
{
        struct class_record r;
        return record_find(arg, vm, &r, NULL) != 0;
}

int classes_look(const struct keeper_config *config, const char *state_dir, struct resctrl_host *ret,
                 bool *ret_is_made_up, struct err *err)
{
        struct statfs fs;
        const char *root = config->resctrl;
        g_autofree char *prefix = g_strdelimit(g_strdup(config->cgroup_prefix), "/", '-');
        struct resctrl_options o = {.prefix = prefix, .state_dir = state_dir, .root = root};
        if (root && statfs(root, &fs) < 0)
                return err_set(err, REASON_NOT_FOUND, errno, "[resctrl] path %.100s: %s", root,
                               strerror(errno));
        *ret_is_made_up = o.is_fake = root && fs.f_type != RDTGROUP_SUPER_MAGIC;
        return resctrl_host_init(ret, &o, err);
}

static int look(struct classes *c, struct err *err)
{
        bool is_made_up;
        int r = classes_look(c->config, c->state_dir, &c->host, &is_made_up, err);
        return r < 0 ? r : resctrl_sweep(&c->host, has_record, c, err);
}

/* Unmounted, say: all classes went with it. */
static bool is_gone(const struct classes *c)
{
        char path[CGROUPFS_PATH];
        (void)snprintf(path, sizeof(path), "%s/schemata", c->host.root);
        return !*c->host.root || (access(path, F_OK) < 0 && errno == ENOENT);
}

static int begin(struct classes *c, struct err *err)
{
        if (c->is_ready && !is_gone(c))
                return 0;
        int r = look(c, err);
        c->is_ready = r == 0 && *c->host.root;
        if (c->config->manages_resctrl)
                publish(c, r, err);
        if (r == 0 && !c->is_ready)
                r = err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", c->host.cache_fallback);
        return r;
}

static int open_dir(const char *path, struct err *err)
{
        if (g_mkdir_with_parents(path, 0700) < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno)) : fd;
}

int classes_init(struct classes *c, const struct keeper_config *config, struct err *err)
{
        struct err why = {0};
        *c = (struct classes){.config = config, .dir_fd = -1};
        (void)pthread_mutex_init(&c->lock, NULL);
        (void)pthread_mutex_init(&c->said_lock, NULL);
        g_autofree char *records = g_build_filename(config->run_dir, "class", NULL);
        (void)snprintf(c->state_dir, sizeof(c->state_dir), "%s/resctrl", config->run_dir);
        /* What was given while it was managed still ends as it should. */
        if (!config->manages_resctrl && access(c->state_dir, F_OK) < 0)
                return 0;
        int fd = open_dir(c->state_dir, err);
        if (fd < 0)
                return fd;
        (void)close(fd);
        if ((c->dir_fd = open_dir(records, err)) < 0)
                return c->dir_fd;
        if (begin(c, &why) < 0)
                log_error("no VM has a class of service, it is tried again when one wants it: %s",
                          why.sentence);
        else if (c->host.is_fake && config->manages_resctrl)
                log_warn("%s is no resctrl file system: classes of service made there have no effect",
                         c->host.root);
        return 0;
}

void classes_done(struct classes *c)
{
        if (c->dir_fd >= 0)
                (void)close(c->dir_fd);
        c->dir_fd = -1;
        c->is_ready = false;
}

/* ---- items ---- */

static int apply(struct classes *c, const struct class_record *r, struct err *err)
{
        struct class_part all = sum_of(r);
        struct resctrl_want want = {.ways = all.ways, .membw_percent = all.percent};
        if (r->n_items == 0)
                return resctrl_deactivate(&c->host, r->vm, err);
        if (all.ways && !cpulist_add(&want.cache_ids, all.domain))
                return err_set(err, REASON_INVALID, EINVAL, "there is no L3 cache %u", all.domain);
        if (all.percent && !cpulist_add(&want.membw_ids, all.domain))
                return err_set(err, REASON_INVALID, EINVAL, "there is no L3 cache %u", all.domain);
        return resctrl_activate(&c->host, r->vm, &want, err);
}

static int hold(struct classes *c, const char *vm, const char *item, const struct class_part *part,
                struct err *err)
{
        struct class_record before, now;
        if (!c->config->manages_resctrl)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "the keeper makes no classes of service ([resctrl] manage in keeper.conf)");
        int r = begin(c, err);
        if (r == 0 && part->ways && c->host.level != 3)
                r = err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s",
                            *c->host.cache_fallback ? c->host.cache_fallback
                                                    : "ways of an L3 cache cannot be given away here");
        if (r < 0 || (r = record_find(c, vm, &before, err)) < 0)
                return r;
        now = before;
        r = set_item(&now, item, part, err);
        if (r == 0)
                r = record_write(c, &now, err);
        if (r == 0 && (r = apply(c, &now, err)) < 0) {
                struct err more;
                int back = r == -EBUSY ? 0 : apply(c, &before, &more); /* busy: nothing was touched */
                if (back == 0)
                        back = record_write(c, &before, &more);
                if (back < 0)
                        (void)err_note(err, "its record says more than there is (%.100s)", more.sentence);
        }
        publish_change(c);
        return r;
}

static int let_go(struct classes *c, const char *vm, const char *item, struct err *err)
{
        struct class_record r;
        int done = record_find(c, vm, &r, err);
        if (done <= 0)
                return done;
        size_t i = find_item(&r, item);
        if (i == r.n_items)
                return 0;
        r.items[i] = r.items[--r.n_items];
        done = begin(c, err);
        if (done == 0)
                done = apply(c, &r, err);
        if (done == 0 || is_gone(c))
                done = record_write(c, &r, err);
        publish_change(c);
        return done;
}

static int prune(struct classes *c, const char *vm, const char (*keep)[CPU_ITEM_SIZE], size_t n_keep,
                 struct err *err)
{
        struct class_record r;
        int done = record_find(c, vm, &r, err);
        for (size_t i = 0; done == 1 && i < r.n_items; i++) {
                bool stays = false;
                for (size_t k = 0; k < n_keep; k++)
                        stays = stays || strcmp(r.items[i].name, keep[k]) == 0;
                int each = stays ? 0 : let_go(c, vm, r.items[i].name, err);
                done = each < 0 ? each : done;
        }
        return done < 0 ? done : 0;
}

static int read_back(struct classes *c, const char *vm, const char *item, pid_t pid, struct class_live *ret,
                     struct err *err)
{
        struct class_record r;
        struct class_live live = {0};
        struct resctrl_reading seen;
        int done = record_find(c, vm, &r, err);
        size_t at = done == 1 ? find_item(&r, item) : 0;
        if (done < 0)
                return done;
        if (done == 0 || at == r.n_items)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "it is not activated");
        live.part = r.items[at].part;
        live.vm.domain = live.part.domain;
        done = begin(c, err);
        if (done == 0 && (done = resctrl_verify(&c->host, vm, pid, err)) > 0)
                done = -ESTALE;
        if (done == 0)
                done = resctrl_read(&c->host, vm, &seen, err);
        if (done < 0)
                return done;
        for (size_t i = 0; i < seen.n; i++)
                if (seen.at[i].id == live.part.domain) {
                        live.vm.ways = (uint32_t)__builtin_popcount(seen.at[i].ways);
                        live.vm.percent = seen.at[i].membw_percent;
                }
        *ret = live;
        return 0;
}

static int drop(struct classes *c, const char *vm, struct err *err)
{
        struct class_record r;
        int found = record_find(c, vm, &r, NULL); /* one that cannot be read goes too */
        if (found == 0)
                return 0;
        int done = begin(c, err);
        if (done == 0)
                done = resctrl_deactivate(&c->host, vm, err);
        if (done == 0 || is_gone(c))
                done = record_remove(c, vm, err);
        publish_change(c);
        return done;
}

/* ---- one at a time ---- */

int classes_hold(struct classes *c, const char *vm, const char *item, const struct class_part *part,
                 struct err *err)
{
        (void)pthread_mutex_lock(&c->lock);
        int r = hold(c, vm, item, part, err);
        (void)pthread_mutex_unlock(&c->lock);
        return r;
}

int classes_enter(struct classes *c, const char *vm, pid_t pid, bool is_needed, struct err *err)
{
        struct class_record record;
        (void)pthread_mutex_lock(&c->lock);
        int r = record_find(c, vm, &record, err);
        if (r == 0 && is_needed)
                r = err_set(err, REASON_NOT_FOUND, ENOENT, "it is not activated");
        else if (r == 1 && (r = begin(c, err)) == 0)
                r = resctrl_enter(&c->host, vm, pid, err);
        (void)pthread_mutex_unlock(&c->lock);
        return r;
}

int classes_let_go(struct classes *c, const char *vm, const char *item, struct err *err)
{
        (void)pthread_mutex_lock(&c->lock);
        int r = let_go(c, vm, item, err);
        (void)pthread_mutex_unlock(&c->lock);
        return r;
}

int classes_read(struct classes *c, const char *vm, const char *item, pid_t pid, struct class_live *ret,
                 struct err *err)
{
        (void)pthread_mutex_lock(&c->lock);
        int r = read_back(c, vm, item, pid, ret, err);
        (void)pthread_mutex_unlock(&c->lock);
        return r;
}

int classes_prune(struct classes *c, const char *vm, const char (*keep)[CPU_ITEM_SIZE], size_t n_keep,
                  struct err *err)
{
        (void)pthread_mutex_lock(&c->lock);
        int r = prune(c, vm, keep, n_keep, err);
        (void)pthread_mutex_unlock(&c->lock);
        return r;
}

int classes_drop(struct classes *c, const char *vm, struct err *err)
{
        (void)pthread_mutex_lock(&c->lock);
        int r = drop(c, vm, err);
        (void)pthread_mutex_unlock(&c->lock);
        return r;
}
