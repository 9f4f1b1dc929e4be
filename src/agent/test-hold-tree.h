/* SPDX-License-Identifier: Apache-2.0 */
/* agent/test-hold-tree.h - a folder that looks like a guest, for the tests of hold.h: each fills it as its
 * provider needs it. */
#pragma once
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include "agent/hold-internal.h"

struct tree {
        char *dir;
        struct holds *holds;
        int busctl_ms;
};

static inline char *path_in(const struct tree *t, const char *path)
{
        return g_build_filename(t->dir, path, NULL);
}

static inline void put(const struct tree *t, const char *path, const char *text)
{
        g_autofree char *p = path_in(t, path), *parent = g_path_get_dirname(p);
        g_assert_cmpint(g_mkdir_with_parents(parent, 0755), ==, 0);
        g_assert_true(g_file_set_contents(p, text, -1, NULL));
}

static inline int by_text(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* By hand: hundreds of trees are made, and starting rm takes longer than all else. */
static inline void remove_all(const char *path)
{
        GDir *d = g_file_test(path, G_FILE_TEST_IS_SYMLINK) ? NULL : g_dir_open(path, 0, NULL);
        for (const char *name; d != NULL && (name = g_dir_read_name(d)) != NULL;) {
                g_autofree char *below = g_build_filename(path, name, NULL);
                remove_all(below);
        }
        if (d != NULL)
                g_dir_close(d);
        g_assert_cmpint(g_remove(path), ==, 0);
}

static inline void tear_down(struct tree *t)
{
        holds_free(t->holds);
        remove_all(t->dir);
        g_free(t->dir);
}

static inline struct hold_said set(const struct tree *t, int pid, const char *cpus, int64_t bytes)
{
        struct hold_who who = {pid, (uint64_t)pid * 10};
        struct hold_want want = {.memory_bytes = bytes};
        struct hold_said said;

        g_assert_cmpint(cpulist_parse(cpus, &want.cpus, NULL), ==, 0);
        holds_set(t->holds, &who, &want, &said);
        return said;
}

static inline void silent(struct hold_said said)
{
        for (size_t i = 0; i < said.n; i++)
                g_error("%s", said.text[i]);
}

static inline void says(struct hold_said said, const char *words)
{
        g_assert_cmpint((int)said.n, ==, 1);
        g_test_message("%s", said.text[0]);
        g_assert_nonnull(strstr(said.text[0], words));
}
