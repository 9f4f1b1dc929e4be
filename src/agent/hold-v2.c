/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups v2. Each group is a partition of its own: the kernel then takes its CPUs from everybody
 * else, whatever group they are in, and gives them back when the group goes; nobody else's files are touched.
 * The root hands the controllers down, and goes on doing so: others may have come to rely on it.
 *
 * A partition must never have a CPU that is off line. Linux 6.1 takes it without a word, and when the
 * partition goes it leaves everybody in the root without that CPU for good, also when it is on line again. */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "agent/hold-internal.h"

/* Writes what differs. */
static int put(const struct holds *h, const char *dir, const char *file, const char *value, struct err *err)
{
        char have[CPULIST_TEXT];

        if (cgroupfs_read(dir, file, have, sizeof(have), NULL) == 0 && strcmp(have, value) == 0)
                return 0;
        return cgroupfs_write(dir, file, *value ? value : "\n", h->is_fake, err);
}

static bool is_there(const char *dir, const char *file)
{
        char text[CPULIST_TEXT];

        return cgroupfs_read(dir, file, text, sizeof(text), NULL) != -ENOENT;
}

/* The kernel takes the word and says only when it is read whether it could do it. An invalid partition gets
 * valid again by way of `member` alone. */
static int part(const struct holds *h, const char *dir, struct err *err)
{
        static const char file[] = "cpuset.cpus.partition";
        char have[160];

        if (cgroupfs_read(dir, file, have, sizeof(have), NULL) == 0 &&
            strncmp(have, "root invalid", 12) == 0) {
                int r = put(h, dir, file, "member", err);
                if (r < 0)
                        return r;
        }
        int r = put(h, dir, file, "root", err);
        if (r < 0 || (r = cgroupfs_read(dir, file, have, sizeof(have), err)) < 0)
                return r;
        if (strcmp(have, "root") != 0)
                return err_set(err, REASON_BUSY, EBUSY, "the kernel makes no partition: %s", have);
        return 0;
}

static int read_set(const char *dir, const char *file, struct cpulist *ret, struct err *err)
{
        char text[CPULIST_TEXT];

        int r = cgroupfs_read(dir, file, text, sizeof(text), err);
        return r < 0 ? r : cpulist_parse(text, ret, err);
}

/* Are they on line, as far as groups are concerned, and nobody else's? *ours: the group's own. A fake tree
 * need not say. */
static int check(const struct holds *h, const struct cpulist *cpus, const struct cpulist *ours,
                 struct err *err)
{
        struct cpulist have = {0};
        char text[CPULIST_TEXT];

        int r = read_set(h->root, "cpuset.cpus.effective", &have, err);
        if (r < 0)
                return r == -ENOENT && h->is_fake ? 0 : r;
        cpulist_join(&have, ours);
        if (!cpulist_is_within(cpus, &have))
                return err_set(err, REASON_BUSY, EBUSY, "only vCPUs %.40s are there",
                               cpulist_print(&have, text));
        return 0;
}

static int v2_cpus(struct holds *h, struct held *of, const struct cpulist *cpus, struct err *err)
{
        char dir[CGROUPFS_PATH], text[CPULIST_TEXT], have[16] = "";
        struct cpulist ours = {0};
        int r;

        (void)hold_dir(h, of->name, dir);
        if (cpulist_next(cpus, 0) < 0) {
                if (!is_there(dir, "cpuset.cpus"))
                        return 0;
                r = put(h, dir, "cpuset.cpus.partition", "member", err);
                return r < 0 ? r : put(h, dir, "cpuset.cpus", "", err);
        }
        if ((r = cgroupfs_hand_down(h->root, of->name, "cpuset", h->is_fake, err)) < 0)
                return r;
        (void)cgroupfs_read(dir, "cpuset.cpus.partition", have, sizeof(have), NULL);
        bool is_part = strcmp(have, "root") == 0;
        /* Any write here makes the kernel finish what it still has to do about CPUs that came and went; the
         * same again where it has an effect at once. */
        if (is_part && cgroupfs_read(dir, "cpuset.cpus", text, sizeof(text), NULL) == 0)
                r = cgroupfs_write(dir, "cpuset.cpus", text, h->is_fake, err);
        else
                r = put(h, dir, "cpuset.cpus", cpulist_print(cpus, text), err);
        if (is_part)
                (void)read_set(dir, "cpuset.cpus.effective", &ours, NULL);
        if (r < 0 || (r = check(h, cpus, &ours, err)) < 0 ||
            (r = put(h, dir, "cpuset.cpus", cpulist_print(cpus, text), err)) < 0)
                return r;
        return part(h, dir, err);
}

static int v2_memory(struct holds *h, struct held *of, int64_t bytes, struct err *err)
{
        static const char file[] = "memory.min";
        char dir[CGROUPFS_PATH];
        int64_t have, page = sysconf(_SC_PAGESIZE);

        (void)hold_dir(h, of->name, dir);
        bytes -= bytes % page; /* as the kernel does */
        if (bytes == 0 && !is_there(dir, file))
                return 0;
        int r = bytes > 0 ? cgroupfs_hand_down(h->root, of->name, "memory", h->is_fake, err) : 0;
        if (r < 0 || (cgroupfs_read_number(dir, file, &have, NULL) == 0 && have == bytes))
                return r;
        return cgroupfs_write_number(dir, file, bytes, h->is_fake, err);
}

static const char *v2_home(struct holds *h, const struct held *of, const char *path)
{
        (void)h;
        (void)of;
        return path;
}

static int v2_clear(struct holds *h, struct err *err)
{
        (void)h;
        (void)err;
        return 0;
}

const struct hold_provider hold_v2 = {.name = "cgroup-v2",
                                      .may_enter_first = true,
                                      .cpus = v2_cpus,
                                      .memory = v2_memory,
                                      .home = v2_home,
                                      .clear = v2_clear};
