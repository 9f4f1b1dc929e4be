#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# First thing in the guest, once.
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
# favordynmods: moving processes does not wait for a grace period of RCU (mete-agent(8)); older kernels know no such option
mount -t cgroup2 -o favordynmods cgroup /sys/fs/cgroup 2>/dev/null || mount -t cgroup2 cgroup /sys/fs/cgroup
echo "+cpuset +memory" > /sys/fs/cgroup/cgroup.subtree_control
dmesg -n 1
ifconfig lo up
# Hot-plugged memory must stay removable (docs of the kernel: memory-hotplug, ZONE_MOVABLE).
echo online_movable > /sys/devices/system/memory/auto_online_blocks
while read -r module; do
        insmod "/lib/mete-modules/$module.ko" || echo "rc.boot: $module did not load"
done < /lib/mete-modules/order
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
        [ -s "$port/name" ] && ln -sf "../${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
hostname guest
