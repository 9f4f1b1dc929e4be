/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio 1.0 over PCI (OASIS specification, 4.1 and 5.3): queues 2 and 3 are the device's control, 4 and 5
 * are port 1. Memory is flat, so an address is its own bus address; the firmware has placed the device below
 * 4 GiB. */
#include "port.h"

enum {
        PCI_ADDRESS = 0xcf8,
        PCI_DATA = 0xcfc,
        PCI_CONSOLE = 0x10431af4,
        CAP_VENDOR = 9,
        CAP_COMMON = 1,
        CAP_NOTIFY = 2,
        STATUS_DRIVER = 3, /* acknowledged, and there is a driver */
        STATUS_FEATURES = 8,
        STATUS_OK = 4,
        FEATURE_MULTIPORT = 1 << 1,
        CONTROL_IN = 2,
        CONTROL_OUT = 3,
        PORT_IN = 4,
        PORT_OUT = 5,
        QUEUES = 6,
        SLOTS = 4,
        DESCRIPTOR_WRITE = 2,
        EVENT_DEVICE_READY = 0,
        EVENT_PORT_ADD = 1,
        EVENT_PORT_READY = 3,
        EVENT_PORT_OPEN = 6,
        PORT_ID = 1,
};

struct common {
        uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
        uint16_t msix, queues;
        uint8_t status, generation;
        uint16_t queue_select, queue_size, queue_msix, queue_enable, queue_notify_off;
        uint32_t queue_descriptors[2], queue_driver[2], queue_device[2];
};

struct descriptor {
        uint32_t address, address_high, length;
        uint16_t flags, next;
};

struct queue {
        struct descriptor descriptors[SLOTS];
        struct {
                uint16_t flags, index, ring[SLOTS];
        } available;
        struct {
                uint16_t flags, index;
                struct {
                        uint32_t id, length;
                } ring[SLOTS];
        } used __attribute__((aligned(4)));
        uint16_t seen; /* of what was used */
        uint32_t at;   /* read so far of the buffer at `seen` */
        uint8_t buffers[SLOTS][PORT_LINE];
        volatile uint16_t *notify;
} __attribute__((aligned(16)));

struct control {
        uint32_t id;
        uint16_t event, value;
};

static struct queue queues[QUEUES];

static void out32(uint16_t port, uint32_t value)
{
        __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}

static uint32_t in32(uint16_t port)
{
        uint32_t value;
        __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
        return value;
}

static uint32_t pci_read(uint32_t slot, uint32_t at)
{
        out32(PCI_ADDRESS, 0x80000000 | slot << 11 | (at & ~3U));
        return in32(PCI_DATA) >> (at & 3) * 8;
}

static void pci_write(uint32_t slot, uint32_t at, uint32_t value)
{
        out32(PCI_ADDRESS, 0x80000000 | slot << 11 | at);
        out32(PCI_DATA, value);
}

static void barrier(void)
{
        __sync_synchronize();
}

static void offer(struct queue *q, uint16_t slot)
{
        q->available.ring[q->available.index % SLOTS] = slot;
        barrier();
        *(volatile uint16_t *)&q->available.index = (uint16_t)(q->available.index + 1);
        barrier();
        *q->notify = (uint16_t)(q - queues);
}

static void queue_init(volatile struct common *c, uint32_t number, uintptr_t notify, uint32_t multiplier)
{
        struct queue *q = &queues[number];
        c->queue_select = (uint16_t)number;
        c->queue_size = SLOTS;
        c->queue_msix = 0xffff;
        c->queue_descriptors[0] = (uint32_t)(uintptr_t)q->descriptors;
        c->queue_descriptors[1] = 0;
        c->queue_driver[0] = (uint32_t)(uintptr_t)&q->available;
        c->queue_driver[1] = 0;
        c->queue_device[0] = (uint32_t)(uintptr_t)&q->used;
        c->queue_device[1] = 0;
        q->notify = (volatile uint16_t *)(notify + c->queue_notify_off * multiplier);
        c->queue_enable = 1;
        for (uint16_t i = 0; i < SLOTS; i++) {
                q->descriptors[i].address = (uint32_t)(uintptr_t)q->buffers[i];
                q->descriptors[i].length = PORT_LINE;
                q->descriptors[i].flags = number % 2 ? 0 : DESCRIPTOR_WRITE;
        }
}

/* Length of the oldest buffer that the device gave back, or 0. */
static uint32_t next_used(const struct queue *q)
{
        if (q->seen == *(const volatile uint16_t *)&q->used.index)
                return 0;
        barrier();
        return q->used.ring[q->seen % SLOTS].length;
}

static uint8_t *buffer_of(struct queue *q)
{
        return q->buffers[q->used.ring[q->seen % SLOTS].id % SLOTS];
}

static void give_back(struct queue *q)
{
        uint16_t slot = (uint16_t)(q->used.ring[q->seen % SLOTS].id % SLOTS);
        q->seen++;
        q->at = 0;
        offer(q, slot);
}

static void send(uint32_t number, const void *from, size_t size)
{
        struct queue *q = &queues[number];
        const uint8_t *source = from;
        for (size_t i = 0; i < size && i < PORT_LINE; i++)
                ((volatile uint8_t *)q->buffers[0])[i] = source[i];
        q->descriptors[0].length = (uint32_t)(size < PORT_LINE ? size : PORT_LINE);
        offer(q, 0);
        while (q->seen == *(volatile uint16_t *)&q->used.index)
                ;
        q->seen++;
}

static void say_control(uint32_t id, uint16_t event)
{
        struct control c = {.id = id, .event = event, .value = 1};
        send(CONTROL_OUT, &c, sizeof(c));
}

/* Ports are told of one after another; names and what else comes of ours is passed over. */
static void hear_control(void)
{
        struct queue *q = &queues[CONTROL_IN];
        while (next_used(q) >= sizeof(struct control)) {
                const struct control *c = (const struct control *)(const void *)buffer_of(q);
                uint16_t event = c->event;
                uint32_t id = c->id;
                give_back(q);
                if (event != EVENT_PORT_ADD)
                        continue;
                say_control(id, EVENT_PORT_READY);
                if (id == PORT_ID)
                        say_control(id, EVENT_PORT_OPEN);
        }
}

static int find(uint32_t *ret_slot)
{
        for (uint32_t slot = 0; slot < 32; slot++) {
                if (pci_read(slot, 0) != PCI_CONSOLE)
                        continue;
                *ret_slot = slot;
                return 0;
        }
        return -1;
}

int port_open(void)
{
        uint32_t slot, multiplier = 0;
        uintptr_t common = 0, notify = 0;
        if (find(&slot) < 0)
                return -1;
        pci_write(slot, 4, (pci_read(slot, 4) & 0xffff) | 6); /* memory, and may read and write ours */
        for (uint32_t at = pci_read(slot, 0x34) & 0xfc; at; at = pci_read(slot, at + 1) & 0xfc) {
                uint32_t type = pci_read(slot, at + 3) & 0xff;
                if ((pci_read(slot, at) & 0xff) != CAP_VENDOR || (type != CAP_COMMON && type != CAP_NOTIFY))
                        continue;
                uint32_t bar = pci_read(slot, 0x10 + (pci_read(slot, at + 4) & 7) * 4) & ~15U;
                if (type == CAP_COMMON)
                        common = bar + pci_read(slot, at + 8);
                else
                        notify = bar + pci_read(slot, at + 8);
                if (type == CAP_NOTIFY)
                        multiplier = pci_read(slot, at + 16);
        }
        if (!common || !notify)
                return -1;
        volatile struct common *c = (volatile struct common *)common;
        c->status = 0;
        while (c->status)
                ;
        c->status = STATUS_DRIVER;
        c->driver_feature_select = 0;
        c->driver_feature = FEATURE_MULTIPORT;
        c->driver_feature_select = 1;
        c->driver_feature = 1; /* version 1 */
        c->status = STATUS_DRIVER | STATUS_FEATURES;
        for (uint32_t i = CONTROL_IN; i < QUEUES; i++)
                queue_init(c, i, notify, multiplier);
        c->status = STATUS_DRIVER | STATUS_FEATURES | STATUS_OK;
        for (uint16_t i = 0; i < SLOTS; i++) {
                offer(&queues[CONTROL_IN], i);
                offer(&queues[PORT_IN], i);
        }
        say_control(0, EVENT_DEVICE_READY);
        return 0;
}

size_t port_read(uint8_t *to, size_t size)
{
        struct queue *q = &queues[PORT_IN];
        size_t n = 0;
        hear_control();
        for (uint32_t length; n < size && (length = next_used(q)) > 0;) {
                to[n++] = buffer_of(q)[q->at++];
                if (q->at >= length)
                        give_back(q);
        }
        return n;
}

void port_write(const uint8_t *from, size_t size)
{
        send(PORT_OUT, from, size);
}
