/* SPDX-License-Identifier: Apache-2.0 */
#include "host/resctrl-tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include "base/str.h"

struct resctrl_undo {
        enum { UNDO_WRITE = 1, UNDO_REMOVE, UNDO_BOOK } what;
        char name[128];
        const char *file;
        char *text;                      /* owned */
        const struct resctrl_book *book; /* borrowed */
};

const char *resctrl_tree_path(const struct resctrl_host *h, const char *name, char buf[CGROUPFS_PATH])
{
        _Static_assert(CGROUPFS_ROOT + sizeof(((struct resctrl_group *)NULL)->name) + 64 < CGROUPFS_PATH,
                       "names of files fit too");
        (void)snprintf(buf, CGROUPFS_PATH, "%s%s%s", h->root, *name ? "/" : "", name);
        return buf;
}

static int load(const struct resctrl_host *h, struct resctrl_group *g, struct err *err)
{
        char dir[CGROUPFS_PATH];
        char *text = malloc(RESCTRL_TEXT);
        if (!text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        (void)resctrl_tree_path(h, g->name, dir);
        int r = cgroupfs_read(dir, "schemata", text, RESCTRL_TEXT - 1, err);
        if (r == 0)
                r = resctrl_schemata_parse(text, h->level, &g->s, err);
        if (r < 0) {
                free(text);
                return r;
        }
        (void)cgroupfs_read(dir, "mode", g->mode, sizeof(g->mode), NULL);
        (void)strcat(text, "\n"); /* NOLINT: room for it was left above */
        free(g->text);
        g->text = text;
        return 0;
}

static void group_free(struct resctrl_group *g)
{
        if (g)
                free(g->text);
        free(g);
}

/* -ENOENT: it is no group. */
static int add(struct resctrl_tree *t, const char *name, struct resctrl_group **ret, struct err *err)
{
        struct resctrl_group **more = realloc(t->groups, (t->n + 1) * sizeof(struct resctrl_group *));
        struct resctrl_group *g = calloc(1, sizeof(*g));
        if (more)
                t->groups = more;
        int r = more && g ? 0 : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        if (r == 0 && !STR_COPY(g->name, name))
                r = err_set(err, REASON_UNSUPPORTED, ENAMETOOLONG,
                            "resctrl: the name of the group \"%.60s...\" is too long", name);
        /* A group that is about to be made has no files yet where the tree is a plain directory. */
        if (r == 0 && !ret)
                r = load(t->h, g, err);
        if (r < 0) {
                group_free(g);
                return r;
        }
        t->groups[t->n++] = g;
        if (ret)
                *ret = g;
        return 0;
}

static int look(struct resctrl_tree *t, struct err *err)
{
        int r = add(t, "", NULL, err);
        DIR *d = r == 0 ? opendir(t->h->root) : NULL;
        if (r == 0 && !d)
                r = err_set(err, REASON_INTERNAL, errno, "%s: %s", t->h->root, strerror(errno));
        for (struct dirent *e; r == 0 && d && (e = readdir(d));) {
                if (e->d_type != DT_DIR || e->d_name[0] == '.' || strcmp(e->d_name, "info") == 0 ||
                    strcmp(e->d_name, "mon_groups") == 0 || strcmp(e->d_name, "mon_data") == 0)
                        continue;
                r = add(t, e->d_name, NULL, err);
                /* ENODEV: pseudo-locked on a cache that went off line; its ways cannot be given away anyhow.
                 */
                if (r == -ENOENT || r == -ENODEV)
                        r = 0;
        }
        if (d)
                (void)closedir(d);
        return r;
}

/* Others have it for a moment; whoever has it for a second does not hold us up. */
static int lock(struct resctrl_tree *t, bool is_exclusive, struct err *err)
{
        enum { TRIES = 100, PAUSE_US = 10000 };
        int how = (is_exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB;
        for (int i = 0; i < TRIES; i++) {
                if (flock(t->lock_fd, how) == 0)
                        return 0;
                if (errno != EINTR && errno != EWOULDBLOCK)
                        return err_set(err, REASON_INTERNAL, errno, "%s: cannot be locked: %s", t->h->root,
                                       strerror(errno));
                (void)usleep(PAUSE_US);
        }
        return err_set(err, REASON_BUSY, EBUSY, "%s: somebody else has the lock of it", t->h->root);
}

int resctrl_tree_open(struct resctrl_tree *t, const struct resctrl_host *h, bool is_exclusive,
                      struct err *err)
{
        *t = (struct resctrl_tree){.h = h, .lock_fd = -1};
        if (!*h->root)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", h->cache_fallback);
        t->lock_fd = open(h->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (t->lock_fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", h->root, strerror(errno));
        int r = lock(t, is_exclusive, err);
        if (r == 0)
                r = look(t, err);
        if (r < 0)
                resctrl_tree_close(t);
        return r;
}

void resctrl_tree_close(struct resctrl_tree *t)
{
        for (size_t i = 0; i < t->n; i++)
                group_free(t->groups[i]);
        free(t->groups);
        for (size_t i = 0; i < t->n_undo; i++)
                free(t->undo[i].text);
        free(t->undo);
        if (t->lock_fd >= 0)
                (void)close(t->lock_fd); /* the lock goes with it */
        *t = (struct resctrl_tree){.lock_fd = -1};
}

struct resctrl_group *resctrl_tree_find(const struct resctrl_tree *t, const char *name)
{
        for (size_t i = 0; i < t->n; i++)
                if (strcmp(t->groups[i]->name, name) == 0)
                        return t->groups[i];
        return NULL;
}

static int remember(struct resctrl_tree *t, struct resctrl_undo u, struct err *err)
{
        struct resctrl_undo *more = realloc(t->undo, (t->n_undo + 1) * sizeof(*more));
        if (!more) {
                free(u.text);
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        }
        t->undo = more;
        t->undo[t->n_undo++] = u;
        return 0;
}

int resctrl_tree_explain(const struct resctrl_tree *t, struct err *err)
{
        char dir[CGROUPFS_PATH], status[160];
        struct err said;
        if (!err)
                return -EIO;
        (void)snprintf(dir, sizeof(dir), "%s/info", t->h->root);
        (void)cgroupfs_read(dir, "last_cmd_status", status, sizeof(status), NULL);
        said = *err;
        enum reason reason = said.code == ENOSPC                         ? REASON_NO_CAPACITY
                             : said.code == EACCES || said.code == EPERM ? REASON_DENIED
                                                                         : said.reason;
        if (!*status || strcmp(status, "ok") == 0)
                return err_set(err, reason, said.code, "%s", said.sentence);
        return err_set(err, reason, said.code, "resctrl says \"%s\": %s", status, said.sentence);
}

static int write_text(struct resctrl_tree *t, const struct resctrl_group *g, const char *file,
                      const char *before, const char *after, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct resctrl_undo u = {.what = UNDO_WRITE, .file = file, .text = strdup(before)};
        if (!u.text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        (void)STR_COPY(u.name, g->name);
        int r = remember(t, u, err);
        if (r == 0 &&
            (r = cgroupfs_write(resctrl_tree_path(t->h, g->name, dir), file, after, t->h->is_fake, err)) < 0)
                (void)resctrl_tree_explain(t, err);
        return r;
}

int resctrl_tree_make(struct resctrl_tree *t, const char *name, struct resctrl_group **ret, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct resctrl_undo u = {.what = UNDO_REMOVE};
        struct resctrl_group *g;
        if (t->n >= t->h->n_groups)
                return err_set(
                        err, REASON_NO_CAPACITY, ENOSPC,
                        "no class of service left: the hardware has %u, all in use; remove a group below %s",
                        t->h->n_groups, t->h->root);
        (void)STR_COPY(u.name, name);
        int r = remember(t, u, err);
        if (r < 0)
                return r;
        if ((r = cgroupfs_make(resctrl_tree_path(t->h, name, dir), err)) < 0) {
                (void)resctrl_tree_explain(t, err);
                if (r == -ENOSPC)
                        (void)err_note(err, "no class of service left");
                return r;
        }
        if ((r = add(t, name, &g, err)) < 0)
                return r;
        /* As the kernel fills it in; a plain directory is empty. */
        if ((r = load(t->h, g, t->h->is_fake ? NULL : err)) < 0 && !t->h->is_fake)
                return r;
        if (t->h->is_fake) {
                (void)STR_COPY(g->mode, "shareable");
                if (!g->text)
                        g->text = strdup("\n");
                if (cgroupfs_write(dir, "tasks", "", true, err) < 0 ||
                    cgroupfs_write(dir, "mode", "shareable\n", true, err) < 0)
                        return resctrl_tree_explain(t, err);
        }
        if (!g->text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        *ret = g;
        return 0;
}

int resctrl_tree_set_mode(struct resctrl_tree *t, struct resctrl_group *g, const char *mode, struct err *err)
{
        char dir[CGROUPFS_PATH], text[32], before[32];
        if (!*g->mode || strcmp(g->mode, mode) == 0)
                return 0;
        (void)snprintf(text, sizeof(text), "%s\n", mode);
        (void)snprintf(before, sizeof(before), "%s\n", g->mode);
        int r = write_text(t, g, "mode", before, text, err);
        if (r < 0 || (r = cgroupfs_read(resctrl_tree_path(t->h, g->name, dir), "mode", g->mode,
                                        sizeof(g->mode), err)) < 0)
                return r;
        if (strcmp(g->mode, mode) != 0)
                return err_set(err, REASON_INTERNAL, EIO, "%s/mode: wrote %s, the kernel took %s", dir, mode,
                               g->mode);
        return 0;
}

const char *resctrl_tree_one_line(const char *text, char buf[128])
{
        (void)snprintf(buf, 128, "%s", text);
        size_t n = strlen(buf);
        while (n > 0 && buf[n - 1] == '\n')
                buf[--n] = '\0';
        for (char *at = buf; (at = strchr(at, '\n'));)
                *at = ' ';
        return buf;
}

int resctrl_tree_set(struct resctrl_tree *t, struct resctrl_group *g, const struct resctrl_schemata *s,
                     const char *text, struct err *err)
{
        if (resctrl_schemata_is_equal(&g->s, s))
                return 0;
        char *printed = malloc(RESCTRL_TEXT);
        if (!printed)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        int r = write_text(t, g, "schemata", g->text, text ? text : resctrl_schemata_print(s, printed), err);
        free(printed);
        if (r < 0 || (r = load(t->h, g, err)) < 0)
                return r;
        char taken[128];
        if (!resctrl_schemata_is_equal(&g->s, s))
                return err_set(err, REASON_INTERNAL, EIO,
                               "resctrl: the kernel took %.160s for the group \"%s\", not what was written",
                               resctrl_tree_one_line(g->text, taken), *g->name ? g->name : "default");
        return 0;
}

int resctrl_tree_save(struct resctrl_tree *t, const struct resctrl_book *before,
                      const struct resctrl_book *after, struct err *err)
{
        int r = remember(t, (struct resctrl_undo){.what = UNDO_BOOK, .book = before}, err);
        return r < 0 ? r : resctrl_book_save(t->h->state_dir, after, err);
}

int resctrl_tree_remove(struct resctrl_tree *t, const char *name, struct err *err)
{
        char dir[CGROUPFS_PATH];
        (void)resctrl_tree_path(t->h, name, dir);
        /* The kernel moves the threads of a group that goes; a plain directory would count as in use. */
        if (t->h->is_fake && access(dir, F_OK) == 0) {
                int r = cgroupfs_write(dir, "tasks", "", true, err);
                if (r < 0)
                        return resctrl_tree_explain(t, err);
        }
        int r = cgroupfs_remove(dir, t->h->is_fake, err);
        if (r < 0)
                (void)resctrl_tree_explain(t, err);
        return r;
}

void resctrl_tree_undo(struct resctrl_tree *t, struct err *err)
{
        while (t->n_undo > 0) {
                struct resctrl_undo *u = &t->undo[--t->n_undo];
                char dir[CGROUPFS_PATH];
                struct err why = {0};
                int r = 0;
                (void)resctrl_tree_path(t->h, u->name, dir);
                if (u->what == UNDO_WRITE)
                        r = cgroupfs_write(dir, u->file, u->text, t->h->is_fake, &why);
                else if (u->what == UNDO_REMOVE)
                        r = resctrl_tree_remove(t, u->name, &why);
                else
                        r = resctrl_book_save(t->h->state_dir, u->book, &why);
                free(u->text);
                if (r < 0)
                        (void)err_note(err, "not undone (%.80s)", why.sentence);
        }
}
