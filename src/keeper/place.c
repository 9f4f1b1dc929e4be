/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/place.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { OPEN_DIR = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };
#define OUTCOME  "outcome"
#define RETURNED "returned"

int place_open_base(const char *run_dir, struct err *err)
{
        char path[PLACE_PATH];
        (void)snprintf(path, sizeof(path), "%.160s/handover", run_dir);
        if (mkdir(path, 0711) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        int fd = open(path, OPEN_DIR);
        struct stat st;
        if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid() && fchmod(fd, 0711) == 0)
                return fd;
        int r = err_set(err, REASON_POLICY, EPERM, "%s must be a folder of root's own", path);
        if (fd >= 0)
                (void)close(fd);
        return r;
}

/* ---- access lists, as acl(5) has them on disk ---- */

enum { ACL_VERSION = 2, ACL_USER_OBJ = 1, ACL_USER = 2, ACL_GROUP_OBJ = 4, ACL_MASK = 16, ACL_OTHER = 32 };

struct acl {
        uint32_t version;
        struct acl_entry {
                uint16_t tag, perm;
                uint32_t id;
        } entries[6];
        size_t n; /* not on disk */
};

static void acl_add(struct acl *a, unsigned tag, unsigned perm, uint32_t id)
{
        a->entries[a->n++] = (struct acl_entry){htole16((uint16_t)tag), htole16((uint16_t)perm), htole32(id)};
}

/* The kernel wants users in ascending order. perm: of each of them. */
static int acl_set(int fd, const char *which, unsigned perm, const struct loan *l)
{
        struct acl a = {.version = htole32(ACL_VERSION)};
        uid_t low = l->lender_user, high = *l->borrower ? l->borrower_user : low;
        if (low > high) {
                high = l->lender_user;
                low = l->borrower_user;
        }
        acl_add(&a, ACL_USER_OBJ, 7, UINT32_MAX);
        if (low != 0)
                acl_add(&a, ACL_USER, perm, low);
        if (high != low && high != 0)
                acl_add(&a, ACL_USER, perm, high);
        acl_add(&a, ACL_GROUP_OBJ, 0, UINT32_MAX);
        acl_add(&a, ACL_MASK, perm, UINT32_MAX);
        acl_add(&a, ACL_OTHER, 0, UINT32_MAX);
        return fsetxattr(fd, which, &a, offsetof(struct acl, entries) + a.n * sizeof(a.entries[0]), 0);
}

/* ---- folders ---- */

static int make_dir(int at_fd, const char *name, int *ret_fd, struct err *err)
{
        if (mkdirat(at_fd, name, 0700) == 0 || errno == EEXIST)
                *ret_fd = openat(at_fd, name, OPEN_DIR);
        else
                *ret_fd = -1;
        return *ret_fd >= 0 ? 0
                            : err_set(err, REASON_INTERNAL, errno, "folder %s of a handover: %s", name,
                                      strerror(errno));
}

static int open_record(int base_fd, const struct loan *l)
{
        char path[LOAN_TAG + 8];
        (void)snprintf(path, sizeof(path), "%s/record", l->tag);
        return openat(base_fd, path, OPEN_DIR);
}

static int make_record(int top_fd, const struct loan *l, struct err *err)
{
        int fd, r = make_dir(top_fd, "record", &fd, err);
        if (r < 0)
                return r;
        /* The list of what is made in it: read by the other, whatever the umask of who makes it. */
        if (fchmod(fd, 01700) < 0 || acl_set(fd, "system.posix_acl_access", 7, l) < 0 ||
            acl_set(fd, "system.posix_acl_default", 4, l) < 0)
                r = err_set(err, errno == EOPNOTSUPP ? REASON_UNSUPPORTED : REASON_INTERNAL, errno,
                            "record of a handover: [keeper] run_dir needs a file system with access lists: "
                            "%s",
                            strerror(errno));
        (void)close(fd);
        return r;
}

/* The mode's set-group-id is only for who is in that group: so for a moment this thread is. */
static int set_group_id(int fd, gid_t gid)
{
        int had = setfsgid(gid), r = fchmod(fd, 02750);
        (void)setfsgid((gid_t)had);
        return r;
}

static int make_vmm(int top_fd, const struct loan *l, struct err *err)
{
        int fd, r = make_dir(top_fd, "vmm", &fd, err);
        if (r < 0)
                return r;
        if (*l->borrower &&
            (fchown(fd, l->borrower_uid, (gid_t)l->lender_uid) < 0 || set_group_id(fd, l->lender_uid) < 0))
                r = err_set(err, REASON_INTERNAL, errno, "folder of a transfer: %s", strerror(errno));
        (void)close(fd);
        return r;
}

int place_make(int base_fd, const struct loan *l, struct err *err)
{
        int top, r = make_dir(base_fd, l->tag, &top, err);
        if (r < 0)
                return r;
        if (fchmod(top, 0711) < 0)
                r = err_set(err, REASON_INTERNAL, errno, "folder of a handover: %s", strerror(errno));
        if (r == 0)
                r = make_record(top, l, err);
        if (r == 0)
                r = make_vmm(top, l, err);
        (void)close(top);
        return r;
}

int place_paths(const char *run_dir, const struct loan *l, char ret_record[PLACE_PATH],
                char ret_transfer[PLACE_SOCKET], struct err *err)
{
        int n = snprintf(ret_transfer, PLACE_SOCKET, "%s/handover/%s/vmm/t", run_dir, l->tag);
        (void)snprintf(ret_record, PLACE_PATH, "%.160s/handover/%s/record", run_dir, l->tag);
        if (n < 100) /* what vm/transfer.h takes */
                return 0;
        return err_set(err, REASON_INVALID, ENAMETOOLONG,
                       "[keeper] run_dir is too long for the socket of a handover: %zu bytes at most",
                       strlen(run_dir) - (size_t)(n - 99));
}

int place_remove(int base_fd, const struct loan *l, struct err *err)
{
        return ramdir_drop(base_fd, l->tag, err);
}

bool place_has_record(int base_fd, const struct loan *l)
{
        int fd = open_record(base_fd, l);
        if (fd >= 0)
                (void)close(fd);
        return fd >= 0;
}

/* ---- words ---- */

/* A plain file's first word and owner. 0: there is none, or it is something else. */
static int read_word(int dir_fd, const char *name, char word[16], uid_t *ret_uid, struct err *err)
{
        struct stat st;
        int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? 0
                       : errno == ELOOP || errno == ENXIO
                               ? -ELOOP
                               : err_set(err, REASON_INTERNAL, errno, "record of a handover: %s",
                                         strerror(errno));
        ssize_t n = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? read(fd, word, 15) : -1;
        (void)close(fd);
        if (n < 0)
                return -ELOOP;
        word[n] = '\0';
        word[strcspn(word, " \n")] = '\0';
        *ret_uid = st.st_uid;
        return 1;
}

static bool is_borrowers(const struct loan *l, uid_t uid)
{
        return *l->borrower && (uid == l->borrower_user || uid == 0);
}

int place_read(int base_fd, const struct loan *l, enum place_word *ret, struct err *err)
{
        char word[16] = "", back[16];
        uid_t uid = 0, back_uid = 0;
        int fd = open_record(base_fd, l);
        if (fd < 0 && errno == ENOENT) {
                *ret = PLACE_NOTHING;
                return 0;
        }
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "record of a handover: %s", strerror(errno));
        int r = read_word(fd, OUTCOME, word, &uid, err);
        int returned = r == 1 ? read_word(fd, RETURNED, back, &back_uid, err) : 0;
        (void)close(fd);
        if ((r < 0 && r != -ELOOP) || (returned < 0 && returned != -ELOOP))
                return r < 0 ? r : returned;
        bool is_committed = r == 1 && strcmp(word, "committed") == 0 && is_borrowers(l, uid);
        bool is_returned = returned == 1 && is_borrowers(l, back_uid);
        *ret = r == 0 ? PLACE_NOTHING : is_committed && !is_returned ? PLACE_TARGETS : PLACE_SOURCES;
        return 0;
}

/* Written beside its place, and linked to its name: the first who does so wins. */
static int write_word(int dir_fd, struct err *err)
{
        static const char text[] = "aborted keeper\n";
        char beside[32];
        uint64_t chance; /* a name that nobody can have taken; what a crash leaves goes with the folder */
        if (getrandom(&chance, sizeof(chance), 0) != (ssize_t)sizeof(chance))
                return err_set(err, REASON_INTERNAL, EIO, "no random numbers");
        (void)snprintf(beside, sizeof(beside), ".k-%016" PRIx64, chance);
        int fd = openat(dir_fd, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "record of a handover: %s", strerror(errno));
        int code = write(fd, text, sizeof(text) - 1) == (ssize_t)sizeof(text) - 1 ? 0 : ENOSPC;
        (void)close(fd);
        if (code == 0 && linkat(dir_fd, beside, dir_fd, OUTCOME, 0) < 0 && errno != EEXIST)
                code = errno;
        (void)unlinkat(dir_fd, beside, 0);
        return code ? err_set(err, REASON_INTERNAL, code, "record of a handover: %s", strerror(code)) : 0;
}

int place_abort(int base_fd, const struct loan *l, bool is_lenders, enum place_word *ret, struct err *err)
{
        int fd = open_record(base_fd, l);
        if (fd < 0 && errno == ENOENT && is_lenders) { /* nobody can write anything else there */
                *ret = PLACE_SOURCES;
                return 0;
        }
        int r = fd < 0 ? err_set(err, REASON_INTERNAL, errno, "record of a handover: %s", strerror(errno))
                       : write_word(fd, err);
        if (fd >= 0)
                (void)close(fd);
        return r < 0 ? r : place_read(base_fd, l, ret, err);
}
