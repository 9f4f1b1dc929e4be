/* SPDX-License-Identifier: Apache-2.0 */
/* The file of a pool:
 *     under-way VM ITEM BEFORE TARGET PAGES      the pool goes from BEFORE to TARGET, then the item holds
 * PAGES held VM ITEM PAGES "The pool" is its persistent pages: nr_hugepages without the surplus ones, which
 * the kernel counts in. */
#include "host/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include "base/str.h"

struct holder {
        struct memory_holder by;
        int64_t pages;
};

struct pool {
        const struct memory_host *h;
        char dir[CGROUPFS_PATH];
        char file[96];
        int lock_fd;
        struct holder *holders; /* owned */
        size_t n;
        struct {
                struct memory_holder by; /* vm "": nothing is under way */
                int64_t before, target, pages;
        } under_way;
};

static int locate(const struct memory_host *h, int node, int64_t page_bytes, struct pool *p, struct err *err)
{
        int64_t kib = page_bytes / 1024;
        *p = (struct pool){.h = h, .lock_fd = -1};
        if (node < 0 || node >= MEMORY_NODES || page_bytes <= 0 || page_bytes % 1024 ||
            (!*h->nodes && node > 0))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "there are no pages of %jd bytes on node %d",
                               (intmax_t)page_bytes, node);
        if (*h->nodes)
                (void)snprintf(p->dir, sizeof(p->dir), "%s/node%d/hugepages/hugepages-%jdkB", h->nodes, node,
                               (intmax_t)kib);
        else
                (void)snprintf(p->dir, sizeof(p->dir), "%s/hugepages-%jdkB", h->pages, (intmax_t)kib);
        (void)snprintf(p->file, sizeof(p->file), "hugepages-node%d-%jdkB", node, (intmax_t)kib);
        return 0;
}

static struct holder *find(const struct pool *p, const struct memory_holder *by)
{
        for (size_t i = 0; i < p->n; i++)
                if (strcmp(p->holders[i].by.vm, by->vm) == 0 && strcmp(p->holders[i].by.item, by->item) == 0)
                        return &p->holders[i];
        return NULL;
}

static int hold(struct pool *p, const struct memory_holder *by, int64_t pages)
{
        struct holder *have = find(p, by);
        if (!have && pages > 0) {
                struct holder *more = reallocarray(p->holders, p->n + 1, sizeof(*more));
                if (!more)
                        return -ENOMEM;
                p->holders = more;
                have = &more[p->n++];
                have->by = *by;
        }
        if (have && pages > 0)
                have->pages = pages;
        else if (have)
                *have = p->holders[--p->n];
        return 0;
}

static bool is_valid(const struct memory_holder *by)
{
        return str_is_name(by->vm) && str_is_name(by->item);
}

static int load_line(struct pool *p, const char *line)
{
        struct memory_holder by;
        int64_t a, b, c;
        int n = 0;
        /* Our own file; the widths bound what is read. NOLINTNEXTLINE(cert-err34-c) */
        if (sscanf(line, "held %63s %31s %18" SCNd64 "%n", by.vm, by.item, &a, &n) == 3 && line[n] == '\n' &&
            is_valid(&by) && a > 0)
                return hold(p, &by, a);
        /* NOLINTNEXTLINE(cert-err34-c) */
        if (sscanf(line, "under-way %63s %31s %18" SCNd64 " %18" SCNd64 " %18" SCNd64 "%n", by.vm, by.item,
                   &a, &b, &c, &n) != 5 ||
            line[n] != '\n' || !is_valid(&by) || a < 0 || b < 0 || c < 0)
                return -EPROTO;
        p->under_way.by = by;
        p->under_way.before = a;
        p->under_way.target = b;
        p->under_way.pages = c;
        return 0;
}

static int load(struct pool *p, struct err *err)
{
        char path[CGROUPFS_PATH], line[192];
        int r = 0;
        (void)snprintf(path, sizeof(path), "%s/%s", p->h->state_dir, p->file);
        FILE *f = fopen(path, "re");
        if (!f)
                return errno == ENOENT
                               ? 0
                               : err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        while (r == 0 && fgets(line, sizeof(line), f))
                r = load_line(p, line);
        (void)fclose(f);
        return r < 0 ? err_set(err, REASON_INTERNAL, -r,
                               "%s cannot be read: end all VMs, set the pool by hand, remove it", path)
                     : 0;
}

static int save(const struct pool *p, struct err *err)
{
        if (p->n == 0 && !*p->under_way.by.vm)
                return cgroupfs_forget(p->h->state_dir, p->file, err);
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        if (!f)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        if (*p->under_way.by.vm)
                (void)fprintf(f, "under-way %s %s %jd %jd %jd\n", p->under_way.by.vm, p->under_way.by.item,
                              (intmax_t)p->under_way.before, (intmax_t)p->under_way.target,
                              (intmax_t)p->under_way.pages);
        for (size_t i = 0; i < p->n; i++)
                (void)fprintf(f, "held %s %s %jd\n", p->holders[i].by.vm, p->holders[i].by.item,
                              (intmax_t)p->holders[i].pages);
        int r = fclose(f) == 0 ? cgroupfs_keep(p->h->state_dir, p->file, text, err)
                               : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        free(text);
        return r;
}

static int persistent(const struct pool *p, int64_t *ret, struct err *err)
{
        int64_t all, surplus = 0;
        int r = cgroupfs_read_number(p->dir, "nr_hugepages", &all, err);
        if (r < 0 || (r = cgroupfs_read_number(p->dir, "surplus_hugepages", &surplus, err)) < 0)
                return r;
        *ret = all - surplus;
        return 0;
}

static int resize(const struct pool *p, int64_t pages, struct err *err)
{
        char text[24];
        (void)snprintf(text, sizeof(text), "%jd\n", (intmax_t)pages);
        return cgroupfs_write(p->dir, "nr_hugepages", text, p->h->is_fake, err);
}

/* A crash left a change half done: raised in full, it counts; else what there is of it goes again. */
static int settle(struct pool *p, struct err *err)
{
        int64_t now;
        if (!*p->under_way.by.vm)
                return 0;
        int r = persistent(p, &now, err);
        if (r < 0)
                return r;
        bool is_up = p->under_way.target > p->under_way.before;
        if (is_up ? now >= p->under_way.target : now <= p->under_way.target)
                r = hold(p, &p->under_way.by, p->under_way.pages);
        else if (now != p->under_way.before && (now > p->under_way.before) == is_up)
                r = resize(p, p->under_way.before, err);
        if (r < 0)
                return r == -ENOMEM ? err_set(err, REASON_INTERNAL, ENOMEM, "no memory") : r;
        *p->under_way.by.vm = '\0';
        return save(p, err);
}

static void pool_close(struct pool *p)
{
        free(p->holders);
        if (p->lock_fd >= 0)
                (void)close(p->lock_fd); /* the lock goes with it */
}

/* is_settled: what a crash left is put right; else only read. */
static int pool_open(const struct memory_host *h, int node, int64_t page_bytes, bool is_settled,
                     struct pool *p, struct err *err)
{
        int r = locate(h, node, page_bytes, p, err);
        if (r < 0)
                return r;
        if (access(p->dir, F_OK) < 0)
                return err_set(err, REASON_NOT_FOUND, errno, "there are no pages of %jd KiB on node %d (%s)",
                               (intmax_t)(page_bytes / 1024), node, strerror(errno));
        /* Not the pool's own folder, which anyone may open, and so lock for ever. */
        char path[CGROUPFS_PATH];
        (void)snprintf(path, sizeof(path), "%s/lock-%s", h->state_dir, p->file);
        p->lock_fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (p->lock_fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        while ((r = flock(p->lock_fd, LOCK_EX)) < 0 && errno == EINTR)
                ;
        if (r < 0)
                r = err_set(err, REASON_INTERNAL, errno, "%s: cannot be locked: %s", p->dir, strerror(errno));
        if (r == 0 && (r = load(p, err)) == 0 && is_settled)
                r = settle(p, err);
        if (r < 0)
                pool_close(p);
        return r;
}

/* Back to what it was, whatever happened; the first fault is what is told. */
static int undo(struct pool *p, int r, int64_t before, struct err *err)
{
        struct err why = {0};
        int64_t now = -1;
        *p->under_way.by.vm = '\0';
        if (resize(p, before, &why) < 0 || persistent(p, &now, &why) < 0 || now != before)
                (void)err_note(err, "%jd pages instead of %jd are left", (intmax_t)now, (intmax_t)before);
        else if (save(p, &why) < 0)
                (void)err_note(err, "not undone (%.80s)", why.sentence);
        return r;
}

/* What all VMs hold is there again, where somebody lowered the pool: his own pages he may take, theirs not.
 */
static int mend(const struct pool *p, int64_t before, struct err *err)
{
        int64_t all = 0, now;
        for (size_t i = 0; i < p->n; i++)
                all += p->holders[i].pages;
        if (before >= all)
                return 0;
        int r = resize(p, all, err);
        if (r == 0 && (r = persistent(p, &now, err)) == 0 && now < all) {
                r = err_set(err, REASON_NO_CAPACITY, ENOSPC,
                            "%s: somebody lowered it, and of %jd pages that VMs hold the kernel finds %jd",
                            p->dir, (intmax_t)all, (intmax_t)now);
                (void)resize(p, before, NULL);
        }
        return r;
}

static int change(struct pool *p, const struct memory_holder *by, int64_t n, struct err *err)
{
        const struct holder *have = find(p, by);
        int64_t held = have ? have->pages : 0, before, now, unused;
        int r = persistent(p, &before, err);
        if (r < 0 || n == held)
                return r < 0 || n == 0 ? r : mend(p, before, err);
        if (before < held - n) { /* somebody took them already: his word stands (memory_pages_verify) */
                if (hold(p, by, n) < 0)
                        return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                return save(p, err);
        }
        if (n < held &&
            ((r = cgroupfs_read_number(p->dir, "free_hugepages", &unused, err)) < 0 || unused < held - n))
                return r < 0 ? r
                             : err_set(err, REASON_BUSY, EBUSY, "%s: %jd pages are to go, %jd are not in use",
                                       p->dir, (intmax_t)(held - n), (intmax_t)unused);
        int64_t target = before + n - held;
        p->under_way.by = *by;
        p->under_way.before = before;
        p->under_way.target = target;
        p->under_way.pages = n;
        if ((r = save(p, err)) < 0)
                return r;
        if ((r = resize(p, target, err)) < 0 || (r = persistent(p, &now, err)) < 0)
                return undo(p, r, before, err);
        if (now != target) {
                r = n > held ? err_set(err, REASON_NO_CAPACITY, ENOSPC,
                                       "%s: %jd pages are wanted, the kernel found %jd", p->dir,
                                       (intmax_t)(n - held), (intmax_t)(now - before))
                             : err_set(err, REASON_BUSY, EBUSY, "%s: %jd pages were to go, %jd went", p->dir,
                                       (intmax_t)(held - n), (intmax_t)(before - now));
                return undo(p, r, before, err);
        }
        *p->under_way.by.vm = '\0';
        if (hold(p, by, n) < 0)
                return undo(p, err_set(err, REASON_INTERNAL, ENOMEM, "no memory"), before, err);
        if ((r = save(p, err)) < 0) {
                (void)hold(p, by, held);
                return undo(p, r, before, err);
        }
        return 0;
}

int memory_pages_set(const struct memory_host *h, const struct memory_holder *by, int node,
                     int64_t page_bytes, int64_t n, struct err *err)
{
        struct pool p;
        struct err none = {0};
        err = err ? err : &none;
        if (!is_valid(by) || n < 0 || n > (int64_t)1 << 40)
                return err_set(err, REASON_INVALID, EINVAL, "%jd huge pages for \"%.30s\" of VM \"%.60s\"",
                               (intmax_t)n, by->item, by->vm);
        int r = pool_open(h, node, page_bytes, true, &p, err);
        if (r < 0)
                return r;
        r = change(&p, by, n, err);
        pool_close(&p);
        return r;
}

/* Calls fn for each pool that we have a file of, until it returns other than 0. */
static int each_file(const struct memory_host *h, int (*fn)(void *arg, int node, int64_t page_bytes),
                     void *arg, struct err *err)
{
        DIR *d = opendir(h->state_dir);
        int r = 0;
        if (!d)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", h->state_dir, strerror(errno));
        for (struct dirent *e; r == 0 && (e = readdir(d));) {
                int node, n = 0;
                int64_t kib;
                /* Our own names; the widths bound them. NOLINTNEXTLINE(cert-err34-c) */
                if (sscanf(e->d_name, "hugepages-node%4d-%12" SCNd64 "kB%n", &node, &kib, &n) == 2 && n > 0 &&
                    !e->d_name[n])
                        r = fn(arg, node, kib * 1024);
        }
        (void)closedir(d);
        return r;
}

struct search {
        const struct memory_host *h;
        const struct memory_holder *by;
        struct memory_held *ret;
        struct err *err;
};

static int find_in(void *arg, int node, int64_t page_bytes)
{
        struct search *s = arg;
        struct pool p;
        int r = pool_open(s->h, node, page_bytes, true, &p, s->err);
        if (r < 0)
                return r;
        const struct holder *have = find(&p, s->by);
        if (have)
                *s->ret = (struct memory_held){.node = node, .page_bytes = page_bytes, .pages = have->pages};
        pool_close(&p);
        return have != NULL;
}

int memory_pages_find(const struct memory_host *h, const struct memory_holder *by, struct memory_held *ret,
                      struct err *err)
{
        struct search s = {h, by, ret, err};
        return each_file(h, find_in, &s, err);
}

struct look {
        const struct memory_host *h;
        const char *vm;
        int64_t page_bytes;
        struct err *err;
};

static int look_in(void *arg, int node, int64_t page_bytes)
{
        struct look *l = arg;
        struct pool p;
        int found = 0;
        if (page_bytes != l->page_bytes)
                return 0;
        int r = pool_open(l->h, node, page_bytes, true, &p, l->err);
        if (r < 0)
                return r;
        for (size_t i = 0; i < p.n; i++)
                found = found || strcmp(p.holders[i].by.vm, l->vm) == 0;
        pool_close(&p);
        return found;
}

int memory_pages_of(const struct memory_host *h, const char *vm, int64_t page_bytes, struct err *err)
{
        struct look l = {h, vm, page_bytes, err};
        return each_file(h, look_in, &l, err);
}

struct release {
        const struct memory_host *h;
        const char *vm;
        const struct memory_keep *keep;
        int first;
        struct err *err;
};

static bool stays(const struct memory_keep *keep, const char *item)
{
        for (size_t i = 0; keep && i < keep->n; i++)
                if (strcmp(keep->items[i], item) == 0)
                        return true;
        return false;
}

static int release_of(void *arg, int node, int64_t page_bytes)
{
        struct release *a = arg;
        struct pool p;
        struct err err = {0};
        int r = pool_open(a->h, node, page_bytes, true, &p, &err);
        bool is_open = r == 0;
        for (size_t i = 0; is_open && i < p.n;) {
                const struct memory_holder by = p.holders[i].by;
                size_t n = p.n;
                if (strcmp(by.vm, a->vm) == 0 && !stays(a->keep, by.item) &&
                    (r = change(&p, &by, 0, &err)) < 0)
                        break;
                i += n == p.n; /* one that went left its place to the last */
        }
        if (is_open)
                pool_close(&p);
        if (r < 0 && a->first == 0) {
                a->first = r;
                if (a->err)
                        *a->err = err;
        }
        return 0;
}

int memory_pages_release(const struct memory_host *h, const char *vm, const struct memory_keep *keep,
                         struct err *err)
{
        struct release a = {h, vm, keep, 0, err};
        int r = each_file(h, release_of, &a, err);
        return r < 0 ? r : a.first;
}

struct pass {
        const struct memory_host *h;
        const char *vm, *to;
        struct err *err;
};

/* The pool itself does not change. An item that both had is what both had. */
static int pass_of(void *arg, int node, int64_t page_bytes)
{
        const struct pass *a = arg;
        struct pool p;
        bool is_changed = false;
        int r = pool_open(a->h, node, page_bytes, true, &p, a->err);
        if (r < 0)
                return r;
        for (size_t i = 0; r == 0 && i < p.n;) {
                struct memory_holder by = p.holders[i].by;
                int64_t pages = p.holders[i].pages;
                if (strcmp(by.vm, a->vm) != 0) {
                        i++;
                        continue;
                }
                is_changed = true;
                (void)hold(&p, &by, 0); /* leaves its place to the last */
                (void)str_copy(by.vm, sizeof(by.vm), a->to);
                const struct holder *had = find(&p, &by);
                if (hold(&p, &by, pages + (had ? had->pages : 0)) < 0)
                        r = err_set(a->err, REASON_INTERNAL, ENOMEM, "no memory");
        }
        if (r == 0 && is_changed)
                r = save(&p, a->err);
        pool_close(&p);
        return r;
}

int memory_pages_pass(const struct memory_host *h, const char *vm, const char *to, struct err *err)
{
        struct pass a = {h, vm, to, err};
        int r = strcmp(vm, to) == 0 ? 0 : each_file(h, pass_of, &a, err);
        return r < 0 ? r : 0;
}

int memory_pages_verify(const struct memory_host *h, int node, int64_t page_bytes, struct err *err)
{
        struct pool p;
        int64_t now, all = 0;
        int r = pool_open(h, node, page_bytes, false, &p, err);
        if (r < 0)
                return r;
        for (size_t i = 0; i < p.n; i++)
                all += p.holders[i].pages;
        r = persistent(&p, &now, err);
        if (r == 0 && now < all) {
                (void)err_set(err, REASON_STALE, ESTALE, "%s: somebody lowered it to %jd pages, VMs hold %jd",
                              p.dir, (intmax_t)now, (intmax_t)all);
                r = 1;
        }
        pool_close(&p);
        return r;
}
