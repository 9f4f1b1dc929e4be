/* SPDX-License-Identifier: Apache-2.0 */
/* What goes wrong: a kernel that lacks something, what is changed behind our back, a fault at every step,
 * threads that want more than there is. */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "host/test-net-world.h"

static void test_init_faults(void)
{
        if (!enter())
                return;
        g_autofree char *before = state();
        struct net_host h;
        struct err err = {0};
        int fds = fds_open();
        for (int kind = BEFORE; kind < FAULT_KIND_N; kind++) {
                bool is_hit = true;
                for (int at = 1; is_hit; at++) {
                        fail_at((enum fault_kind)kind, at);
                        int r = net_host_init(&h, &usual, &err);
                        mend();
                        is_hit = fault.passed >= at;
                        n_faults += is_hit;
                        if (r == 0)
                                net_host_done(&h);
                        g_test_message("step %d (%s), kind %d: %s", at, fault.last, kind,
                                       r < 0 ? err.sentence : "");
                        g_autofree char *now = state();
                        if (strstr(now, "mete-p")) { /* removing it failed: the next one does */
                                ok(net_host_init(&h, &usual, &err), &err);
                                net_host_done(&h);
                        }
                        is_state(before);
                }
        }
        g_assert_cmpint(fds_open(), ==, fds);
}

static void test_lacking(void)
{
        if (!enter())
                return;
        static const struct {
                const char *step, *words;
                bool has_from;
        } cases[] = {
                {"make the ifb",      "held by nothing, as this kernel lacks ifb", false},
                {"make the ingress",  "lacks ingress",                             false},
                {"make the redirect", "lacks u32 and mirred",                      false},
                {"load the mark",     "no BPF (",                                  true },
                {"make the mark",     "no BPF (",                                  true }
        };
        struct net_host h;
        struct err err = {0};
        struct net_vm_rates rates = rates_of(100, 200, 100, 200);
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
                for (int best_effort = 0; best_effort < 2; best_effort++) {
                        struct net_host_options o = usual;
                        o.is_best_effort = best_effort;
                        fail_at(BEFORE, -1);
                        fault.lacking = cases[i].step;
                        set_up(&h, &o);
                        g_assert_nonnull(strstr(h.fallback, cases[i].words));
                        g_assert_cmpint(h.is_holding_from, ==, cases[i].has_from);
                        g_assert_false(h.is_holding_share);
                        int fd = tap(&h, 0);
                        g_autofree char *before = state();
                        if (best_effort) {
                                ok(net_vm_activate(&h, 0, &rates, &err), &err);
                                is_same(&h, 0, &rates);
                                ok(net_vm_deactivate(&h, 0, &err), &err);
                        } else {
                                is_refused(net_vm_activate(&h, 0, &rates, &err), EOPNOTSUPP,
                                           REASON_UNSUPPORTED, &err, cases[i].words);
                        }
                        is_state(before);
                        mend();
                        (void)close(fd);
                        tear_down(&h);
                }
        fail_at(BEFORE, -1);
        fault.lacking = "make the root";
        is_refused(net_host_init(&h, &usual, &err), EOPNOTSUPP, REASON_UNSUPPORTED, &err,
                   "CONFIG_NET_SCH_HTB");
        fault.lacking = "make the tap";
        is_refused(net_host_init(&h, &usual, &err), EOPNOTSUPP, REASON_UNSUPPORTED, &err, "/dev/net/tun");
        mend();
        run("ip link set up0 nomaster");
        ok(net_host_init(&h, &usual, &err), &err);
        g_assert_nonnull(strstr(h.fallback, "no port of the bridge"));
        net_host_done(&h);
}

/* What is done behind our back, with `tc` and `ip`. */
static void test_behind(void)
{
        if (!enter())
                return;
        static const struct {
                const char *command, *words;
        } cases[] = {
                {"tc class change dev mete-5 classid 4d46:2 htb rate 10mbit ceil 200mbit",
                 "mete-5: class 4d46:2 has rate 10000000"                                                                                     },
                {"tc class change dev mete-5 classid 4d46:2 htb rate 100mbit ceil 200mbit burst 2k",
                 "its bursts"                                                                                                                 },
                {"tc class del dev mete-5 classid 4d46:2",                                           "class 4d46:2 is not there"              },
                {"tc class change dev mete-5 classid 4d46:1 htb rate 300mbit ceil 300mbit",
                 "class 4d46:1 has rate 300000000"                                                                                            },
                {"tc qdisc del dev mete-5 root",                                                     "mete-5 has queueing discipline default" },
                {"tc class change dev mete-5i classid 4d47:2 htb rate 300mbit ceil 900mbit",
                 "ceiling 900000000"                                                                                                          },
                {"tc class del dev mete-5i classid 4d47:2",                                          "class 4d47:2 is not there"              },
                {"tc qdisc del dev mete-5i root",                                                    "mete-5i has queueing discipline default"},
                {"ip link set mete-5i down",                                                         "mete-5i is down"                        },
                {"ip link del mete-5i",                                                              "no interface mete-5i"                   },
                {"tc qdisc del dev mete-5 ingress",                                                  "its filters are not"                    },
                {"tc filter del dev mete-5 ingress pref 1",                                          "its filters are not"                    },
                {"tc filter del dev mete-5 ingress pref 2",                                          "its filters are not"                    },
                {"tc filter add dev mete-5 ingress pref 7 protocol all u32 match u32 0 0 action mirred "
                 "egress redirect dev up0",                                         "its filters are not"                    },
                {"tc filter replace dev mete-5 ingress pref 2 handle 800::800 protocol all u32 match u32 0 0 "
                 "action mirred egress "
                 "redirect dev up0",                                                "its filters are not"                    },
                {"tc class change dev up0 classid 4d45:1005 htb rate 1mbit ceil 400mbit",
                 "class 4d45:1005 has rate 1000000"                                                                                           },
                {"tc class del dev up0 classid 4d45:1005",                                           "class 4d45:1005 is not there"           },
        };
        struct net_host h;
        struct err err = {0};
        struct net_vm_rates rates = rates_of(100, 200, 300, 400);
        set_up(&h, &usual);
        int fd = tap(&h, 5);
        g_autofree char *before = state();
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                ok(net_vm_activate(&h, 5, &rates, &err), &err);
                is_same(&h, 5, &rates);
                g_test_message("%s", cases[i].command);
                run(cases[i].command);
                char difference[NET_SENTENCE] = "";
                g_assert_cmpint(net_vm_verify(&h, 5, &rates, difference, &err), ==, 1);
                g_test_message("%s", difference);
                g_assert_nonnull(strstr(difference, cases[i].words));
                /* Asking for the same again mends it, ending it removes it. */
                ok(net_vm_activate(&h, 5, &rates, &err), &err);
                is_same(&h, 5, &rates);
                run(cases[i].command);
                ok(net_vm_deactivate(&h, 5, &err), &err);
                is_state(before);
        }
        ok(net_vm_activate(&h, 5, &rates, &err), &err);
        run("tc qdisc del dev up0 root");
        char difference[NET_SENTENCE] = "";
        g_assert_cmpint(net_host_verify(&h, difference, &err), ==, 1);
        g_assert_cmpint(net_vm_verify(&h, 5, &rates, difference, &err), ==, 1);
        g_assert_cmpint(net_vm_activate(&h, 5, &rates, &err), <, 0);
        ok(net_host_start(&h, &err), &err);
        ok(net_vm_activate(&h, 5, &rates, &err), &err);
        is_same(&h, 5, &rates);
        (void)close(fd);
        tear_down(&h);
}

/* On the way back one piece that cannot be removed keeps no other. */
static void test_goes_on(void)
{
        if (!enter())
                return;
        static const struct {
                const char *step, *stays;
        } cases[] = {
                {"remove the ingress", "dev=mete-2 ingress"     },
                {"remove a link",      "link mete-2i"           },
                {"remove the root",    "dev=mete-2 htb 4d460000"},
                {"remove a class",     "htb 4d451002"           }
        };
        struct net_host h;
        struct err err = {0};
        struct net_vm_rates rates = rates_of(100, 200, 300, 400);
        set_up(&h, &usual);
        int fd = tap(&h, 2);
        g_autofree char *before = state();
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                ok(net_vm_activate(&h, 2, &rates, &err), &err);
                fail_at(BEFORE, -1);
                fault.broken = cases[i].step;
                g_assert_cmpint(net_vm_deactivate(&h, 2, &err), ==, -EIO);
                mend();
                g_autofree char *now = state();
                for (size_t j = 0; j < G_N_ELEMENTS(cases); j++)
                        g_assert_cmpint(strstr(now, cases[j].stays) != NULL, ==, i == j);
                ok(net_vm_deactivate(&h, 2, &err), &err);
                is_state(before);
        }
        (void)close(fd);
        tear_down(&h);
}

/* What a fault walks over. `again` brings the state before; each ends in the state after. */
struct walk {
        const char *name;
        struct net_host *h;
        struct net_vm_rates old, new;
        int (*act)(struct walk *w, struct err *err);
        char *before, *after;
        bool goes_on; /* on the way back what can be done is done: no way there and back again */
};

static int act_activate(struct walk *w, struct err *err)
{
        return net_vm_activate(w->h, 1, &w->new, err);
}

static int act_deactivate(struct walk *w, struct err *err)
{
        return net_vm_deactivate(w->h, 1, err);
}

static int act_start(struct walk *w, struct err *err)
{
        return net_host_start(w->h, err);
}

static int act_finish(struct walk *w, struct err *err)
{
        return net_host_finish(w->h, err);
}

static int act_purpose(struct walk *w, struct err *err)
{
        return net_purpose_activate(w->h, 1, &w->new.to, err);
}

static int act_purpose_back(struct walk *w, struct err *err)
{
        return net_purpose_deactivate(w->h, 1, err);
}

static void walk(struct walk *w, void (*prepare)(struct walk *w))
{
        int steps = 0, tried = 0;
        for (int kind = BEFORE; kind < FAULT_KIND_N; kind++) {
                bool is_over = false;
                for (int at = 1; !is_over; at++) {
                        struct err err = {0};
                        prepare(w);
                        g_clear_pointer(&w->before, g_free);
                        w->before = state();
                        fail_at((enum fault_kind)kind, at);
                        int r = w->act(w, &err);
                        mend();
                        is_over = fault.passed < at;
                        /* A step that had failed by itself, as expected there, cannot fail after it was done.
                         */
                        tried += fault.is_hit;
                        steps = MAX(steps, fault.passed);
                        g_test_message("%s: step %d (%s), kind %d: %s", w->name, at, fault.last, kind,
                                       err.sentence);
                        g_assert_cmpint(r < 0, ==, fault.is_hit);
                        if (fault.is_hit && kind <= AFTER && !w->goes_on)
                                is_state(w->before);
                        /* Begun again, whatever was left in the middle, it ends where it should. */
                        for (int again = 0; again < 2; again++)
                                ok(w->act(w, &err), &err);
                        g_autofree char *now = state();
                        if (!w->after)
                                w->after = g_steal_pointer(&now);
                        else
                                g_assert_cmpstr(now, ==, w->after);
                        g_assert_cmpint(at, <, 200);
                }
        }
        g_clear_pointer(&w->before, g_free);
        g_clear_pointer(&w->after, g_free);
        g_test_message("%s: %d steps, %d faults", w->name, steps, tried);
        n_faults += tried;
}

static void prepare_none(struct walk *w)
{
        struct err err = {0};
        ok(net_vm_deactivate(w->h, 1, &err), &err);
        ok(net_purpose_deactivate(w->h, 1, &err), &err);
}

static void prepare_old(struct walk *w)
{
        struct err err = {0};
        ok(net_vm_activate(w->h, 1, &w->old, &err), &err);
        ok(net_purpose_activate(w->h, 1, &w->old.to, &err), &err);
}

static void prepare_finished(struct walk *w)
{
        struct err err = {0};
        ok(net_host_finish(w->h, &err), &err);
}

static void prepare_started(struct walk *w)
{
        struct err err = {0};
        ok(net_host_start(w->h, &err), &err);
}

static void test_faults(void)
{
        if (!enter())
                return;
        struct net_host h;
        set_up(&h, &usual);
        int fd = tap(&h, 1);
        struct walk w = {.h = &h, .old = rates_of(100, 200, 300, 400), .new = rates_of(150, 160, 70, 80)};
        int fds = fds_open();
        w.name = "activate", w.act = act_activate;
        walk(&w, prepare_none);
        w.name = "change", w.act = act_activate;
        walk(&w, prepare_old);
        w.name = "purpose", w.act = act_purpose;
        prepare_none(&w);
        walk(&w, prepare_none);
        w.name = "change purpose";
        struct err err = {0};
        ok(net_vm_activate(&h, 1, &w.old, &err), &err);
        walk(&w, prepare_old);
        w.name = "start", w.act = act_start;
        walk(&w, prepare_finished);
        w.goes_on = true;
        w.name = "deactivate", w.act = act_deactivate;
        walk(&w, prepare_old);
        w.name = "deactivate purpose", w.act = act_purpose_back;
        ok(net_vm_activate(&h, 1, &w.old, &err), &err);
        walk(&w, prepare_old);
        w.name = "finish", w.act = act_finish;
        ok(net_vm_deactivate(&h, 1, &err), &err);
        walk(&w, prepare_started);
        g_assert_cmpint(fds_open(), ==, fds);
        (void)close(fd);
        net_host_done(&h);
        g_test_message("%d faults", n_faults);
        g_assert_cmpint(n_faults, >, 300);
}

/* Many threads want more than there is: who gets it has it, and the sum is not exceeded. */
enum { THREADS = 16 };
static struct {
        struct net_host *h;
        int granted;
} race;

/* Widens the moment between looking and taking. */
static int linger(const char *step, bool is_done)
{
        if (is_done && strcmp(step, "list classes") == 0)
                g_usleep(2000);
        return 0;
}

static void *want(void *user)
{
        unsigned slot = GPOINTER_TO_UINT(user);
        struct net_vm_rates rates = rates_of(10, 20, 100, 0);
        struct err err = {0};
        for (int i = 0; i < 4; i++) {
                int r = net_vm_activate(race.h, slot, &rates, &err);
                if (r == 0) {
                        is_same(race.h, slot, &rates);
                        if (i == 3) {
                                g_atomic_int_inc(&race.granted);
                                break;
                        }
                } else {
                        g_assert_cmpint(err.reason, ==, REASON_NO_CAPACITY);
                }
                if (i < 3)
                        g_assert_cmpint(net_vm_deactivate(race.h, slot, &err), ==, 0);
        }
        return NULL;
}

static void test_threads(void)
{
        if (!enter())
                return;
        struct net_host h;
        struct err err = {0};
        set_up(&h, &usual);
        g_autofree char *before = state();
        race.h = &h;
        race.granted = 0;
        int fds[THREADS];
        GThread *threads_of[THREADS];
        for (unsigned i = 0; i < THREADS; i++)
                fds[i] = tap(&h, i);
        net_nl_fault = linger;
        /* Those that lost in the last round may all have tried while others still gave back. */
        for (unsigned i = 0; i < THREADS; i++)
                threads_of[i] = g_thread_new("want", want, GUINT_TO_POINTER(i));
        for (unsigned i = 0; i < THREADS; i++)
                (void)g_thread_join(threads_of[i]);
        mend();
        g_assert_cmpint(race.granted, >=, 1);
        g_assert_cmpint(race.granted, <=, 9);
        for (unsigned i = 0; i < THREADS; i++) { /* and what was refused is there for nobody in particular */
                struct net_vm_rates rates = rates_of(10, 20, 100, 0);
                struct net_vm_figures f;
                ok(net_vm_read(&h, i, &f, &err), &err);
                if (!f.is_active && net_vm_activate(&h, i, &rates, &err) == 0)
                        race.granted++;
        }
        g_assert_cmpint(race.granted, ==, 9);
        for (unsigned i = 0; i < THREADS; i++) {
                ok(net_vm_deactivate(&h, i, &err), &err);
                (void)close(fds[i]);
        }
        is_state(before);
        tear_down(&h);
}

void add_slow_tests(void)
{
        g_test_add_func("/net/lacking", test_lacking);
        g_test_add_func("/net/behind", test_behind);
        g_test_add_func("/net/goes-on", test_goes_on);
        g_test_add_func("/net/threads", test_threads);
        g_test_add_func("/net/init-faults", test_init_faults);
        g_test_add_func("/net/faults", test_faults);
}
