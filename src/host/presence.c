/* SPDX-License-Identifier: Apache-2.0 */
#include "host/presence.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "host/cgroupfs.h"

enum { MEMINFO_TEXT = 8192, PATH_TEXT = 512, POISONED_PAGE = 4096, DRAIN_MAX = 256 };

int presence_cpus(const char *sysfs, const char *which, struct cpulist *ret, struct err *err)
{
        char dir[PATH_TEXT], text[CPULIST_TEXT];
        (void)snprintf(dir, sizeof(dir), "%s/devices/system/cpu", sysfs);
        int r = cgroupfs_read(dir, which, text, sizeof(text), err);
        return r < 0 ? r : cpulist_parse(text, ret, err);
}

int presence_node(const char *sysfs, uint32_t cpu)
{
        char dir[PATH_TEXT];
        int node = -1;
        (void)snprintf(dir, sizeof(dir), "%s/devices/system/cpu/cpu%u", sysfs, (unsigned)cpu);
        DIR *d = opendir(dir);
        for (struct dirent *e; d && node < 0 && (e = readdir(d));) {
                char *end;
                long n = strncmp(e->d_name, "node", 4) == 0 ? strtol(e->d_name + 4, &end, 10) : -1;
                if (n >= 0 && n < CPULIST_MAX && e->d_name[4] && *end == '\0')
                        node = (int)n;
        }
        if (d)
                (void)closedir(d);
        return node;
}

/* The value in bytes behind `key` in a text of meminfo, of a node too; -EBADMSG: it is not there. */
static int64_t meminfo(const char *text, const char *key)
{
        const char *at = strstr(text, key);
        return at ? strtoll(at + strlen(key), NULL, 10) * 1024 : -EBADMSG;
}

static void node_dir(const char *sysfs, uint32_t node, char ret[PATH_TEXT])
{
        (void)snprintf(ret, PATH_TEXT, "%s/devices/system/node/node%u", sysfs, (unsigned)node);
}

int64_t presence_memory(const char *sysfs, uint32_t node)
{
        char dir[PATH_TEXT], text[MEMINFO_TEXT];
        node_dir(sysfs, node, dir);
        int r = cgroupfs_read(dir, "meminfo", text, sizeof(text), NULL);
        if (r < 0)
                return r == -ENODEV ? -ENOENT : r; /* it went between open() and read() */
        return meminfo(text, "MemTotal:");
}

int64_t presence_poisoned(const char *sysfs, const char *proc, uint32_t node, size_t n_nodes)
{
        char dir[PATH_TEXT], text[MEMINFO_TEXT];
        int r = cgroupfs_read(proc, "meminfo", text, sizeof(text), NULL);
        if (r < 0)
                return r;
        int64_t sum = meminfo(text, "HardwareCorrupted:");
        if (sum <= 0 || n_nodes == 1)
                return sum > 0 ? sum : 0; /* a kernel without that line looks for none */
        node_dir(sysfs, node, dir);
        r = cgroupfs_read(dir, "memory_failure/total", text, sizeof(text), NULL);
        if (r < 0)
                return r == -ENOENT || r == -ENODEV ? -ENODATA : r;
        return strtoll(text, NULL, 10) * POISONED_PAGE;
}

int presence_link(const char *name)
{
        struct ifreq q = {0};
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        (void)snprintf(q.ifr_name, sizeof(q.ifr_name), "%s", name);
        int r = fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &q) == 0 ? 0 : -errno;
        if (fd >= 0)
                close(fd);
        return r < 0 ? r : (q.ifr_flags & IFF_UP) && (q.ifr_flags & IFF_RUNNING);
}

bool presence_is_down(struct presence_carrier *c, bool has_carrier, int64_t now_ms)
{
        if (!has_carrier)
                *c = (struct presence_carrier){.is_down = true};
        else if (c->is_down && c->up_ms == 0)
                c->up_ms = now_ms;
        else if (c->is_down && now_ms - c->up_ms >= PRESENCE_CARRIER_MS)
                *c = (struct presence_carrier){0};
        return c->is_down;
}

/* The same whatever the order in which they are listed. */
static uint64_t names_in(const char *dir, const char *with)
{
        uint64_t sum = 0;
        DIR *d = opendir(dir);
        for (struct dirent *e; d && (e = readdir(d));) {
                char path[2 * PATH_TEXT];
                (void)snprintf(path, sizeof(path), "%.500s/%.255s/%s", dir, e->d_name, with);
                if (*e->d_name == '.' || access(path, F_OK) < 0)
                        continue;
                uint64_t x = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
                for (const char *p = e->d_name; *p; p++)
                        x = (x ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
                sum += x;
        }
        if (d)
                (void)closedir(d);
        return sum;
}

uint64_t presence_devices(const char *sysfs)
{
        char pci[PATH_TEXT], disks[PATH_TEXT];
        (void)snprintf(pci, sizeof(pci), "%s/bus/pci/devices", sysfs);
        (void)snprintf(disks, sizeof(disks), "%s/block", sysfs);
        return names_in(pci, "") * 31 + names_in(disks, "device"); /* loops and RAM disks have no device */
}

/* ---- to hear of it ---- */

static int open_netlink(int protocol, unsigned groups)
{
        struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_groups = groups};
        int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
        if (fd >= 0 && bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0) {
                close(fd);
                fd = -1;
        }
        return fd;
}

int presence_listen(int ret_fds[PRESENCE_SOURCES])
{
        enum { FROM_KERNEL = 1 }; /* not what udev sends on */
        ret_fds[0] = open_netlink(NETLINK_KOBJECT_UEVENT, FROM_KERNEL);
        ret_fds[1] = open_netlink(NETLINK_ROUTE, RTMGRP_LINK);
        return (ret_fds[0] >= 0) + (ret_fds[1] >= 0);
}

void presence_drain(int fd)
{
        char some[8192];
        /* ENOBUFS: more came than was kept. That says as much. */
        for (int i = 0; i < DRAIN_MAX && (recv(fd, some, sizeof(some), 0) >= 0 || errno == ENOBUFS); i++)
                continue;
}
