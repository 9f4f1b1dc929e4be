/* SPDX-License-Identifier: Apache-2.0 */
/* v2: one file, a line a device: "8:16 rbps=1048576 wbps=max riops=max wiops=120".
 * v1: a file a kind, a line a device: "8:16 1048576"; 0 takes the line away. */
#include "host/block.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "base/str.h"

enum { TEXT = 8192 };

static const struct {
        const char *key, *file;            /* of the limit, v2 and v1 */
        const char *used;                  /* of io.stat */
        const char *used_file, *direction; /* of v1 */
} kinds[BLOCK_KINDS] = {
        [BLOCK_READ_BYTES] = {"rbps",  "blkio.throttle.read_bps_device",   "rbytes",
                              "blkio.throttle.io_service_bytes",                                                   "Read" },
        [BLOCK_WRITE_BYTES] = {"wbps",  "blkio.throttle.write_bps_device",  "wbytes",
                              "blkio.throttle.io_service_bytes",                                                   "Write"},
        [BLOCK_READ_OPS] = {"riops", "blkio.throttle.read_iops_device",  "rios",   "blkio.throttle.io_serviced",
                              "Read"                                                                                      },
        [BLOCK_WRITE_OPS] = {"wiops", "blkio.throttle.write_iops_device", "wios",
                              "blkio.throttle.io_serviced",                                                        "Write"},
};

int block_host_init(struct block_host *h, const struct block_options *o, struct err *err)
{
        struct cgroupfs_mounts m;
        *h = (struct block_host){.is_fake = o->is_fake};
        if (!STR_COPY(h->sysfs, o->sysfs ? o->sysfs : "/sys"))
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "%.60s...: the path is too long", o->sysfs);
        int r = cgroupfs_find(o->mountinfo, &m, err);
        if (r < 0 || (r = confine_init(&h->confine, &m, m.v1_blkio, "io", o->prefix, o->is_fake, err)) < 0)
                return r;
        if (!*h->confine.root)
                (void)STR_COPY(h->fallback,
                               "no cgroup hierarchy with io may be written: disks are bounded by QEMU alone");
        else if (!h->confine.is_v2)
                (void)STR_COPY(h->fallback,
                               "cgroup v1 bounds direct and synchronous input and output of disks only, not "
                               "what goes through the page cache");
        return 0;
}

int block_device_of(const struct block_host *h, const char *path, struct block_device *ret, struct err *err)
{
        struct stat st;
        char dir[CGROUPFS_PATH], text[32];
        unsigned major_number, minor_number;
        if (stat(path, &st) < 0)
                return err_set(err, errno == ENOENT ? REASON_NOT_FOUND : REASON_INTERNAL, errno, "%.200s: %s",
                               path, strerror(errno));
        dev_t dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
        (void)snprintf(dir, sizeof(dir), "%s/dev/block/%u:%u", h->sysfs, major(dev), minor(dev));
        if (access(dir, F_OK) < 0)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "%.160s: its file system is on no disk of its own, which could be bounded",
                               path);
        size_t n = strlen(dir);
        (void)snprintf(dir + n, sizeof(dir) - n, "/partition");
        bool is_partition = access(dir, F_OK) == 0;
        /* A link to the device's folder, which lies in that of its disk. */
        (void)snprintf(dir + n, sizeof(dir) - n, "%s", is_partition ? "/.." : "");
        int r = cgroupfs_read(dir, "dev", text, sizeof(text), err);
        if (r < 0)
                return r;
        /* The kernel's own file. NOLINTNEXTLINE(cert-err34-c) */
        if (sscanf(text, "%9u:%9u", &major_number, &minor_number) != 2)
                return err_set(err, REASON_INTERNAL, EPROTO, "%s/dev: \"%.24s\"", dir, text);
        *ret = (struct block_device){.major = major_number, .minor = minor_number};
        return 0;
}

/* The rest of the line that begins with the device, from `*at` on; NULL: there is none. */
static const char *line_of(const char *at, struct block_device device, size_t *ret_length)
{
        char start[32];
        size_t n = (size_t)snprintf(start, sizeof(start), "%u:%u ", device.major, device.minor);
        for (; *at; at += strcspn(at, "\n"), at += *at == '\n')
                if (strncmp(at, start, n) == 0) {
                        *ret_length = strcspn(at + n, "\n");
                        return at + n;
                }
        return NULL;
}

/* "max" is 0: no limit. */
static int64_t amount(const char *text)
{
        long long value = strtoll(text, NULL, 10);
        return value > 0 ? value : 0;
}

/* The value behind "KEY=" in a line; 0 where it is not there. */
static int64_t keyed(const char *line, size_t length, const char *key)
{
        size_t n = strlen(key);
        for (size_t at = 0; at + n < length; at++)
                if ((at == 0 || line[at - 1] == ' ') && strncmp(line + at, key, n) == 0 &&
                    line[at + n] == '=')
                        return amount(line + at + n + 1);
        return 0;
}

static int read_file(const char *dir, const char *file, char text[TEXT], struct err *err)
{
        int r = cgroupfs_read(dir, file, text, TEXT, err);
        if (r == 0 && strlen(text) == TEXT - 1)
                return err_set(err, REASON_UNSUPPORTED, E2BIG, "%s/%s has too many devices", dir, file);
        return r;
}

int block_limit_read(const struct block_host *h, const char *vm, struct block_device device,
                     struct block_limits *ret, struct err *err)
{
        char dir[CGROUPFS_PATH], text[TEXT] = "";
        struct block_limits now = {0};
        const struct confine *c = &h->confine;
        (void)confine_path(c, vm, dir);
        for (int i = 0; i < BLOCK_KINDS; i++) {
                size_t n = 0;
                int r = 0;
                if (!c->is_v2 || i == 0)
                        r = read_file(dir, c->is_v2 ? "io.max" : kinds[i].file, text, err);
                if (r < 0)
                        return r;
                const char *line = line_of(text, device, &n);
                if (line)
                        now.at[i] = c->is_v2 ? keyed(line, n, kinds[i].key) : amount(line);
        }
        *ret = now;
        return 0;
}

int block_usage_read(const struct block_host *h, const char *vm, struct block_device device,
                     struct block_limits *ret, struct err *err)
{
        char dir[CGROUPFS_PATH], text[TEXT];
        struct block_limits now = {0};
        const struct confine *c = &h->confine;
        (void)confine_path(c, vm, dir);
        for (int i = 0; i < BLOCK_KINDS; i++) {
                size_t n = 0;
                int r = read_file(dir, c->is_v2 ? "io.stat" : kinds[i].used_file, text, err);
                if (r < 0)
                        return r;
                for (const char *line = text; (line = line_of(line, device, &n)); line += n) {
                        size_t word = strlen(kinds[i].direction);
                        if (c->is_v2)
                                now.at[i] = keyed(line, n, kinds[i].used);
                        else if (strncmp(line, kinds[i].direction, word) == 0 && line[word] == ' ')
                                now.at[i] = amount(line + word + 1);
                        if (line[n] == '\0')
                                break;
                }
        }
        *ret = now;
        return 0;
}

static int write_v2(const struct block_host *h, const char *dir, struct block_device device,
                    const struct block_limits *l, struct err *err)
{
        char text[192];
        int n = snprintf(text, sizeof(text), "%u:%u", device.major, device.minor);
        for (int i = 0; i < BLOCK_KINDS; i++)
                n += l->at[i] ? snprintf(text + n, sizeof(text) - (size_t)n, " %s=%jd", kinds[i].key,
                                         (intmax_t)l->at[i])
                              : snprintf(text + n, sizeof(text) - (size_t)n, " %s=max", kinds[i].key);
        return cgroupfs_write(dir, "io.max", text, h->is_fake, err);
}

static int write_v1(const struct block_host *h, const char *dir, struct block_device device,
                    const struct block_limits *now, const struct block_limits *l, struct err *err)
{
        char text[64];
        for (int i = 0; i < BLOCK_KINDS; i++) {
                (void)snprintf(text, sizeof(text), "%u:%u %jd", device.major, device.minor,
                               (intmax_t)l->at[i]);
                int r = now && now->at[i] == l->at[i]
                                ? 0
                                : cgroupfs_write(dir, kinds[i].file, text, h->is_fake, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int apply(const struct block_host *h, const char *vm, struct block_device device,
                 const struct block_limits *now, const struct block_limits *l, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct block_limits taken;
        (void)confine_path(&h->confine, vm, dir);
        int r = h->confine.is_v2 ? write_v2(h, dir, device, l, err) : write_v1(h, dir, device, now, l, err);
        if (r == -ENODEV)
                return err_set(err, REASON_NOT_FOUND, ENODEV, "%u:%u is no disk (a partition?)", device.major,
                               device.minor);
        if (r < 0 || (r = block_limit_read(h, vm, device, &taken, err)) < 0)
                return r;
        for (int i = 0; i < BLOCK_KINDS; i++)
                if (taken.at[i] != l->at[i])
                        return err_set(err, REASON_INTERNAL, EIO,
                                       "%s, disk %u:%u: wrote %s=%jd, the kernel took %jd", dir, device.major,
                                       device.minor, kinds[i].key, (intmax_t)l->at[i], (intmax_t)taken.at[i]);
        return 0;
}

int block_limit_set(const struct block_host *h, const char *vm, struct block_device device,
                    const struct block_limits *limits, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct block_limits before = {0};
        for (int i = 0; i < BLOCK_KINDS; i++)
                if (limits->at[i] < 0 ||
                    limits->at[i] >= ((i == BLOCK_READ_OPS || i == BLOCK_WRITE_OPS) ? (int64_t)UINT32_MAX
                                                                                    : (int64_t)1 << 53))
                        return err_set(err, REASON_INVALID, EINVAL, "a limit of %s=%jd on a disk",
                                       kinds[i].key, (intmax_t)limits->at[i]);
        bool is_new = access(confine_path(&h->confine, vm, dir), F_OK) < 0;
        int r = confine_make(&h->confine, vm, err);
        if (r < 0)
                return r;
        /* A plain directory has no files yet. */
        if ((r = block_limit_read(h, vm, device, &before, h->is_fake ? NULL : err)) == -ENOENT && h->is_fake)
                r = 0;
        if (r == 0 && memcmp(&before, limits, sizeof(before)) != 0 &&
            (r = apply(h, vm, device, h->is_fake ? NULL : &before, limits, err)) < 0 && !is_new)
                (void)apply(h, vm, device, NULL, &before, NULL);
        if (r < 0 && is_new)
                (void)confine_remove(&h->confine, vm, NULL);
        return r;
}

int block_limit_enter(const struct block_host *h, const char *vm, pid_t pid, struct err *err)
{
        return confine_enter(&h->confine, vm, pid, err);
}

int block_limit_lift(const struct block_host *h, const char *vm, struct block_device device, struct err *err)
{
        char dir[CGROUPFS_PATH];
        const struct block_limits none = {0};
        if (!*h->confine.root || access(confine_path(&h->confine, vm, dir), F_OK) < 0)
                return 0;
        int r = vm ? 0 : apply(h, vm, device, NULL, &none, err);
        return r < 0 ? r : confine_remove(&h->confine, vm, err);
}

int block_limit_verify(const struct block_host *h, const char *vm, struct block_device device,
                       const struct block_limits *limits, pid_t pid, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct block_limits now;
        (void)confine_path(&h->confine, vm, dir);
        int r = block_limit_read(h, vm, device, &now, err);
        if (r == -ENOENT) {
                (void)err_set(err, REASON_STALE, ESTALE, "%s is gone", dir);
                return 1;
        }
        if (r < 0)
                return r;
        for (int i = 0; i < BLOCK_KINDS; i++)
                if (now.at[i] != limits->at[i]) {
                        (void)err_set(err, REASON_STALE, ESTALE, "%s, disk %u:%u: somebody changed %s to %jd",
                                      dir, device.major, device.minor, kinds[i].key, (intmax_t)now.at[i]);
                        return 1;
                }
        if (pid <= 0 || (r = confine_has(&h->confine, vm, pid, err)) < 0)
                return r;
        if (r == 1)
                return 0;
        (void)err_set(err, REASON_STALE, ESTALE, "process %d left %s", (int)pid, dir);
        return 1;
}
