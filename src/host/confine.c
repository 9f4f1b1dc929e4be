/* SPDX-License-Identifier: Apache-2.0 */
#include "host/confine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/str.h"

int confine_init(struct confine *c, const struct cgroupfs_mounts *m, const char *v1, const char *controller,
                 const char *prefix, bool is_fake, struct err *err)
{
        char text[512];
        *c = (struct confine){.controller = controller, .is_fake = is_fake};
        if (!cgroupfs_is_path(prefix, sizeof(c->prefix)) || !STR_COPY(c->prefix, prefix))
                return err_set(err, REASON_INVALID, EINVAL,
                               "\"%.60s\" is no prefix for control groups (names with slashes between them)",
                               prefix);
        if (*m->v2 && cgroupfs_read(m->v2, "cgroup.controllers", text, sizeof(text), NULL) == 0 &&
            cgroupfs_has_word(text, controller)) {
                c->is_v2 = true;
                (void)STR_COPY(c->root, m->v2);
        } else {
                (void)STR_COPY(c->root, v1);
        }
        return 0;
}

const char *confine_path(const struct confine *c, const char *vm, char buf[CGROUPFS_PATH])
{
        _Static_assert(CGROUPFS_ROOT + CONFINE_PREFIX + 64 + 64 < CGROUPFS_PATH, "names of files fit too");
        (void)snprintf(buf, CGROUPFS_PATH, "%s/%s%s%.63s", c->root, c->prefix, vm ? "/" : "", vm ? vm : "");
        return buf;
}

/* v2: is it part of a threaded domain, where this controller cannot be? */
static bool is_threaded(const struct confine *c, const char *vm)
{
        char dir[CGROUPFS_PATH], type[32];
        (void)cgroupfs_read(confine_path(c, vm, dir), "cgroup.type", type, sizeof(type), NULL);
        if (strncmp(type, "threaded", 8) == 0)
                return true;
        return vm && strcmp(type, "") == 0 &&
               cgroupfs_read(confine_path(c, NULL, dir), "cgroup.type", type, sizeof(type), NULL) == 0 &&
               strcmp(type, "domain threaded") == 0;
}

static int make_v1(const struct confine *c, const char *vm, struct err *err)
{
        char dir[CGROUPFS_PATH];
        int r = 0;
        for (const char *at = c->prefix; r == 0 && at; at = strchr(at + 1, '/')) {
                if (at == c->prefix)
                        continue;
                (void)snprintf(dir, sizeof(dir), "%s/%.*s", c->root, (int)(at - c->prefix), c->prefix);
                r = cgroupfs_make(dir, err);
        }
        if (r == 0)
                r = cgroupfs_make(confine_path(c, NULL, dir), err);
        return r < 0 || !vm ? r : cgroupfs_make(confine_path(c, vm, dir), err);
}

static int make_v2(const struct confine *c, const char *vm, struct err *err)
{
        char path[CONFINE_PREFIX + 64 + 1], dir[CGROUPFS_PATH];
        (void)snprintf(path, sizeof(path), "%s%s%.63s", c->prefix, vm ? "/" : "", vm ? vm : "");
        int r = cgroupfs_hand_down(c->root, path, c->controller, c->is_fake, err);
        return r < 0 ? r : cgroupfs_make(confine_path(c, vm, dir), err);
}

int confine_make(const struct confine *c, const char *vm, struct err *err)
{
        enum { TRIES = 8 };
        if (!*c->root)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "no control groups with %s may be written here", c->controller);
        if (vm && !str_is_name(vm))
                return err_set(err, REASON_INVALID, EINVAL, "\"%.60s\" is no name of a VM", vm);
        if (c->is_v2 && is_threaded(c, vm))
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "cgroup v2 holds the threads of all VMs in one domain: %s can be bounded for "
                               "all of them "
                               "together only (%s)",
                               c->controller, c->prefix);
        char dir[CGROUPFS_PATH];
        bool is_new = access(confine_path(c, vm, dir), F_OK) < 0;
        int r = -ENOENT;
        /* The last VM's end, in another thread, may have taken the prefix away in between. */
        for (int i = 0; r == -ENOENT && i < TRIES; i++)
                r = c->is_v2 ? make_v2(c, vm, err) : make_v1(c, vm, err);
        if (r < 0 && is_new)
                (void)confine_remove(c, vm, NULL);
        return r;
}

int confine_has(const struct confine *c, const char *vm, pid_t pid, struct err *err)
{
        char dir[CGROUPFS_PATH];
        return cgroupfs_lists(confine_path(c, vm, dir), "cgroup.procs", pid, err);
}

int confine_enter(const struct confine *c, const char *vm, pid_t pid, struct err *err)
{
        char dir[CGROUPFS_PATH], text[16];
        (void)snprintf(text, sizeof(text), "%d\n", (int)pid);
        int r = cgroupfs_write(confine_path(c, vm, dir), "cgroup.procs", text, c->is_fake, err);
        if (r == -ESRCH)
                return err_set(err, REASON_NOT_FOUND, ESRCH, "there is no process %d", (int)pid);
        if (r < 0 || (r = confine_has(c, vm, pid, err)) < 0)
                return r;
        return r ? 0 : err_set(err, REASON_INTERNAL, EIO, "%s: process %d did not enter", dir, (int)pid);
}

int confine_pass(const struct confine *c, const char *vm, const char *to, pid_t pid, struct err *err)
{
        char from_dir[CGROUPFS_PATH], to_dir[CGROUPFS_PATH];
        if (!*c->root || c->is_v2 || access(confine_path(c, vm, from_dir), F_OK) < 0)
                return 0;
        int r = pid ? confine_enter(c, vm, pid, err) : 0;
        if (r == 0 && access(confine_path(c, to, to_dir), F_OK) == 0 &&
            (r = cgroupfs_remove(to_dir, c->is_fake, err)) < 0 && pid)
                (void)confine_enter(c, to, pid, NULL); /* somebody else is there: each keeps his own */
        if (r == 0 && rename(from_dir, to_dir) < 0)
                r = err_set(err, REASON_INTERNAL, errno, "%s: %s", to_dir, strerror(errno));
        return r < 0 ? r : 1;
}

int confine_remove(const struct confine *c, const char *vm, struct err *err)
{
        char dir[CGROUPFS_PATH], list[8];
        if (!*c->root)
                return 0;
        (void)confine_path(c, vm, dir);
        bool is_busy =
                c->is_fake && cgroupfs_read(dir, "cgroup.procs", list, sizeof(list), NULL) == 0 && *list;
        if (is_busy)
                return err_set(err, REASON_BUSY, EBUSY, "%s: %s", dir, strerror(EBUSY));
        int r = vm ? cgroupfs_remove(dir, c->is_fake, err) : 0;
        if (r < 0)
                return r;
        /* From the innermost outwards; a group that others use stays. A plain directory that is not empty
         * would lose its files. */
        size_t root = strlen(c->root);
        (void)confine_path(c, NULL, dir);
        while (strlen(dir) > root && (rmdir(dir) == 0 || errno == ENOENT))
                *strrchr(dir, '/') = '\0';
        return 0;
}
