/* SPDX-License-Identifier: Apache-2.0 */
/* host/resctrl-tree.h - one look at the resctrl tree under its lock, and changes to it that can be undone.
 * For resctrl.c alone. */
#pragma once
#include "host/resctrl.h"
#include "host/resctrl-book.h"

struct resctrl_group {
        char name[128]; /* "": the default group */
        char mode[24];  /* "": a kernel without modes */
        char *text;     /* owned; schemata, with a newline at its end */
        struct resctrl_schemata s;
};

struct resctrl_tree {
        const struct resctrl_host *h;
        int lock_fd;
        struct resctrl_group **groups; /* owned; [0] is the default group */
        size_t n;
        struct resctrl_undo *undo; /* owned; run backwards */
        size_t n_undo;
};

int resctrl_tree_open(struct resctrl_tree *t, const struct resctrl_host *h, bool is_exclusive,
                      struct err *err);
void resctrl_tree_close(struct resctrl_tree *t);
struct resctrl_group *resctrl_tree_find(const struct resctrl_tree *t, const char *name); /* or NULL */

/* Each change is remembered before it is tried. What the kernel says of a failure is in the sentence. */
int resctrl_tree_make(struct resctrl_tree *t, const char *name, struct resctrl_group **ret, struct err *err);
int resctrl_tree_set_mode(struct resctrl_tree *t, struct resctrl_group *g, const char *mode, struct err *err);
/* text: as it is to be written, or NULL for `s` as we print it. Writes nothing where it is so already. */
int resctrl_tree_set(struct resctrl_tree *t, struct resctrl_group *g, const struct resctrl_schemata *s,
                     const char *text, struct err *err);
int resctrl_tree_save(struct resctrl_tree *t, const struct resctrl_book *before,
                      const struct resctrl_book *after, struct err *err);
/* Not undone: the last change of all. */
int resctrl_tree_remove(struct resctrl_tree *t, const char *name, struct err *err);
/* Takes back what was changed since it was opened. What fails of it is noted in err. */
void resctrl_tree_undo(struct resctrl_tree *t, struct err *err);

/* Puts what the kernel last complained about behind the sentence. Returns -err->code. */
int resctrl_tree_explain(const struct resctrl_tree *t, struct err *err);
const char *resctrl_tree_path(const struct resctrl_host *h, const char *name, char buf[CGROUPFS_PATH]);
/* For a sentence: without its line ends, cut where it is long. Returns buf. */
const char *resctrl_tree_one_line(const char *text, char buf[128]);
