#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# First thing in the nested host, once: what an init system would have mounted and made.
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts pts /dev/pts
mount -t tmpfs -o size=100% shm /dev/shm
mkdir /dev/hugepages
mount -t hugetlbfs huge /dev/hugepages
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
dmesg -n 1
ifconfig lo up
hostname nested
mkdir -p /var/lib/mete/images /etc/mete /run/mete /dev/shm/mete
chown mete:mete /var/lib/mete /run/mete
# As an init system has it: services and sessions side by side below the root, no process in it.
echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/console /sys/fs/cgroup/services
echo 10000 >/sys/fs/cgroup/console/cpu.weight
