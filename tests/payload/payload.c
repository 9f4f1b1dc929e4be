/* SPDX-License-Identifier: Apache-2.0 */
/* A guest without an operating system, for tests and benches: up as soon as its firmware is, and all that it
 * does is known. A multiboot ELF, started with QEMU's -kernel. Each vCPU counts rounds of work on the board
 * (board.h); vCPU 0 looks now and then what else is due: it starts vCPUs that are not on yet, those that are
 * plugged later too, dirties memory at a given rate, says the
 * counts on the serial port, and powers off when the power button is pressed.
 *
 * On the command line (-append), all optional:
 *     work=N     vCPUs 0 to N-1 work, the others sleep (all work)
 *     dirty=N    MiB of memory that are dirtied a second (0)
 *     area=N     MiB that are dirtied round and round (64, or what there is)
 *     say=N      ms between two lines on the serial port (1000; 0: none)
 *     bridge=1   the serial port is the port of the guest's agent: whoever has the console can be the agent
 * (0) tick=N     ms after which vCPU 0 looks what is due, where it sleeps between (50)
 *
 * The machine is QEMU's q35: its ports are used without asking. No vCPU but the first ever takes an
 * interrupt. One that was unplugged and comes again is not noticed. */
#include <stddef.h>
#include <stdint.h>

#include "board.h"
#include "port.h"

enum {
        MULTIBOOT_MAGIC = 0x2badb002,
        SERIAL = 0x3f8,
        CALIBRATE_MS = 20,
        FW_CFG_SELECT = 0x510,
        FW_CFG_DATA = 0x511,
        FW_CFG_MAX_CPUS = 15,
        PM_STATUS = 0x600, /* where QEMU's firmware puts q35's power management */
        PM_ENABLE = 0x602,
        PM_CONTROL = 0x604,
        PM_TIMER = 0x608,
        PM_TIMER_MASK = 0xffffff,
        PM_TIMER_HZ = 3579545,
        PM_BUTTON = 1 << 8,
        PM_OFF = 1 << 13,
        APIC = 0xfee00000,
        APIC_SPURIOUS = 0xf0,
        APIC_COMMAND = 0x300,
        APIC_COMMAND_TARGET = 0x310,
        APIC_TIMER = 0x320,
        APIC_TIMER_COUNT = 0x380,
        APIC_TIMER_DIVIDE = 0x3e0,
        APIC_TICKS_PER_MS = 1000000, /* QEMU's timer, as KVM's, counts nanoseconds */
        TIMER_VECTOR = 0x20,
        GATES = 256,
        AP_PAGE = 0x8000,
        STACK_SIZE = 4096,
        PAGE = 4096,
        MIB = 1 << 20,
        AREA_FIRST = 16 * MIB,
        AREA_END = 0x7f000000, /* before anything that the machine may keep for devices */
        START_EVERY_MS = 250,
        START_GAP_MS = 10,
        LOOP_STEPS = 4096, /* steps of one round */
        BRIDGE_QUIET = 100,
        DIRTY_AT_ONCE = 256, /* pages, so that vCPU 0's rounds stay short */
};

struct multiboot {
        uint32_t flags, mem_lower_kib, mem_upper_kib, boot_device, command_line;
};

/* Start-up of vCPUs: INIT to all that are not on, SIPI to the same ones some time after; then a pause. A vCPU
 * that came up in between is begun anew by the SIPI, so none is left in the state in which INIT puts it. */
struct starter {
        uint8_t is_addressed[BOARD_CPUS_MAX];
        uint32_t at_ms;
        int is_waiting;
};

__attribute__((section(".board"))) struct board board;
uint8_t stacks[BOARD_CPUS_MAX][STACK_SIZE] __attribute__((aligned(16)));
extern const uint8_t ap_begin[], ap_end[];
void on_timer(void);
void on_fault(void);
void payload_main(uint32_t magic, const struct multiboot *m);
void payload_ap(uint32_t id);
void payload_fault(void);
void *memset(void *to, int value, size_t n);
void *memcpy(void *to, const void *from, size_t n);

static struct {
        uint32_t work, dirty_mib_per_s, area_mib, say_ms, tick_ms, bridge;
} option = {.work = BOARD_CPUS_MAX, .area_mib = 64, .say_ms = 1000, .tick_ms = 50};
static struct starter starter;
static uint16_t gates[GATES][4] __attribute__((aligned(8)));
static struct {
        uint16_t limit;
        uint32_t base;
} __attribute__((packed)) gate_pointer;
static uint64_t tsc_start;

/* -- what gcc wants to be there, and the machine's instructions */

void *memset(void *to, int value, size_t n)
{
        for (volatile uint8_t *at = to; n > 0; n--)
                *at++ = (uint8_t)value;
        return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
        const uint8_t *source = from;
        for (volatile uint8_t *at = to; n > 0; n--)
                *at++ = *source++;
        return to;
}

static void out8(uint16_t port, uint8_t value)
{
        __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static void out16(uint16_t port, uint16_t value)
{
        __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
        uint8_t value;
        __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
        return value;
}

static uint16_t in16(uint16_t port)
{
        uint16_t value;
        __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
        return value;
}

static uint32_t in32(uint16_t port)
{
        uint32_t value;
        __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
        return value;
}

static uint64_t tsc(void)
{
        uint64_t value;
        __asm__ volatile("rdtsc" : "=A"(value));
        return value;
}

/* The quotient must fit; 64-bit division would need a library. */
static uint32_t divide(uint64_t value, uint32_t by)
{
        uint32_t quotient, rest;
        __asm__("divl %4"
                : "=a"(quotient), "=d"(rest)
                : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "r"(by));
        return quotient;
}

static volatile uint32_t *apic(uint32_t reg)
{
        return (volatile uint32_t *)(uintptr_t)(APIC + reg);
}

/* What the host reads at any time. */
static void put(uint32_t *field, uint32_t value)
{
        *(volatile uint32_t *)field = value;
}

/* -- the serial port */

static void serial_init(void)
{
        static const uint8_t set[][2] = {
                {1, 0   },
                {3, 0x80},
                {0, 1   },
                {1, 0   },
                {3, 3   },
                {2, 7   },
                {4, 3   }
        };
        for (size_t i = 0; i < sizeof(set) / sizeof(*set); i++)
                out8((uint16_t)(SERIAL + set[i][0]), set[i][1]);
}

static void say_byte(uint8_t value)
{
        while (!(in8(SERIAL + 5) & 0x20))
                ;
        out8(SERIAL, value);
}

static void say(const char *text)
{
        for (; *text; text++)
                say_byte((uint8_t)*text);
}

static void say_number(uint32_t value)
{
        char text[12], *at = text + sizeof(text);
        *--at = '\0';
        do
                *--at = (char)('0' + value % 10);
        while (value /= 10);
        say(at);
}

static void say_counts(void)
{
        say("work ");
        say_number(board.ms);
        for (uint32_t i = 0; i < board.cpus_max; i++) {
                say(board.cpu[i].is_on ? " " : " -");
                if (board.cpu[i].is_on)
                        say_number(board.cpu[i].rounds);
        }
        say(" dirtied ");
        say_number(board.dirtied_pages);
        say("\r\n");
}

/* -- options */

/* The value behind "name=" at the beginning of a word, or what it was. */
static uint32_t read_option(const char *line, const char *name, uint32_t otherwise)
{
        for (const char *at = line; *at; at++) {
                const char *a = at, *n = name;
                if (at != line && at[-1] != ' ')
                        continue;
                while (*n && *a == *n)
                        a++, n++;
                if (*n || *a != '=' || a[1] < '0' || a[1] > '9')
                        continue;
                uint32_t value = 0;
                for (a++; *a >= '0' && *a <= '9' && value < 100000000; a++)
                        value = value * 10 + (uint32_t)(*a - '0');
                return value;
        }
        return otherwise;
}

static void read_options(const char *line)
{
        option.work = read_option(line, "work", option.work);
        option.dirty_mib_per_s = read_option(line, "dirty", option.dirty_mib_per_s);
        option.area_mib = read_option(line, "area", option.area_mib);
        option.say_ms = read_option(line, "say", option.say_ms);
        option.bridge = read_option(line, "bridge", option.bridge);
        option.tick_ms = read_option(line, "tick", option.tick_ms);
        if (option.tick_ms == 0 || option.tick_ms > 4000)
                option.tick_ms = 50;
        if (option.dirty_mib_per_s > 16384)
                option.dirty_mib_per_s = 16384;
}

/* Memory from AREA_FIRST on, as much as was asked for and is there. */
static void choose_area(uint32_t mem_upper_kib)
{
        uint32_t end = mem_upper_kib >= (AREA_END - MIB) / 1024 ? AREA_END : MIB + mem_upper_kib * 1024;
        uint32_t most =
                end > AREA_FIRST + MIB ? end - AREA_FIRST - MIB : 0; /* the last MiB is the firmware's */
        uint32_t bytes = option.area_mib < most / MIB ? option.area_mib * MIB : most / MIB * MIB;
        board.area_first = AREA_FIRST;
        board.area_bytes = bytes;
}

/* -- the clock */

/* Both clocks as of one moment: of several looks that during which the least time passed, as a vCPU may be
 * put aside at any time. */
static uint32_t look_at_timer(uint64_t *ret_tsc)
{
        uint64_t least = UINT64_MAX;
        uint32_t ticks = 0;
        for (int i = 0; i < 8; i++) {
                uint64_t before = tsc();
                uint32_t seen = in32(PM_TIMER) & PM_TIMER_MASK;
                uint64_t after = tsc();
                if (after - before >= least)
                        continue;
                least = after - before;
                ticks = seen;
                *ret_tsc = before + least / 2;
        }
        return ticks;
}

/* The time stamp counter against the power management timer, whose rate is known. */
static uint32_t measure_khz(void)
{
        uint64_t begin = 0, end = 0;
        uint32_t first = look_at_timer(&begin), ticks;
        do
                ticks = (look_at_timer(&end) - first) & PM_TIMER_MASK;
        while (ticks < PM_TIMER_HZ / 1000 * CALIBRATE_MS);
        uint32_t khz = divide((end - begin) * (PM_TIMER_HZ / 500), ticks * 2);
        return khz ? khz : 1;
}

static uint32_t now_ms(void)
{
        return divide(tsc() - tsc_start, board.tsc_khz); /* for 49 days */
}

/* -- what vCPUs do */

static void work(struct board_cpu *c)
{
        uint32_t x = c->rounds;
        for (int i = 0; i < LOOP_STEPS; i++)
                __asm__ volatile("imull $1664525, %0, %0\n\taddl $1013904223, %0" : "+r"(x));
        put(&c->rounds, c->rounds + 1);
}

/* Interrupts are taken only here, and end the sleep, no more. */
static void sleep(void)
{
        __asm__ volatile("sti\n\thlt\n\tcli" ::: "memory");
}

static int is_to_work(uint32_t id)
{
        return id < *(volatile uint32_t *)&board.work;
}

/* The same table for all; a timer for each; the old interrupt controllers stay silent. */
static void come_up(uint32_t id)
{
        __asm__ volatile("lidt %0" ::"m"(gate_pointer));
        *apic(APIC_SPURIOUS) = 0x1ff;
        *apic(APIC_TIMER_DIVIDE) = 0xb; /* by 1 */
        *apic(APIC_TIMER) = TIMER_VECTOR | 1 << 17;
        *apic(APIC_TIMER_COUNT) = option.tick_ms * APIC_TICKS_PER_MS;
        put(&board.cpu[id].starts, board.cpu[id].starts + 1);
        put(&board.cpu[id].is_on, 1);
}

void payload_ap(uint32_t id)
{
        come_up(id);
        for (;;) {
                if (is_to_work(id))
                        work(&board.cpu[id]);
                else
                        sleep();
        }
}

static void address(uint32_t id, uint32_t command)
{
        while (*apic(APIC_COMMAND) & (1 << 12))
                ;
        *apic(APIC_COMMAND_TARGET) = id << 24;
        *apic(APIC_COMMAND) = command;
}

static void start_others(struct starter *s, uint32_t now)
{
        if ((int32_t)(now - s->at_ms) < 0)
                return;
        for (uint32_t id = 1; id < board.cpus_max; id++) {
                if (!s->is_waiting)
                        s->is_addressed[id] = !*(volatile uint32_t *)&board.cpu[id].is_on;
                if (s->is_addressed[id])
                        address(id, s->is_waiting ? 0x4600 | AP_PAGE >> 12 : 0x4500); /* SIPI, INIT */
        }
        s->is_waiting = !s->is_waiting;
        s->at_ms = now + (s->is_waiting ? START_GAP_MS : START_EVERY_MS);
}

/* Pages that should have been written by now, as far as they fit into one look. */
static void dirty(uint32_t now)
{
        static uint32_t next;
        if (option.dirty_mib_per_s == 0 || board.area_bytes == 0)
                return;
        uint32_t due =
                divide((uint64_t)now * option.dirty_mib_per_s * (MIB / PAGE), 1000) - board.dirtied_pages;
        uint32_t most =
                option.work ? DIRTY_AT_ONCE : option.dirty_mib_per_s * (MIB / PAGE) * option.tick_ms / 500;
        for (uint32_t i = 0; i < due && i <= most; i++) {
                volatile uint32_t *word = (volatile uint32_t *)(uintptr_t)(board.area_first + next);
                if (*word != board.passes)
                        put(&board.wrong_pages, board.wrong_pages + 1);
                *word = board.passes + 1;
                next += PAGE;
                if (next >= board.area_bytes) {
                        next = 0;
                        put(&board.passes, board.passes + 1);
                }
                put(&board.dirtied_pages, board.dirtied_pages + 1);
        }
}

static void look_at_button(void)
{
        if (!(in16(PM_STATUS) & PM_BUTTON))
                return;
        say("power off\r\n");
        out16(PM_CONTROL, PM_OFF);
}

/* Line by line to the agent's port, and as it comes from it. A look ends when nothing has come for a while:
 * the serial port holds 16 bytes, and the VMM needs time to bring the next. */
static void bridge(void)
{
        static uint8_t line[PORT_LINE];
        static size_t n;
        uint8_t text[64];
        for (int quiet = 0; quiet < BRIDGE_QUIET; quiet++) {
                size_t came = port_read(text, sizeof(text));
                for (size_t i = 0; i < came; i++)
                        say_byte(text[i]);
                for (; in8(SERIAL + 5) & 1; quiet = 0) {
                        line[n++] = in8(SERIAL);
                        if (line[n - 1] != '\n' && n < sizeof(line))
                                continue;
                        port_write(line, n);
                        n = 0;
                }
                if (came)
                        quiet = 0;
        }
}

static void look(uint32_t now)
{
        static uint32_t said_ms, rare_ms;
        put(&board.ms, now);
        dirty(now);
        if (now - rare_ms < option.tick_ms && rare_ms)
                return;
        rare_ms = now;
        uint32_t cpus = 0;
        for (uint32_t i = 0; i < board.cpus_max; i++)
                cpus += board.cpu[i].is_on;
        put(&board.cpus, cpus);
        start_others(&starter, now);
        look_at_button();
        if (option.bridge)
                bridge();
        if (option.say_ms && now - said_ms >= option.say_ms) {
                said_ms = now;
                say_counts();
        }
}

/* -- the first vCPU */

void payload_fault(void)
{
        say("fault\r\n");
}

static void gates_init(void)
{
        for (size_t i = 0; i < GATES; i++) {
                uintptr_t to = (uintptr_t)(i == TIMER_VECTOR ? on_timer : on_fault);
                gates[i][0] = (uint16_t)to;
                gates[i][1] = 8;
                gates[i][2] = 0x8e00;
                gates[i][3] = (uint16_t)(to >> 16);
        }
        gate_pointer.limit = sizeof(gates) - 1;
        gate_pointer.base = (uint32_t)(uintptr_t)gates;
        out8(0x21, 0xff);
        out8(0xa1, 0xff);
}

static uint32_t count_slots(void)
{
        out16(FW_CFG_SELECT, FW_CFG_MAX_CPUS);
        uint32_t low = in8(FW_CFG_DATA), n = low | (uint32_t)in8(FW_CFG_DATA) << 8;
        return n < 1 ? 1 : n > BOARD_CPUS_MAX ? BOARD_CPUS_MAX : n;
}

void payload_main(uint32_t magic, const struct multiboot *m)
{
        memset(&board, 0, sizeof(board));
        serial_init();
        if (magic != MULTIBOOT_MAGIC) {
                say("not started by a multiboot loader\r\n");
                return;
        }
        if (m->flags & 4)
                read_options((const char *)(uintptr_t)m->command_line);
        choose_area(m->flags & 1 ? m->mem_upper_kib : 0);
        board.version = BOARD_VERSION;
        board.work = option.work;
        board.cpus_max = count_slots();
        board.tsc_khz = measure_khz();
        tsc_start = tsc();
        memcpy((void *)AP_PAGE, ap_begin, (size_t)(ap_end - ap_begin));
        out16(PM_ENABLE, PM_BUTTON);
        gates_init();
        come_up(0);
        if (option.bridge && port_open() < 0)
                option.bridge = 0;
        put(&board.magic, BOARD_MAGIC);
        if (!option.bridge)
                say("payload: up\r\n");
        for (;;) {
                look(now_ms());
                if (is_to_work(0))
                        work(&board.cpu[0]);
                else
                        sleep();
        }
}
