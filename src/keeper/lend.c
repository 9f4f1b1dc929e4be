/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/lend.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "keeper/launch.h"
#include "keeper/look.h"
#include "keeper/place.h"
#include "keeper/space.h"

/* ---- one file ---- */

/* The directory of all VMs' files with pages of that size; -1: the configuration has none any more. */
static int base_of(const struct vmms *v, int64_t page_bytes)
{
        for (size_t i = 0; page_bytes && i < v->huge->n; i++)
                if (v->huge->sizes[i].page_bytes == page_bytes)
                        return v->huge->sizes[i].fd;
        return page_bytes ? -1 : v->ram_fd;
}

/* Of this VM, where it is that very file, whatever its VMM has put there. -1: it is not there. */
static int open_file(int base_fd, const char *vm, const struct loan_file *f)
{
        struct stat st;
        int dir = openat(base_fd, vm, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int fd = dir < 0 ? -1
                         : openat(dir, f->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (dir >= 0)
                (void)close(dir);
        if (fd >= 0 &&
            (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_dev != f->device || st.st_ino != f->inode)) {
                (void)close(fd);
                return -1;
        }
        return fd;
}

static void remove_name(int base_fd, const char *vm, const struct loan_file *f)
{
        struct stat st;
        int dir = openat(base_fd, vm, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir < 0)
                return;
        if (fstatat(dir, f->name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == f->device &&
            st.st_ino == f->inode)
                (void)unlinkat(dir, f->name, 0);
        (void)close(dir);
}

/* A second name for what is open, and for nothing else. What else has that name goes. */
static int link_file(int base_fd, const char *vm, const struct loan_file *f, int fd)
{
        char path[40];
        int dir = openat(base_fd, vm, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
        if (dir < 0)
                return -errno;
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        for (int tries = 0; tries < 3; tries++) {
                r = linkat(AT_FDCWD, path, dir, f->name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
                if (r != -EEXIST || unlinkat(dir, f->name, 0) < 0)
                        break;
        }
        (void)close(dir);
        return r;
}

static int own(int fd, uid_t uid, gid_t gid, mode_t mode)
{
        /* No access for longer than it takes. */
        return fchmod(fd, 0600) < 0 || fchown(fd, uid, gid) < 0 || fchmod(fd, mode) < 0 ? -errno : 0;
}

/* ---- finding loans ---- */

static struct loan *find(const struct lends *l, const char *vm, bool is_open_only)
{
        GHashTableIter i;
        void *value;
        struct loan *best = NULL;
        g_hash_table_iter_init(&i, l->by_lender);
        while (g_hash_table_iter_next(&i, NULL, &value)) {
                struct loan *each = value;
                if ((strcmp(each->lender, vm) == 0 || strcmp(each->borrower, vm) == 0) &&
                    (!is_open_only || loan_is_open(each)) && (!best || each->serial > best->serial))
                        best = each;
        }
        return best;
}

static struct loan *find_handover(const struct lends *l, const char *vm, const char *handover)
{
        GHashTableIter i;
        void *value;
        struct loan *best = NULL;
        g_hash_table_iter_init(&i, l->by_lender);
        while (g_hash_table_iter_next(&i, NULL, &value)) {
                struct loan *each = value;
                if ((strcmp(each->lender, vm) == 0 || strcmp(each->borrower, vm) == 0) &&
                    strcmp(each->handover, handover) == 0 && (!best || each->serial > best->serial))
                        best = each;
        }
        return best;
}

const struct loan *lends_borrowed_by(const struct lends *l, const char *vm)
{
        GHashTableIter i;
        void *value;
        if (!l)
                return NULL;
        g_hash_table_iter_init(&i, l->by_lender);
        while (g_hash_table_iter_next(&i, NULL, &value)) {
                const struct loan *each = value;
                if (each->state == LOAN_BORROWED && strcmp(each->borrower, vm) == 0)
                        return each;
        }
        return NULL;
}

const char *lends_borrower_of_uid(const struct lends *l, uid_t uid)
{
        GHashTableIter i;
        void *value;
        if (!l)
                return NULL;
        g_hash_table_iter_init(&i, l->by_lender);
        while (g_hash_table_iter_next(&i, NULL, &value)) {
                const struct loan *each = value;
                if (loan_is_open(each) && *each->borrower && each->borrower_uid == uid)
                        return each->borrower;
        }
        return NULL;
}

static bool is_of(const char *file, const char *item)
{
        size_t n = strlen(item);
        return strncmp(file, item, n) == 0 && (!file[n] || file[n] == '-');
}

static bool has_item(const struct loan *loan, const char *item)
{
        for (size_t i = 0; i < loan->n; i++)
                if (is_of(loan->files[i].name, loan->files[i].page_bytes ? huge_file_of(item) : item))
                        return true;
        return false;
}

const char *lends_lender_of(const struct lends *l, const char *vm, const char *item)
{
        const struct loan *loan = lends_borrowed_by(l, vm);
        return loan && has_item(loan, item) ? loan->lender : NULL;
}

/* ---- the end of a loan ---- */

static bool is_ours(const struct vmms *v, uid_t uid)
{
        return uid - v->config->uid_first < v->config->uid_count;
}

/* Whoever does not keep the files must not have them mapped any more. */
static int end_vmm(struct lends *l, const char *vm, uid_t uid, struct err *err)
{
        struct vmm *m;
        int r = *vm ? vmms_kill(l->vmms, vm, &m, err) : 0;
        if (r < 0)
                return r;
        if (r == 1)
                return err_set(err, REASON_BUSY, EBUSY,
                               "the VMM of %s, which does not keep the memory, is being ended", vm);
        return *vm && is_ours(l->vmms, uid) ? launch_sweep(uid, err) : 0;
}

/* The file is that of the one VM alone. Looked for by both names, as either may be gone after a crash. */
static int settle_file(const struct lends *l, const struct loan *loan, const struct loan_file *f,
                       struct err *err)
{
        bool is_given = loan->state == LOAN_GIVING;
        const char *keeps = is_given ? loan->borrower : loan->lender;
        const char *other = is_given ? loan->lender : loan->borrower;
        uid_t uid = is_given ? loan->borrower_uid : loan->lender_uid;
        int base = base_of(l->vmms, f->page_bytes);
        if (base < 0)
                return 0;
        int fd = open_file(base, keeps, f), r = 0;
        if (fd < 0 && *other && (fd = open_file(base, other, f)) >= 0)
                r = link_file(base, keeps, f, fd); /* somebody took its name away: the memory is not lost */
        if (r == -ENOENT)
                r = 0; /* nor is there a directory: that VM is gone */
        if (fd >= 0 && r == 0)
                r = own(fd, uid, (gid_t)uid, 0600);
        if (fd >= 0)
                (void)close(fd);
        if (r == 0 && *other)
                remove_name(base, other, f);
        return r < 0 ? err_set(err, REASON_INTERNAL, -r, "RAM file %s of %s: %s", f->name, keeps,
                               strerror(-r))
                     : 0;
}

/* Of one that is there no more, or never was, nobody would ask for its end. */
static void leave_dirs(const struct lends *l, const char *vm)
{
        if (!*vm || g_hash_table_contains(l->vmms->by_name, vm))
                return;
        (void)unlinkat(l->vmms->ram_fd, vm, AT_REMOVEDIR);
        for (size_t i = 0; i < l->vmms->huge->n; i++)
                (void)unlinkat(l->vmms->huge->sizes[i].fd, vm, AT_REMOVEDIR);
}

/* Memory stays charged where it was touched first: so that group goes along, else it would go with the
 * source's end and the bound would be of nothing. That it does not is no reason to stop here. */
static void pass_bound(const struct lends *l, const struct loan *loan)
{
        const struct vmm *m = g_hash_table_lookup(l->vmms->by_name, loan->borrower);
        struct err err = {0};
        pid_t pid = m && vmm_is_there(m) ? m->record.pid : 0;
        if (l->vmms->memory &&
            memory_limit_pass(l->vmms->memory, loan->lender, loan->borrower, pid, &err) < 0)
                log_warn("%s: its memory is not charged to it: %s", loan->borrower, err.sentence);
}

/* Goes as far as it can; the first fault is told, and it is repeated from there. */
static int finish(struct lends *l, struct loan *loan, struct err *err)
{
        bool is_given = loan->state == LOAN_GIVING;
        int r = is_given ? end_vmm(l, loan->lender, loan->lender_uid, err)
                         : end_vmm(l, loan->borrower, loan->borrower_uid, err);
        if (r == 0 && is_given)
                pass_bound(l, loan);
        for (size_t i = 0; r == 0 && i < loan->n; i++)
                r = settle_file(l, loan, &loan->files[i], err);
        if (r == 0 && is_given && l->vmms->huge->memory)
                r = memory_pages_pass(l->vmms->huge->memory, loan->lender, loan->borrower, err);
        if (r < 0)
                return r;
        leave_dirs(l, is_given ? loan->lender : loan->borrower);
        struct loan next = *loan;
        next.state = loan_next(loan->state, LOAN_EV_DONE);
        if ((r = loan_write(l->loan_fd, &next, err)) < 0)
                return r;
        *loan = next;
        log_note("%s: its memory is %s (handover %s)", is_given ? loan->borrower : loan->lender,
                 is_given ? "its own from now on" : "its own again", loan->handover);
        return 0;
}

/* 1: it is over. 0: nothing is decided. */
static int settle(struct lends *l, struct loan *loan, bool gives_up, struct err *err)
{
        enum place_word word = PLACE_NOTHING;
        int r = 0;
        if (!loan_is_open(loan))
                return 1;
        if (loan->state == LOAN_LENT || loan->state == LOAN_BORROWED) {
                r = place_read(l->place_fd, loan, &word, err);
                /* Somebody may have removed a record that says `committed`: the VMM that runs then stays. */
                bool is_lenders = loan->state == LOAN_LENT ||
                                  (vmms_has(l->vmms, loan->lender) && !vmms_has(l->vmms, loan->borrower));
                if (r == 0 && word == PLACE_NOTHING && gives_up)
                        r = place_abort(l->place_fd, loan, is_lenders, &word, err);
                if (r < 0 || word == PLACE_NOTHING)
                        return r;
                struct loan next = *loan;
                next.state =
                        loan_next(loan->state, word == PLACE_TARGETS ? LOAN_EV_TARGETS : LOAN_EV_SOURCES);
                if ((r = loan_write(l->loan_fd, &next, err)) < 0)
                        return r;
                *loan = next;
        }
        r = finish(l, loan, err);
        return r < 0 ? r : 1;
}

static int is_undecided(const struct loan *loan, struct err *err)
{
        return err_set(err, REASON_BUSY, EBUSY, "memory of %s is lent for handover %s, which is not decided",
                       loan->lender, loan->handover);
}

int lends_before_start(struct lends *l, const char *vm, uid_t uid, struct err *err)
{
        struct loan *loan = l ? find(l, vm, true) : NULL;
        int r = loan ? settle(l, loan, false, err) : 1;
        if (r != 0)
                return r < 0 ? r : 0;
        if (strcmp(loan->borrower, vm) == 0 && loan->borrower_uid == uid)
                return 0;
        return is_undecided(loan, err);
}

int lends_before_end(struct lends *l, const char *vm, const char *item, struct err *err)
{
        struct loan *loan = l ? find(l, vm, true) : NULL;
        if (!loan || (item && !has_item(loan, item)))
                return 0;
        bool is_borrower = strcmp(loan->borrower, vm) == 0;
        int r = settle(l, loan, is_borrower && !item, err);
        if (r != 0)
                return r < 0 ? r : 0;
        return is_borrower ? 0 : is_undecided(loan, err);
}

/* ---- a borrower's directories ---- */

static int link_all(struct lends *l, const struct loan *loan, struct err *err)
{
        gid_t looks = space_of_vm(l->vmms->config, loan->borrower)->gid;
        int r = 0;
        for (size_t i = 0; r == 0 && i < loan->n; i++) {
                const struct loan_file *f = &loan->files[i];
                int base = base_of(l->vmms, f->page_bytes), code = -ENOENT;
                if (base >= 0)
                        r = ramdir_ensure(base, loan->borrower, loan->borrower_uid, looks, err);
                if (r < 0)
                        return r;
                int fd = base < 0 ? -1 : open_file(base, loan->lender, f);
                if (fd >= 0 && (code = own(fd, loan->lender_uid, (gid_t)loan->borrower_uid, 0660)) == 0)
                        code = link_file(base, loan->borrower, f, fd);
                if (fd >= 0)
                        (void)close(fd);
                if (code < 0)
                        r = err_set(err, code == -ENOENT ? REASON_NOT_FOUND : REASON_INTERNAL, -code,
                                    "RAM file %s of %s: %s", f->name, loan->lender, strerror(-code));
        }
        return r;
}

int lends_link(struct lends *l, const char *vm, struct err *err)
{
        const struct loan *loan = lends_borrowed_by(l, vm);
        return loan ? link_all(l, loan, err) : 0;
}

/* ---- what is over ---- */

static bool forget(struct lends *l, const struct loan *loan)
{
        struct err err = {0};
        if (place_remove(l->place_fd, loan, &err) < 0) {
                log_error("handover %s: %s", loan->handover, err.sentence);
                return false;
        }
        loan_remove(l->loan_fd, loan);
        return true;
}

static gboolean is_past(void *key, void *value, void *arg)
{
        const struct loan *loan = value;
        struct lends *l = arg;
        return !loan_is_open(loan) && !place_has_record(l->place_fd, loan) && forget(l, loan);
}

/* Those whose record nobody has any more go, and of the others of that meted the oldest. */
static void make_room(struct lends *l, uid_t user)
{
        (void)g_hash_table_foreach_remove(l->by_lender, is_past, l);
        GHashTableIter i;
        void *value;
        size_t n = 0;
        const struct loan *oldest = NULL;
        g_hash_table_iter_init(&i, l->by_lender);
        while (g_hash_table_iter_next(&i, NULL, &value)) {
                const struct loan *each = value;
                if (loan_is_open(each) || each->lender_user != user)
                        continue;
                n++;
                oldest = !oldest || each->serial < oldest->serial ? each : oldest;
        }
        if (n >= LENDS_ENDED_MAX && forget(l, oldest))
                (void)g_hash_table_remove(l->by_lender, oldest->lender);
}

/* ---- the verbs ---- */

static int say_lent(const struct lends *l, const struct loan *loan, struct api_keeper_lent *ret,
                    struct err *err)
{
        (void)STR_COPY(ret->handle, loan->handle);
        return place_paths(l->vmms->config->run_dir, loan, ret->record, ret->transfer, err);
}

static int random_hex(char *ret, size_t digits, struct err *err)
{
        unsigned char raw[16];
        if (getrandom(raw, digits / 2, 0) != (ssize_t)(digits / 2))
                return err_set(err, REASON_INTERNAL, EIO, "no random numbers");
        for (size_t i = 0; i < digits / 2; i++)
                (void)snprintf(ret + 2 * i, 3, "%02x", raw[i]);
        return 0;
}

/* Each of them, as it is now. */
static int find_files(const struct lends *l, const struct api_keeper_lend *p, uid_t uid, struct loan *ret,
                      struct err *err)
{
        g_autofree struct ramdir_file *files = g_new0(struct ramdir_file, p->n_items);
        int r = 0;
        for (size_t i = 0; i < p->n_items; i++) {
                files[i].fd = -1;
                (void)STR_COPY(files[i].item, p->items[i]);
        }
        for (size_t s = 0; r >= 0 && s <= l->vmms->huge->n; s++) {
                int64_t page_bytes = s == 0 ? 0 : l->vmms->huge->sizes[s - 1].page_bytes;
                r = ramdir_open(s == 0 ? l->vmms->ram_fd : l->vmms->huge->sizes[s - 1].fd, p->vm, uid, files,
                                p->n_items, err);
                for (size_t i = 0; r >= 0 && i < p->n_items; i++) {
                        struct stat st;
                        if (files[i].fd < 0 || *ret->files[i].name || fstat(files[i].fd, &st) < 0)
                                continue;
                        ret->files[i] = (struct loan_file){.page_bytes = page_bytes,
                                                           .device = st.st_dev,
                                                           .inode = st.st_ino,
                                                           .bytes = files[i].bytes};
                        (void)STR_COPY(ret->files[i].name, files[i].name);
                }
        }
        for (size_t i = 0; i < p->n_items; i++) {
                if (r >= 0 && !*ret->files[i].name)
                        r = err_set(err, REASON_NOT_FOUND, ENOENT, "%s has no RAM file %s", p->vm,
                                    p->items[i]);
                if (files[i].fd >= 0)
                        (void)close(files[i].fd);
        }
        ret->n = p->n_items;
        return r < 0 ? r : 0;
}

static int begin(struct lends *l, const struct keeper_user *user, const struct api_keeper_lend *p, uid_t uid,
                 struct api_keeper_lent *ret, struct err *err)
{
        g_autofree struct loan *loan = g_new0(struct loan, 1);
        *loan = (struct loan){
                .state = LOAN_LENT, .serial = l->serial + 1, .lender_uid = uid, .lender_user = user->uid};
        (void)STR_COPY(loan->lender, p->vm);
        (void)STR_COPY(loan->handover, p->handover);
        int r = random_hex(loan->handle, LOAN_HANDLE - 1, err);
        if (r == 0)
                r = random_hex(loan->tag, LOAN_TAG - 1, err);
        if (r == 0)
                r = say_lent(l, loan, ret, err); /* first: what is too long */
        if (r == 0)
                r = find_files(l, p, uid, loan, err);
        if (r == 0)
                r = loan_write(l->loan_fd, loan, err);
        if (r < 0)
                return r;
        l->serial++;
        struct loan *kept = g_steal_pointer(&loan);
        (void)g_hash_table_replace(l->by_lender, kept->lender, kept);
        return place_make(l->place_fd, kept, err);
}

static int lend(struct lends *l, const struct keeper_user *user, const struct api_keeper_lend *p,
                struct api_keeper_lent *ret, struct err *err)
{
        const struct vmm *m = g_hash_table_lookup(l->vmms->by_name, p->vm);
        struct loan *had = g_hash_table_lookup(l->by_lender, p->vm), *open = find(l, p->vm, true);
        if (had && strcmp(had->handover, p->handover) == 0) {
                if (!loan_is_open(had))
                        return err_set(err, REASON_STALE, EALREADY, "handover %s of %s is over", p->handover,
                                       p->vm);
                int r = say_lent(l, had, ret, err);
                return r < 0 ? r : place_make(l->place_fd, had, err);
        }
        int r = open ? settle(l, open, false, err) : 1;
        if (r <= 0)
                return r < 0 ? r : is_undecided(open, err);
        if (!m || m->pid_fd < 0)
                return err_set(err, REASON_NOT_FOUND, ESRCH, "the VMM of %s does not run", p->vm);
        make_room(l, user->uid);
        had = g_hash_table_lookup(l->by_lender, p->vm);
        if (had && !forget(l, had)) /* its folders go with it, and its name is to be another's */
                return err_set(err, REASON_BUSY, EBUSY, "what is left of handover %s goes first",
                               had->handover);
        if (had)
                (void)g_hash_table_remove(l->by_lender, p->vm);
        return begin(l, user, p, m->record.uid, ret, err);
}

/* Whoever asks learns nothing of how much of it was right. */
static struct loan *find_handle(const struct lends *l, const struct api_keeper_borrow *p)
{
        GHashTableIter i;
        void *value;
        g_hash_table_iter_init(&i, l->by_lender);
        while (g_hash_table_iter_next(&i, NULL, &value)) {
                struct loan *each = value;
                unsigned char differs = 0;
                for (size_t c = 0; c < LOAN_HANDLE - 1; c++)
                        differs |= (unsigned char)(each->handle[c] ^ p->handle[c]);
                if (!differs && strcmp(each->handover, p->handover) == 0)
                        return each;
        }
        return NULL;
}

static int check_borrower(struct lends *l, const struct api_keeper_borrow *p, uid_t uid, struct err *err)
{
        const struct vmm *m = g_hash_table_lookup(l->vmms->by_name, p->vm);
        if (p->slot >= l->vmms->config->uid_count)
                return err_set(err, REASON_INVALID, EINVAL, "slot %lld: there are %u", (long long)p->slot,
                               l->vmms->config->uid_count);
        if (m && m->pid_fd >= 0)
                return err_set(err, REASON_BUSY, EBUSY, "%s runs, as process %d", p->vm, (int)m->record.pid);
        if (m && m->record.uid != uid)
                return err_set(err, REASON_BUSY, EBUSY, "%s has another slot until it is dropped", p->vm);
        return vmms_check_slot(l->vmms, p->vm, uid, err);
}

static void say_borrowed(const struct lends *l, const struct loan *loan, struct api_keeper_borrowed *ret)
{
        for (ret->n_files = 0; ret->n_files < loan->n; ret->n_files++) {
                const struct loan_file *f = &loan->files[ret->n_files];
                struct api_keeper_ram_seen *to = &ret->files[ret->n_files];
                const char *dir = l->vmms->config->ram_dir;
                for (size_t i = 0; f->page_bytes && i < l->vmms->huge->n; i++)
                        if (l->vmms->huge->sizes[i].page_bytes == f->page_bytes)
                                dir = l->vmms->huge->sizes[i].dir;
                (void)snprintf(to->path, sizeof(to->path), "%.250s/%s/%s", dir, loan->borrower, f->name);
                to->device = (int64_t)f->device;
                to->inode = (int64_t)f->inode;
                to->has_bytes = to->lent = true;
                to->bytes = f->bytes;
                to->has_page_bytes = f->page_bytes > 0;
                to->page_bytes = f->page_bytes;
        }
}

static int borrow(struct lends *l, const struct keeper_user *user, const struct api_keeper_borrow *p,
                  struct api_keeper_borrowed *ret, struct err *err)
{
        uid_t uid = l->vmms->config->uid_first + (uid_t)p->slot;
        struct loan *loan = find_handle(l, p), *other = find(l, p->vm, true);
        int r = loan ? settle(l, loan, false, err) : 1;
        if (r != 0)
                return r < 0 ? r
                             : err_set(err, REASON_NOT_FOUND, ENOENT,
                                       "no memory is lent for handover %s, or not under this handle",
                                       p->handover);
        if (*loan->borrower && (strcmp(loan->borrower, p->vm) != 0 || loan->borrower_uid != uid ||
                                loan->borrower_user != user->uid))
                return err_set(err, REASON_DENIED, EPERM, "what is lent for handover %s was borrowed already",
                               p->handover);
        if (other && other != loan)
                return is_undecided(other, err);
        if (strcmp(loan->lender, p->vm) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s cannot borrow of itself", p->vm);
        if (!*loan->borrower && (r = check_borrower(l, p, uid, err)) < 0)
                return r;
        struct loan next = *loan;
        (void)STR_COPY(next.borrower, p->vm);
        next.borrower_uid = uid;
        next.borrower_user = user->uid;
        next.state = loan_next(loan->state, LOAN_EV_BORROW);
        if ((r = loan_write(l->loan_fd, &next, err)) < 0)
                return r;
        *loan = next;
        if ((r = place_make(l->place_fd, loan, err)) == 0)
                r = link_all(l, loan, err);
        if (r == 0)
                r = place_paths(l->vmms->config->run_dir, loan, ret->record, ret->transfer, err);
        if (r == 0)
                say_borrowed(l, loan, ret);
        return r;
}

static int give_back(struct lends *l, const struct api_keeper_return *p, struct api_keeper_returned *ret,
                     struct err *err)
{
        struct loan *loan = find_handover(l, p->vm, p->handover);
        if (!loan)
                return 0;
        int r = settle(l, loan, true, err);
        if (r == 0) /* the record is there, and says nothing although it was written */
                r = err_set(err, REASON_INTERNAL, EIO, "the record of handover %s cannot be written",
                            p->handover);
        if (r < 0)
                return r;
        ret->has_is = true;
        ret->is = loan->state == LOAN_GIVEN ? API_LOAN_END_GIVEN : API_LOAN_END_BACK;
        return 0;
}

static bool is_lent(const struct loan *loan, const struct look_file *seen)
{
        for (size_t i = 0; loan && i < loan->n; i++)
                if (loan->files[i].device == seen->device && loan->files[i].inode == seen->inode)
                        return true;
        return false;
}

/* All of them, and by these very inodes. */
static bool is_complete(const struct loan *loan, const struct look *seen)
{
        size_t n = 0;
        for (size_t i = 0; i < loan->n; i++)
                for (size_t k = 0; k < seen->n; k++)
                        if (loan->files[i].device == seen->files[k].device &&
                            loan->files[i].inode == seen->files[k].inode) {
                                n++;
                                break;
                        }
        return n == loan->n;
}

/* The process is asked for before and after, as its number may be used again. */
static int read_maps(const struct lends *l, const struct vmm *m, struct look *ret, struct err *err)
{
        char path[40], dirs[HUGE_SIZES + 1][HUGE_DIR + LOAN_NAME];
        const char *list[HUGE_SIZES + 1];
        size_t n = 0;
        (void)snprintf(dirs[n++], sizeof(dirs[0]), "%s/%s", l->vmms->config->ram_dir, m->record.vm);
        for (size_t i = 0; i < l->vmms->huge->n; i++)
                (void)snprintf(dirs[n++], sizeof(dirs[0]), "%s/%s", l->vmms->huge->sizes[i].dir,
                               m->record.vm);
        for (size_t i = 0; i < n; i++)
                list[i] = dirs[i];
        (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)m->record.pid);
        FILE *f = fopen(path, "re");
        if (!f)
                return err_set(err, errno == ENOENT ? REASON_NOT_FOUND : REASON_INTERNAL, errno, "%s: %s",
                               path, strerror(errno));
        int r = look_parse(f, list, n, ret, err);
        (void)fclose(f);
        return r < 0 ? r
               : vmm_is_there(m)
                       ? 0
                       : err_set(err, REASON_NOT_FOUND, ESRCH, "the VMM of %s is gone", m->record.vm);
}

static int look(const struct lends *l, const struct api_keeper_vm *p, struct api_keeper_looked *ret,
                struct err *err)
{
        const struct vmm *m = g_hash_table_lookup(l->vmms->by_name, p->vm);
        const struct loan *loan = find(l, p->vm, true);
        if (!m || !vmm_is_there(m))
                return err_set(err, REASON_NOT_FOUND, ESRCH, "the VMM of %s does not run", p->vm);
        g_autofree struct look *seen = g_new0(struct look, 1);
        int r = read_maps(l, m, seen, err);
        if (r < 0)
                return r;
        for (ret->n_files = 0; ret->n_files < seen->n; ret->n_files++) {
                const struct look_file *f = &seen->files[ret->n_files];
                struct api_keeper_ram_seen *to = &ret->files[ret->n_files];
                (void)snprintf(to->path, sizeof(to->path), "%s", f->path);
                to->device = (int64_t)f->device;
                to->inode = (int64_t)f->inode;
                to->has_bytes = true;
                to->bytes = f->bytes;
                to->has_page_bytes = f->dir > 0;
                to->page_bytes = f->dir > 0 ? l->vmms->huge->sizes[f->dir - 1].page_bytes : 0;
                to->lent = is_lent(loan, f);
        }
        ret->has_complete = loan != NULL;
        ret->complete = loan && is_complete(loan, seen);
        return 0;
}

/* ---- reading a call ---- */

/* One for each verb: decode, carry out, encode. They are large, and the loop's alone. */
static json_t *do_lend(struct lends *l, const struct keeper_user *user, const json_t *params, int *ret_r,
                       bool *ret_is_wrong, struct err *err)
{
        static struct api_keeper_lend p;
        struct api_keeper_lent lent = {0};
        *ret_is_wrong = (*ret_r = api_keeper_lend_parse(params, &p, err)) < 0;
        if (*ret_r == 0)
                *ret_r = lend(l, user, &p, &lent, err);
        return *ret_r < 0 ? NULL : api_keeper_lent_emit(&lent);
}

static json_t *do_borrow(struct lends *l, const struct keeper_user *user, const json_t *params, int *ret_r,
                         bool *ret_is_wrong, struct err *err)
{
        struct api_keeper_borrow p;
        static struct api_keeper_borrowed borrowed;
        borrowed = (struct api_keeper_borrowed){0};
        *ret_is_wrong = (*ret_r = api_keeper_borrow_parse(params, &p, err)) < 0;
        if (*ret_r == 0)
                *ret_r = borrow(l, user, &p, &borrowed, err);
        return *ret_r < 0 ? NULL : api_keeper_borrowed_emit(&borrowed);
}

static json_t *do_look(struct lends *l, const struct keeper_user *user, const json_t *params, int *ret_r,
                       bool *ret_is_wrong, struct err *err)
{
        struct api_keeper_vm p;
        static struct api_keeper_looked looked;
        looked = (struct api_keeper_looked){0};
        *ret_is_wrong = (*ret_r = api_keeper_vm_parse(params, &p, err)) < 0;
        if (*ret_r == 0)
                *ret_r = look(l, &p, &looked, err);
        return *ret_r < 0 ? NULL : api_keeper_looked_emit(&looked);
}

static json_t *do_return(struct lends *l, const struct keeper_user *user, const json_t *params, int *ret_r,
                         bool *ret_is_wrong, struct err *err)
{
        struct api_keeper_return p;
        struct api_keeper_returned returned = {0};
        *ret_is_wrong = (*ret_r = api_keeper_return_parse(params, &p, err)) < 0;
        if (*ret_r == 0)
                *ret_r = give_back(l, &p, &returned, err);
        return *ret_r < 0 ? NULL : api_keeper_returned_emit(&returned);
}

void lend_verb(struct lends *l, enum api_keeper_method method, const struct keeper_user *user,
               struct rpc_call *call, const json_t *params)
{
        struct err err = {0};
        bool is_wrong = false;
        int r = 0;
        json_t *result = (method == API_KEEPER_RAM_LEND     ? do_lend
                          : method == API_KEEPER_RAM_BORROW ? do_borrow
                          : method == API_KEEPER_RAM_LOOK   ? do_look
                                                          : do_return)(l, user, params, &r, &is_wrong, &err);
        if (r < 0)
                rpc_refuse(call, is_wrong ? RPC_WRONG_PARAMS : RPC_REFUSED, &err);
        else
                rpc_reply(call, result);
}

/* ---- begin and end ---- */

static void load(struct lends *l)
{
        int fd = openat(l->loan_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        for (struct dirent *e; d && (e = readdir(d));) {
                struct err err = {0};
                if (!g_str_has_suffix(e->d_name, ".json"))
                        continue;
                struct loan *loan = g_new0(struct loan, 1);
                if (loan_read(l->loan_fd, e->d_name, loan, &err) < 0) {
                        log_error("loan left alone: %s", err.sentence);
                        g_free(loan);
                        continue;
                }
                l->serial = loan->serial > l->serial ? loan->serial : l->serial;
                (void)g_hash_table_replace(l->by_lender, loan->lender, loan);
                if (loan->state != LOAN_GIVING && loan->state != LOAN_BACKING)
                        continue;
                if (finish(l, loan, &err) < 0)
                        log_warn("handover %s is %s: %s", loan->handover, loan_state_name(loan->state),
                                 err.sentence);
        }
        if (d)
                (void)closedir(d);
}

int lends_init(struct lends *l, struct vmms *vmms, struct err *err)
{
        g_autofree char *path = g_build_filename(vmms->config->run_dir, "loan", NULL);
        *l = (struct lends){.vmms = vmms, .loan_fd = -1, .place_fd = -1};
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        l->loan_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (l->loan_fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        l->by_lender = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, g_free);
        l->place_fd = place_open_base(vmms->config->run_dir, err);
        if (l->place_fd < 0) {
                int r = l->place_fd;
                lends_done(l);
                return r;
        }
        load(l);
        vmms->lends = l;
        return 0;
}

void lends_done(struct lends *l)
{
        if (l->vmms)
                l->vmms->lends = NULL;
        if (l->by_lender)
                g_hash_table_unref(l->by_lender);
        if (l->loan_fd >= 0)
                (void)close(l->loan_fd);
        if (l->place_fd >= 0)
                (void)close(l->place_fd);
        *l = (struct lends){.loan_fd = -1, .place_fd = -1};
}
