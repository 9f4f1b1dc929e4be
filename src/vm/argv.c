/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/argv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

/* The first fault stays in *err; what follows it is not built. */
struct builder {
        struct vm_argv *argv;
        struct err *err;
        int r;
};

__attribute__((format(printf, 2, 3))) static void add(struct builder *b, const char *fmt, ...)
{
        char text[VM_ARGV_TEXT];
        va_list ap;
        if (b->r < 0)
                return;
        va_start(ap, fmt);
        int n = vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        if (n >= (int)sizeof(text)) {
                b->r = err_set(b->err, REASON_INVALID, E2BIG, "the VMM's argument \"%.60s...\" is too long",
                               text);
                return;
        }
        if (b->argv->n == VM_ARGV_MAX) {
                b->r = err_set(b->err, REASON_INTERNAL, E2BIG, "the VMM has too many arguments");
                return;
        }
        char *copy = strdup(text);
        if (copy == NULL) {
                b->r = err_set(b->err, REASON_INTERNAL, ENOMEM, "no memory for the VMM's arguments");
                return;
        }
        b->argv->args[b->argv->n++] = copy;
}

/* QEMU splits option values at commas; a doubled one is a comma. */
static const char *escaped(const char *s, char buf[VM_ARGV_TEXT])
{
        size_t n = 0;
        for (; *s != '\0' && n + 2 < VM_ARGV_TEXT; s++) {
                if (*s == ',')
                        buf[n++] = ',';
                buf[n++] = *s;
        }
        buf[n] = '\0';
        return buf;
}

static void add_machine(struct builder *b, const struct api_vm_definition *d)
{
        add(b, "-name");
        add(b, "guest=%s,debug-threads=on", d->name);
        add(b, "-uuid");
        add(b, "%s", d->uuid);
        add(b, "-nodefaults");
        add(b, "-no-user-config");
        add(b, "-display");
        add(b, "none");
        add(b, "-S");
        add(b, "-machine");
        /* A guest's memory does not belong in a core file of the host. */
        add(b, "%s,dump-guest-core=off", d->machine);
        add(b, "-accel");
        add(b, "%s", d->accelerator == API_ACCELERATOR_KVM ? "kvm" : "tcg,thread=multi");
        add(b, "-cpu");
        add(b, "%s", d->cpu_model);
        add(b, "-smp");
        add(b, "cpus=%jd,maxcpus=%jd,sockets=1,cores=%jd,threads=1", (intmax_t)d->cpus, (intmax_t)d->cpus_max,
            (intmax_t)d->cpus_max);
        add(b, "-rtc");
        add(b, "base=utc");
}

static void add_memory(struct builder *b, const struct api_vm_definition *d, const struct vm_argv_options *o)
{
        char dir[VM_ARGV_TEXT];
        add(b, "-m");
        if (d->dimm_slots > 0)
                add(b, "size=%jdM,slots=%jd,maxmem=%jdM", (intmax_t)(d->memory_bytes >> 20),
                    (intmax_t)d->dimm_slots, (intmax_t)(d->memory_max_bytes >> 20));
        else
                add(b, "size=%jdM", (intmax_t)(d->memory_bytes >> 20));
        /* Shareable from the start: a handover needs it, and it cannot be had later. */
        add(b, "-object");
        char nodes[VM_ARGV_TEXT / 2] = "";
        size_t at = 0;
        for (size_t i = 0; i < o->n_host_nodes && at + 24 < sizeof(nodes); i++)
                at += (size_t)snprintf(nodes + at, sizeof(nodes) - at, ",host-nodes=%u%s", o->host_nodes[i],
                                       i + 1 == o->n_host_nodes ? ",policy=bind" : "");
        /* Huge pages are taken as a whole: one that somebody else took meanwhile would be a SIGBUS later. */
        add(b, "memory-backend-file,id=ram0,size=%jdM,mem-path=%s/ram0,share=on,prealloc=%s%s",
            (intmax_t)(d->memory_bytes >> 20), escaped(d->has_page_bytes ? o->huge_dir : o->ram_dir, dir),
            (d->prealloc || d->has_page_bytes) && !o->is_sharing ? "on" : "off", nodes);
        add(b, "-numa");
        add(b, "node,nodeid=%d,memdev=ram0", VM_NUMA_NODE);
        add(b, "-numa");
        add(b, "cpu,node-id=%d,socket-id=0", VM_NUMA_NODE);
}

static void add_channels(struct builder *b, const struct api_vm_definition *d, int first_fd)
{
        add(b, "-chardev");
        add(b, "socket,id=qmp0,fd=%d,server=on,wait=off", first_fd + VM_FD_QMP);
        add(b, "-mon");
        add(b, "chardev=qmp0,mode=control");
        add(b, "-chardev");
        add(b, "socket,id=qmp1,fd=%d,server=on,wait=off", first_fd + VM_FD_OOB);
        add(b, "-mon");
        add(b, "chardev=qmp1,mode=control");
        /* Of its own for the guard of a move, as a monitor has one client, and meted has the others. */
        add(b, "-chardev");
        add(b, "socket,id=qmp2,fd=%d,server=on,wait=off", first_fd + VM_FD_GUARD);
        add(b, "-mon");
        add(b, "chardev=qmp2,mode=control");
        add(b, "-chardev");
        add(b, "socket,id=agent0,fd=%d,server=on,wait=off", first_fd + VM_FD_AGENT);
        add(b, "-device");
        add(b, "virtio-serial-pci,id=serial0,bus=pcie.0,addr=0x%jx,disable-legacy=on,max_ports=2",
            (uintmax_t)d->serial_pci_slot);
        add(b, "-device");
        add(b, "virtserialport,id=agentport0,bus=serial0.0,nr=1,chardev=agent0,name=org.mete.agent.0");
        /* Whoever connects has the console; all of it also goes to a file that the VMM cannot open itself,
         * only append to. */
        add(b, "-add-fd");
        add(b, "fd=%d,set=1", first_fd + VM_FD_CONSOLE_LOG);
        add(b, "-chardev");
        add(b, "socket,id=console0,fd=%d,server=on,wait=off,logfile=/dev/fdset/1,logappend=on",
            first_fd + VM_FD_CONSOLE);
        add(b, "-device");
        add(b, "isa-serial,id=isaserial0,chardev=console0,index=0");
}

static void add_boot(struct builder *b, const struct api_vm_definition *d, const struct vm_argv_options *o)
{
        char dir[VM_ARGV_TEXT];
        if (d->has_kernel) {
                add(b, "-kernel");
                add(b, "%s/%s", o->image_dir, d->kernel);
        }
        if (d->has_initrd) {
                add(b, "-initrd");
                add(b, "%s/%s", o->image_dir, d->initrd);
        }
        if (d->has_append) {
                add(b, "-append");
                add(b, "%s", d->append);
        }
        if (d->has_disk) {
                add(b, "-blockdev");
                add(b, "driver=file,node-name=file0,filename=%s/%s,locking=on,aio=threads,discard=unmap",
                    escaped(o->image_dir, dir), d->disk);
                add(b, "-blockdev");
                add(b, "driver=raw,node-name=disk0,file=file0,discard=unmap");
                add(b, "-device");
                add(b,
                    "virtio-blk-pci,id=blk0,bus=pcie.0,addr=0x%jx,drive=disk0,disable-legacy=on,bootindex=1",
                    (uintmax_t)d->disk_pci_slot);
        }
}

static void add_net(struct builder *b, const struct api_vm_definition *d, const char *tap)
{
        if (!d->has_network)
                return;
        add(b, "-netdev");
        add(b, "tap,id=net0,fd=%s", tap);
        add(b, "-device");
        add(b, "virtio-net-pci,id=nic0,bus=pcie.0,addr=0x%jx,netdev=net0,mac=%s,disable-legacy=on,romfile=",
            (uintmax_t)d->net_pci_slot, d->mac);
}

int vm_argv_make(const struct api_vm_definition *d, const struct vm_argv_options *o, struct vm_argv *ret,
                 struct err *err)
{
        *ret = (struct vm_argv){.memory_bytes = d->memory_max_bytes,
                                .huge_bytes = d->has_page_bytes ? d->memory_bytes : 0};
        struct builder b = {.argv = ret, .err = err};
        b.r = vm_definition_check(d, err);
        /* QEMU reads an initrd's path as a list of modules, split at commas; that cannot be escaped. */
        if (b.r == 0 && d->has_initrd && strchr(o->image_dir, ',') != NULL)
                b.r = err_set(err, REASON_INVALID, EINVAL, "%.150s: an image directory cannot have a comma",
                              o->image_dir);
        add(&b, "%s", d->qemu_path);
        add_machine(&b, d);
        add_memory(&b, d, o);
        add_channels(&b, d, o->first_fd);
        add_boot(&b, d, o);
        add_net(&b, d, o->tap);
        if (o->is_incoming || o->is_sharing) {
                add(&b, "-incoming");
                add(&b, "defer");
        }
        if (b.r < 0)
                vm_argv_done(ret);
        return b.r;
}

void vm_argv_done(struct vm_argv *a)
{
        for (size_t i = 0; i < a->n; i++)
                free(a->args[i]);
        a->n = 0;
        a->args[0] = NULL;
}
