/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/argv.h"

#include <glib.h>
#include <string.h>

#include "vm/test-sample.h"

static const struct vm_argv_options options = {
        .image_dir = "/images", .ram_dir = "@RAM@", .tap = "@TAP@", .first_fd = 3};

static char *joined(const struct api_vm_definition *d, const struct vm_argv_options *o)
{
        struct vm_argv argv;
        struct err err = {0};
        g_assert_cmpint(vm_argv_make(d, o, &argv, &err), ==, 0);
        g_assert_null(argv.args[argv.n]);
        char *text = g_strjoinv("\n", argv.args);
        vm_argv_done(&argv);
        vm_argv_done(&argv);
        return text;
}

static void test_golden(void)
{
        struct api_vm_definition d = sample_definition();
        char *text = joined(&d, &options);
        g_assert_cmpstr(
                text, ==,
                "/usr/bin/qemu-system-x86_64\n"
                "-name\nguest=v1,debug-threads=on\n"
                "-uuid\n4f0a3c1e-1111-4222-8333-444455556666\n"
                "-nodefaults\n-no-user-config\n-display\nnone\n-S\n"
                "-machine\npc-q35-7.2,dump-guest-core=off\n"
                "-accel\ntcg,thread=multi\n"
                "-cpu\nWestmere-v1\n"
                "-smp\ncpus=1,maxcpus=4,sockets=1,cores=4,threads=1\n"
                "-rtc\nbase=utc\n"
                "-m\nsize=512M,slots=28,maxmem=4096M\n"
                "-object\nmemory-backend-file,id=ram0,size=512M,mem-path=@RAM@/ram0,share=on,prealloc=off\n"
                "-numa\nnode,nodeid=0,memdev=ram0\n"
                "-numa\ncpu,node-id=0,socket-id=0\n"
                "-chardev\nsocket,id=qmp0,fd=3,server=on,wait=off\n"
                "-mon\nchardev=qmp0,mode=control\n"
                "-chardev\nsocket,id=qmp1,fd=4,server=on,wait=off\n"
                "-mon\nchardev=qmp1,mode=control\n"
                "-chardev\nsocket,id=qmp2,fd=5,server=on,wait=off\n"
                "-mon\nchardev=qmp2,mode=control\n"
                "-chardev\nsocket,id=agent0,fd=6,server=on,wait=off\n"
                "-device\nvirtio-serial-pci,id=serial0,bus=pcie.0,addr=0x3,disable-legacy=on,max_ports=2\n"
                "-device\nvirtserialport,id=agentport0,bus=serial0.0,nr=1,chardev=agent0,name=org.mete.agent."
                "0\n"
                "-add-fd\nfd=8,set=1\n"
                "-chardev\nsocket,id=console0,fd=7,server=on,wait=off,logfile=/dev/fdset/1,logappend=on\n"
                "-device\nisa-serial,id=isaserial0,chardev=console0,index=0\n"
                "-kernel\n/images/vmlinuz\n"
                "-initrd\n/images/initrd.img\n"
                "-append\nconsole=ttyS0 quiet");
        g_free(text);
}

static void test_disk_and_kvm(void)
{
        struct api_vm_definition d = sample_definition();
        d.accelerator = API_ACCELERATOR_KVM;
        d.has_kernel = d.has_initrd = d.has_append = false;
        d.has_disk = true;
        STR_COPY(d.disk, "root.raw");
        d.memory_max_bytes = d.memory_bytes;
        d.dimm_slots = 0;
        struct vm_argv_options o = options;
        o.image_dir = "/im,ages";
        char *text = joined(&d, &o);
        g_assert_nonnull(strstr(text, "\n-accel\nkvm\n"));
        g_assert_nonnull(strstr(text, "\n-m\nsize=512M\n"));
        g_assert_nonnull(strstr(text, "filename=/im,,ages/root.raw,locking=on,"));
        g_assert_nonnull(strstr(text, "virtio-blk-pci,id=blk0,bus=pcie.0,addr=0x4,drive=disk0"));
        g_assert_null(strstr(text, "-kernel"));
        g_assert_null(strstr(text, "net"));
        g_assert_null(strstr(text, "host-nodes"));
        g_free(text);
}

static void test_net(void)
{
        struct api_vm_definition d = sample_definition();
        d.has_network = d.has_net_rate_bps = true;
        STR_COPY(d.network, "lan");
        d.net_rate_bps = 200000000;
        char *text = joined(&d, &options);
        g_assert_nonnull(strstr(text,
                                "\n-netdev\ntap,id=net0,fd=@TAP@\n-device\nvirtio-net-pci,id=nic0,bus=pcie.0,"
                                "addr=0x5,netdev=net0,mac=52:54:00:12:34:56,disable-legacy=on,romfile="));
        g_free(text);
}

static void test_huge(void)
{
        struct api_vm_definition d = sample_definition();
        struct vm_argv_options o = options;
        struct vm_argv argv;
        o.huge_dir = "/dev/hugepages/mete,x/v1";
        d.has_page_bytes = true;
        d.page_bytes = 2 << 20;
        char *text = joined(&d, &o);
        g_assert_nonnull(strstr(
                text, "id=ram0,size=512M,mem-path=/dev/hugepages/mete,,x/v1/ram0,share=on,prealloc=on\n"));
        g_free(text);
        g_assert_cmpint(vm_argv_make(&d, &o, &argv, NULL), ==, 0);
        g_assert_cmpint(argv.huge_bytes, ==, 512 << 20);
        vm_argv_done(&argv);
}

static void test_host_nodes(void)
{
        static const uint32_t nodes[] = {1, 3};
        struct api_vm_definition d = sample_definition();
        struct vm_argv_options o = options;
        o.host_nodes = nodes;
        o.n_host_nodes = 1;
        char *text = joined(&d, &o);
        g_assert_nonnull(strstr(text, ",prealloc=off,host-nodes=1,policy=bind\n"));
        g_free(text);
        o.n_host_nodes = 2;
        text = joined(&d, &o);
        g_assert_nonnull(strstr(text, ",host-nodes=1,host-nodes=3,policy=bind\n"));
        g_free(text);
}

static void test_refused(void)
{
        struct api_vm_definition d = sample_definition();
        struct vm_argv argv;
        struct err err = {0};
        struct vm_argv_options o = options;
        o.image_dir = "/im,ages";
        g_assert_cmpint(vm_argv_make(&d, &o, &argv, &err), ==, -EINVAL);
        g_assert_cmpint(argv.n, ==, 0);
        char *dir = g_strnfill(600, 'd');
        o = options;
        o.ram_dir = dir;
        g_assert_cmpint(vm_argv_make(&d, &o, &argv, &err), ==, -E2BIG);
        g_free(dir);
        STR_COPY(d.machine, "pc-q35-7.2,kernel=x");
        g_assert_cmpint(vm_argv_make(&d, &options, &argv, &err), ==, -EINVAL);
        g_assert_cmpint(argv.n, ==, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/argv/golden", test_golden);
        g_test_add_func("/argv/disk-and-kvm", test_disk_and_kvm);
        g_test_add_func("/argv/net", test_net);
        g_test_add_func("/argv/host-nodes", test_host_nodes);
        g_test_add_func("/argv/huge", test_huge);
        g_test_add_func("/argv/refused", test_refused);
        return g_test_run();
}
