/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/loan.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/str.h"
#include "json/read.h"

enum { LOAN_TEXT = 32768 }; /* 65 files of less than 256 bytes, and the rest */

/* Once given or back is under way there is no other way. */
static const uint8_t table[LOAN_STATE_N][LOAN_EV_N] = {
  /* clang-format off */
        /*                  BORROW                           TARGETS                         SOURCES                          DONE */
        [LOAN_LENT]     = { [LOAN_EV_BORROW] = LOAN_BORROWED, [LOAN_EV_TARGETS] = 0,            [LOAN_EV_SOURCES] = LOAN_BACKING, [LOAN_EV_DONE] = 0          },
        [LOAN_BORROWED] = { [LOAN_EV_BORROW] = LOAN_BORROWED, [LOAN_EV_TARGETS] = LOAN_GIVING,  [LOAN_EV_SOURCES] = LOAN_BACKING, [LOAN_EV_DONE] = 0          },
        [LOAN_GIVING]   = { [LOAN_EV_BORROW] = 0,             [LOAN_EV_TARGETS] = LOAN_GIVING,  [LOAN_EV_SOURCES] = LOAN_GIVING,  [LOAN_EV_DONE] = LOAN_GIVEN },
        [LOAN_BACKING]  = { [LOAN_EV_BORROW] = 0,             [LOAN_EV_TARGETS] = LOAN_BACKING, [LOAN_EV_SOURCES] = LOAN_BACKING, [LOAN_EV_DONE] = LOAN_BACK  },
        [LOAN_GIVEN]    = { [LOAN_EV_BORROW] = 0,             [LOAN_EV_TARGETS] = LOAN_GIVEN,   [LOAN_EV_SOURCES] = LOAN_GIVEN,   [LOAN_EV_DONE] = 0          },
        [LOAN_BACK]     = { [LOAN_EV_BORROW] = 0,             [LOAN_EV_TARGETS] = LOAN_BACK,    [LOAN_EV_SOURCES] = LOAN_BACK,    [LOAN_EV_DONE] = 0          },
  /* clang-format on */
};

static const char *const names[LOAN_STATE_N] = {
        [LOAN_LENT] = "lent",       [LOAN_BORROWED] = "borrowed", [LOAN_GIVING] = "giving",
        [LOAN_BACKING] = "backing", [LOAN_GIVEN] = "given",       [LOAN_BACK] = "back"};

enum loan_state loan_next(enum loan_state s, enum loan_event e)
{
        return s > 0 && s < LOAN_STATE_N && e > 0 && e < LOAN_EV_N ? (enum loan_state)table[s][e] : 0;
}

bool loan_is_open(const struct loan *l)
{
        return l->state != LOAN_GIVEN && l->state != LOAN_BACK;
}

const char *loan_state_name(enum loan_state s)
{
        return s > 0 && s < LOAN_STATE_N ? names[s] : "none";
}

/* ---- as text ---- */

static json_t *file_emit(const struct loan_file *f)
{
        return json_pack("{s:s,s:I,s:I,s:I,s:I}", "name", f->name, "page_bytes", (json_int_t)f->page_bytes,
                         "device", (json_int_t)f->device, "inode", (json_int_t)f->inode, "bytes",
                         (json_int_t)f->bytes);
}

static char *emit(const struct loan *l, size_t *ret_n)
{
        json_t *files = json_array();
        for (size_t i = 0; i < l->n; i++)
                (void)json_array_append_new(files, file_emit(&l->files[i]));
        json_t *v = json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:s,s:I,s:o}", "lender", l->lender,
                              "borrower", l->borrower, "handover", l->handover, "handle", l->handle, "tag",
                              l->tag, "lender_uid", (json_int_t)l->lender_uid, "borrower_uid",
                              (json_int_t)l->borrower_uid, "lender_user", (json_int_t)l->lender_user,
                              "borrower_user", (json_int_t)l->borrower_user, "state", names[l->state],
                              "serial", (json_int_t)l->serial, "files", files);
        char *text = v ? json_write(v, ret_n) : NULL;
        json_decref(v);
        return text;
}

static bool take_text(const json_t *v, const char *key, char *ret, size_t size)
{
        const char *text = json_string_value(json_object_get(v, key));
        return text && str_copy(ret, size, text);
}

static bool take_number(const json_t *v, const char *key, json_int_t max, json_int_t *ret)
{
        const json_t *n = json_object_get(v, key);
        *ret = json_integer_value(n);
        return json_is_integer(n) && *ret >= 0 && *ret <= max;
}

static bool take_uid(const json_t *v, const char *key, uid_t *ret)
{
        json_int_t n;
        bool is_good = take_number(v, key, UINT32_MAX - 1, &n);
        *ret = (uid_t)n;
        return is_good;
}

static bool take_file(const json_t *v, struct loan_file *ret)
{
        json_int_t page_bytes, device, inode, bytes;
        bool is_good = take_text(v, "name", ret->name, sizeof(ret->name)) && str_is_name(ret->name) &&
                       take_number(v, "page_bytes", INT64_MAX, &page_bytes) &&
                       take_number(v, "device", INT64_MAX, &device) &&
                       take_number(v, "inode", INT64_MAX, &inode) &&
                       take_number(v, "bytes", INT64_MAX, &bytes) && json_object_size(v) == 5;
        if (!is_good)
                return false;
        ret->page_bytes = page_bytes;
        ret->device = (uint64_t)device;
        ret->inode = (uint64_t)inode;
        ret->bytes = bytes;
        return true;
}

static bool is_hex(const char *text, size_t n)
{
        return strlen(text) == n && strspn(text, "0123456789abcdef") == n;
}

static bool take(const json_t *v, struct loan *l)
{
        char state[16];
        json_int_t serial;
        const json_t *files = json_object_get(v, "files");
        bool is_good =
                take_text(v, "lender", l->lender, sizeof(l->lender)) && str_is_name(l->lender) &&
                take_text(v, "borrower", l->borrower, sizeof(l->borrower)) &&
                (!*l->borrower || str_is_name(l->borrower)) &&
                take_text(v, "handover", l->handover, sizeof(l->handover)) && str_is_name(l->handover) &&
                take_text(v, "handle", l->handle, sizeof(l->handle)) && is_hex(l->handle, LOAN_HANDLE - 1) &&
                take_text(v, "tag", l->tag, sizeof(l->tag)) && is_hex(l->tag, LOAN_TAG - 1) &&
                take_uid(v, "lender_uid", &l->lender_uid) && take_uid(v, "borrower_uid", &l->borrower_uid) &&
                take_uid(v, "lender_user", &l->lender_user) &&
                take_uid(v, "borrower_user", &l->borrower_user) &&
                take_text(v, "state", state, sizeof(state)) && take_number(v, "serial", INT64_MAX, &serial) &&
                json_object_size(v) == 12 && json_is_array(files) && json_array_size(files) >= 1 &&
                json_array_size(files) <= LOAN_FILES_MAX;
        if (!is_good)
                return false;
        l->serial = (uint64_t)serial;
        for (enum loan_state s = LOAN_LENT; s < LOAN_STATE_N; s++)
                if (strcmp(state, names[s]) == 0)
                        l->state = s;
        for (l->n = 0; l->n < json_array_size(files); l->n++)
                if (!take_file(json_array_get(files, l->n), &l->files[l->n]))
                        return false;
        bool needs_borrower = l->state == LOAN_BORROWED || l->state == LOAN_GIVING || l->state == LOAN_GIVEN;
        return l->state && (*l->borrower || !needs_borrower);
}

int loan_parse(const char *text, size_t n, struct loan *ret, struct err *err)
{
        json_t *v = json_read(text, n, err);
        if (!v)
                return -EINVAL;
        struct loan l = {0};
        bool is_good = take(v, &l);
        json_decref(v);
        if (!is_good)
                return err_set(err, REASON_INVALID, EINVAL, "not a record of a loan");
        *ret = l;
        return 0;
}

/* ---- on disk ---- */

static void file_name(char buf[80], const char *vm, const char *end)
{
        (void)snprintf(buf, 80, "%s%s", vm, end);
}

int loan_write(int dir_fd, const struct loan *l, struct err *err)
{
        char name[80], temporary[80];
        size_t n = 0;
        char *text = emit(l, &n);
        if (!text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        file_name(name, l->lender, ".json");
        file_name(temporary, l->lender, ".json.new");
        int fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        int code = fd < 0 ? errno : write(fd, text, n) == (ssize_t)n ? 0 : ENOSPC;
        free(text);
        if (fd >= 0)
                (void)close(fd);
        if (code == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
                code = errno;
        if (code == 0)
                return 0;
        if (fd >= 0)
                (void)unlinkat(dir_fd, temporary, 0);
        return err_set(err, REASON_INTERNAL, code, "the loan of %s: %s", l->lender, strerror(code));
}

int loan_read(int dir_fd, const char *name, struct loan *ret, struct err *err)
{
        char expected[80];
        int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return err_set(err, REASON_NOT_FOUND, errno, "%s: %s", name, strerror(errno));
        char *text = malloc(LOAN_TEXT);
        ssize_t n = text ? read(fd, text, LOAN_TEXT) : -1;
        (void)close(fd);
        struct loan l;
        int r = n < 0 ? err_set(err, REASON_INTERNAL, EIO, "%s cannot be read", name)
                      : loan_parse(text, (size_t)n, &l, err);
        free(text);
        if (r < 0)
                return err_note(err, "%s", name);
        file_name(expected, l.lender, ".json");
        if (strcmp(expected, name) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s is the loan of another VM", name);
        *ret = l;
        return 0;
}

void loan_remove(int dir_fd, const struct loan *l)
{
        char name[80];
        file_name(name, l->lender, ".json");
        (void)unlinkat(dir_fd, name, 0);
}
