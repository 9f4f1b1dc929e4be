/* SPDX-License-Identifier: Apache-2.0 */
#include "host/resctrl-book.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "host/cgroupfs.h"

void resctrl_book_done(struct resctrl_book *b)
{
        free(b->before);
        free(b->claims);
        *b = (struct resctrl_book){0};
}

struct resctrl_claim *resctrl_book_find(const struct resctrl_book *b, const char *vm)
{
        for (size_t i = 0; i < b->n; i++)
                if (strcmp(b->claims[i].vm, vm) == 0)
                        return &b->claims[i];
        return NULL;
}

int resctrl_book_put(struct resctrl_book *b, const struct resctrl_claim *c, struct err *err)
{
        struct resctrl_claim *have = resctrl_book_find(b, c->vm);
        if (!have) {
                struct resctrl_claim *more = realloc(b->claims, (b->n + 1) * sizeof(*more));
                if (!more)
                        return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                b->claims = more;
                have = &more[b->n++];
        }
        *have = *c;
        return 0;
}

void resctrl_book_drop(struct resctrl_book *b, const char *vm)
{
        struct resctrl_claim *c = resctrl_book_find(b, vm);
        if (!c)
                return;
        size_t at = (size_t)(c - b->claims);
        memmove(c, c + 1, (b->n - at - 1) * sizeof(*c));
        b->n--;
}

/* "VM 0=f00;1=f00": read as a line of a schemata file under the name that has the right kind. */
static int read_claim(struct resctrl_book *b, char *rest, bool is_membw, struct err *err)
{
        struct resctrl_schemata *s = malloc(sizeof(*s));
        struct resctrl_claim *c = calloc(1, sizeof(*c));
        char *text = NULL, *blank = strchr(rest, ' ');
        int r = s && c ? -EPROTO : -ENOMEM;
        if (!s || !c || !blank)
                goto out;
        *blank = '\0';
        if (!str_is_name(rest) || asprintf(&text, "%s:%s", is_membw ? "MB" : "L3", blank + 1) < 0) {
                text = NULL;
                goto out;
        }
        struct resctrl_claim *have = resctrl_book_find(b, rest);
        if (have)
                *c = *have;
        (void)STR_COPY(c->vm, rest);
        if (resctrl_schemata_parse(text, 3, s, err) < 0 || s->n != 1)
                goto out;
        *(is_membw ? &c->membw : &c->ways) = s->line[0];
        r = resctrl_book_put(b, c, err);
out:
        free(text);
        free(c);
        free(s);
        return r;
}

static int read_line(struct resctrl_book *b, char *line, struct err *err)
{
        if (strncmp(line, "ways ", 5) == 0)
                return read_claim(b, line + 5, false, err);
        if (strncmp(line, "membw ", 6) == 0)
                return read_claim(b, line + 6, true, err);
        if (strncmp(line, "default ", 8) != 0)
                return -EPROTO;
        char *more = NULL;
        if (asprintf(&more, "%s%s\n", b->before ? b->before : "", line + 8) < 0)
                return -ENOMEM;
        free(b->before);
        b->before = more;
        return 0;
}

static int read_whole(FILE *f, struct resctrl_book *b, struct err *err)
{
        char *line = NULL;
        size_t size = 0;
        ssize_t n;
        int r = 0;
        while (r == 0 && (n = getline(&line, &size, f)) > 0) {
                if (line[n - 1] == '\n')
                        line[n - 1] = '\0';
                r = read_line(b, line, err);
        }
        free(line);
        if (r == 0 && !b->before)
                r = -EPROTO;
        return r;
}

int resctrl_book_load(const char *dir, struct resctrl_book *ret, struct err *err)
{
        char path[CGROUPFS_PATH];
        struct resctrl_book b = {0};
        (void)snprintf(path, sizeof(path), "%s/%s", dir, RESCTRL_BOOK);
        FILE *f = fopen(path, "re");
        if (!f && errno != ENOENT)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        int r = f ? read_whole(f, &b, err) : 0;
        if (f)
                (void)fclose(f);
        if (r < 0) {
                resctrl_book_done(&b);
                return err_set(err, REASON_INTERNAL, -r,
                               "%s cannot be read: end all VMs, restore the default group by hand, remove it",
                               path);
        }
        *ret = b;
        return 0;
}

static void write_values(FILE *f, const char *word, const char *vm, const struct resctrl_line *line)
{
        for (size_t i = 0; i < line->n; i++) {
                if (i == 0)
                        (void)fprintf(f, "%s %s ", word, vm);
                (void)fprintf(f, line->kind == RESCTRL_WAYS ? "%s%u=%x" : "%s%u=%u", i ? ";" : "",
                              line->at[i].id, line->at[i].value);
        }
        if (line->n > 0)
                (void)fputc('\n', f);
}

int resctrl_book_save(const char *dir, const struct resctrl_book *b, struct err *err)
{
        if (b->n == 0)
                return cgroupfs_forget(dir, RESCTRL_BOOK, err);
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        if (!f)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        for (const char *at = b->before; *at;) {
                int n = (int)strcspn(at, "\n");
                (void)fprintf(f, "default %.*s\n", n, at);
                at += n + (at[n] == '\n');
        }
        for (size_t i = 0; i < b->n; i++) {
                write_values(f, "ways", b->claims[i].vm, &b->claims[i].ways);
                write_values(f, "membw", b->claims[i].vm, &b->claims[i].membw);
        }
        int r = fclose(f) == 0 ? cgroupfs_keep(dir, RESCTRL_BOOK, text, err)
                               : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        free(text);
        return r;
}
