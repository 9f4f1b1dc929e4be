/* SPDX-License-Identifier: Apache-2.0 */
/* Whether bandwidth is really held: guests that send through their taps, a flood beside them, and what
 * arrives.
 *
 *      meek, flood (taps) ---- br0 ---- up0 ==== up1, where it is counted
 *
 * The link is 400 Mbit/s; the meek one offers 220 and is guaranteed 200, the flood offers 1000. Each frame
 * says in its payload who sent it, since the flood lies about its address. */
#include <errno.h>
#include <glib.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "host/net.h"

enum {
        MBIT = 1000000,
        LINK = 400,
        GUARANTEED = 200,
        OFFERED = 220,
        FLOOD = 1000,
        FRAME_BYTES = 9000,
        VNET_BYTES = 10,
        WARM_US = 500000,
        MEASURE_US = 1500000,
        SENDERS = 4,
};

static const char *missing;

static void run(const char *command)
{
        g_autofree char *errors = NULL;
        int status = -1;
        if (!g_spawn_command_line_sync(command, NULL, &errors, &status, NULL) || status != 0)
                g_error("%s: %s", command, errors);
}

static void ok(int r, const struct err *err)
{
        if (r < 0)
                g_error("%s", err->sentence);
}

/* -- who sends */

struct sender {
        int fd;
        size_t header_bytes; /* before the frame */
        uint64_t rate_bps;
        unsigned char frame[VNET_BYTES + FRAME_BYTES];
        int64_t sent_bytes;
        GThread *thread;
};

static gint is_over;

static void *send_on(void *user)
{
        struct sender *s = user;
        int64_t begin_us = g_get_monotonic_time();
        while (!g_atomic_int_get(&is_over)) {
                int64_t due_bytes =
                        (g_get_monotonic_time() - begin_us) * (int64_t)(s->rate_bps / 8 / 1000) / 1000;
                for (; s->sent_bytes < due_bytes; s->sent_bytes += FRAME_BYTES)
                        if (write(s->fd, s->frame, s->header_bytes + FRAME_BYTES) < 0 && errno != ENOBUFS &&
                            errno != EAGAIN)
                                g_error("write: %s", g_strerror(errno));
                /* The faster one comes again sooner: in a full queue the room belongs to whoever comes next.
                 */
                g_usleep(s->rate_bps > LINK * (uint64_t)MBIT ? 100 : 1000);
        }
        return NULL;
}

static void begin(struct sender *s, int fd, size_t header_bytes, uint64_t mbit, unsigned char id)
{
        *s = (struct sender){.fd = fd, .header_bytes = header_bytes, .rate_bps = mbit * MBIT};
        unsigned char *f = s->frame + header_bytes;
        memcpy(f, (unsigned char[]){2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 0x11, 0x88, 0xb5, id}, 15);
        s->thread = g_thread_new("sender", send_on, s);
}

/* -- who counts */

struct counts {
        uint64_t bytes[SENDERS];
};

static void count_for(int fd, size_t header_bytes, int64_t us, struct counts *ret)
{
        struct counts c = {0};
        int64_t end_us = g_get_monotonic_time() + us;
        for (int64_t now; (now = g_get_monotonic_time()) < end_us;) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                if (poll(&p, 1, (int)((end_us - now) / 1000) + 1) <= 0)
                        continue;
                static unsigned char f[VNET_BYTES + FRAME_BYTES];
                ssize_t n;
                while ((n = read(fd, f, sizeof(f))) > (ssize_t)header_bytes + 14)
                        if (f[header_bytes + 12] == 0x88 && f[header_bytes + 13] == 0xb5 &&
                            f[header_bytes + 14] < SENDERS)
                                c.bytes[f[header_bytes + 14]] += (uint64_t)n - header_bytes;
        }
        if (ret)
                *ret = c;
}

static void measure(int fd, size_t header_bytes, struct sender *senders, size_t n, double ret_mbit[SENDERS])
{
        struct counts c;
        count_for(fd, header_bytes, WARM_US, NULL);
        int64_t begin_us = g_get_monotonic_time();
        count_for(fd, header_bytes, MEASURE_US, &c);
        double us = (double)(g_get_monotonic_time() - begin_us);
        g_atomic_int_set(&is_over, true);
        for (size_t i = 0; i < n; i++)
                (void)g_thread_join(senders[i].thread);
        g_atomic_int_set(&is_over, false);
        for (size_t i = 0; i < SENDERS; i++)
                ret_mbit[i] = (double)c.bytes[i] * 8 / us;
}

static int open_packets(const char *interface)
{
        int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL)),
            size = 32 << 20;
        struct sockaddr_ll at = {.sll_family = AF_PACKET,
                                 .sll_protocol = htons(ETH_P_ALL),
                                 .sll_ifindex = (int)if_nametoindex(interface)};
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)), ==, 0);
        g_assert_cmpint(bind(fd, (struct sockaddr *)&at, sizeof(at)), ==, 0);
        return fd;
}

/* -- the world */

struct world {
        struct net_host host;
        int tap[2], up1;
};

static bool enter(struct world *w)
{
        if (missing) {
                g_test_skip(missing);
                return false;
        }
        struct err err = {0};
        struct net_host_options o = {
                .bridge = "br0", .uplink = "up0", .rate_bps = LINK * (uint64_t)MBIT, .is_managed = true};
        g_assert_cmpint(unshare(CLONE_NEWNET), ==, 0);
        run("ip link add br0 type bridge");
        run("ip link add up0 mtu 9000 type veth peer name up1 mtu 9000");
        run("ip link set up0 master br0 up");
        run("ip link set up1 up");
        run("ip link set br0 up");
        ok(net_host_init(&w->host, &o, &err), &err);
        ok(net_host_start(&w->host, &err), &err);
        for (unsigned i = 0; i < 2; i++)
                ok(net_tap_make(&w->host, i, 0, &w->tap[i], &err), &err);
        w->up1 = open_packets("up1");
        return true;
}

static void leave(struct world *w)
{
        struct err err = {0};
        (void)close(w->tap[0]);
        (void)close(w->tap[1]);
        (void)close(w->up1);
        ok(net_host_finish(&w->host, &err), &err);
        net_host_done(&w->host);
}

static void activate(struct world *w, unsigned slot, uint64_t rate, uint64_t ceiling)
{
        struct err err = {0};
        struct net_rate r = {rate * MBIT, ceiling * MBIT};
        ok(net_vm_activate(&w->host, slot, &(struct net_vm_rates){.to = r, .from = r}, &err), &err);
}

static void from_both(struct world *w, double ret_mbit[SENDERS])
{
        struct sender s[2];
        begin(&s[0], w->tap[0], VNET_BYTES, OFFERED, 0);
        begin(&s[1], w->tap[1], VNET_BYTES, FLOOD, 1);
        measure(w->up1, 0, s, 2, ret_mbit);
}

/* -- tests */

static void test_from(void)
{
        struct world w;
        double without[SENDERS], with[SENDERS], against[SENDERS], limited[SENDERS];
        struct net_vm_figures f;
        struct err err = {0};
        if (!enter(&w))
                return;
        from_both(&w, without);
        activate(&w, 0, GUARANTEED, 0);
        from_both(&w, with);
        ok(net_vm_read(&w.host, 0, &f, &err), &err);
        activate(&w, 1, 100, 0);
        from_both(&w, against);
        activate(&w, 1, 100, 150);
        from_both(&w, limited);
        g_print("# MEASURED meek and flood at a link of %d Mbit/s, without a guarantee: %.0f %.0f; 200 "
                "guaranteed: %.0f %.0f "
                "(the kernel says %.0f); the flood guaranteed 100 as well: %.0f %.0f; and no more than 150: "
                "%.0f %.0f\n",
                LINK, without[0], without[1], with[0], with[1], (double)f.uplink.live_bps / MBIT, against[0],
                against[1], limited[0], limited[1]);
        g_assert_cmpfloat(without[0], <, 0.75 * GUARANTEED);
        g_assert_cmpfloat(with[0], >, 0.9 * GUARANTEED);
        g_assert_cmpfloat(with[0] + with[1], <, 1.1 * LINK);
        g_assert_cmpfloat(with[1], >, 0.7 * (LINK - OFFERED)); /* nor does the rest starve */
        g_assert_cmpfloat(against[0], >, 0.9 * GUARANTEED);
        g_assert_cmpfloat(against[1], >, 0.9 * 100);
        g_assert_cmpfloat(limited[0], >, 0.9 * GUARANTEED);
        g_assert_cmpfloat(limited[1], <, 1.1 * 150);
        g_assert_cmpfloat(limited[1], >, 0.9 * 100);
        g_assert_cmpuint(f.uplink.live_bps, >, GUARANTEED / 2 * (uint64_t)MBIT);
        leave(&w);
}

/* From the host itself, as a migration. */
static void test_purpose(void)
{
        struct world w;
        struct err err = {0};
        double without[SENDERS], with[SENDERS];
        if (!enter(&w))
                return;
        for (int i = 0; i < 2; i++) {
                struct sender s[2];
                int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
                struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("br0")};
                g_assert_cmpint(bind(fd, (struct sockaddr *)&at, sizeof(at)), ==, 0);
                struct net_rate r = {GUARANTEED * (uint64_t)MBIT, 0};
                if (i == 1) {
                        ok(net_purpose_activate(&w.host, NET_PURPOSE_MIGRATION, &r, &err), &err);
                        ok(net_purpose_mark(&w.host, NET_PURPOSE_MIGRATION, fd, &err), &err);
                }
                begin(&s[0], fd, 0, OFFERED, 2);
                begin(&s[1], w.tap[1], VNET_BYTES, FLOOD, 1);
                measure(w.up1, 0, s, 2, i ? with : without);
                (void)close(fd);
        }
        g_print("# MEASURED migration and flood, without a guarantee: %.0f %.0f; 200 guaranteed: %.0f %.0f\n",
                without[2], without[1], with[2], with[1]);
        g_assert_cmpfloat(without[2], <, 0.75 * GUARANTEED);
        g_assert_cmpfloat(with[2], >, 0.9 * GUARANTEED);
        g_assert_cmpfloat(with[2] + with[1], <, 1.1 * LINK);
        leave(&w);
}

static void test_to(void)
{
        struct world w;
        struct sender s;
        double with[SENDERS];
        if (!enter(&w))
                return;
        activate(&w, 0, 50, 100);
        begin(&s, w.up1, 0, 300, 3);
        measure(w.tap[0], VNET_BYTES, &s, 1, with);
        g_print("# MEASURED 300 Mbit/s to a VM with a ceiling of 100: %.0f\n", with[3]);
        g_assert_cmpfloat(with[3], <, 1.1 * 100);
        g_assert_cmpfloat(with[3], >, 0.9 * 100);
        leave(&w);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        if (geteuid() != 0)
                missing = "needs root";
        else if (unshare(CLONE_NEWNET) < 0)
                missing = "no network namespaces may be made here";
        g_test_add_func("/net-flood/from", test_from);
        g_test_add_func("/net-flood/purpose", test_purpose);
        g_test_add_func("/net-flood/to", test_to);
        return g_test_run();
}
