/* SPDX-License-Identifier: Apache-2.0 */
/* The driver of an upgrade in a world of its own: two hypervisors with VMs, handovers, a journal. mete-sp
 * dies before and behind each thing that it makes durable, and is started again: it comes to the same end, no
 * VM moves twice, no handover begins twice, and no part of the server is lost or two hypervisors'. */
#include <stdio.h>
#include <unistd.h>

#include "sp/test-upgrade-world.h"

static void test_deaths(void)
{
        unsigned points = 0;
        struct err err = {0};
        for (unsigned die_at = 0; die_at <= 2 * points; die_at++) {
                begin();
                w.die_at = die_at;
                if (ask("up", false, die_at % 2, &err) == 0) {
                        run(0);
                } else { /* it died of the first: there is none, and it is asked for again */
                        g_assert_true(w.is_dead);
                        die();
                        born();
                        w.die_at = 0;
                        hypervisors_go_on();
                        g_assert_null(sp->upgrading);
                        g_assert_cmpint(ask("up", false, die_at % 2, &err), ==, 0);
                        run(0);
                }
                is_done(die_at % 2 ? 993 : 1000, VMS);
                points = die_at ? points : w.points;
                end();
        }
        g_test_message("%u points", points);
        for (unsigned every = 5; every < 60; every++) {
                begin();
                w.die_at = every;
                g_assert_cmpint(ask("up", false, true, &err), ==, 0);
                g_assert_cmpuint(run(every), >, 0);
                is_done(993, VMS);
                end();
        }
}

static void test_full_disk(void)
{
        unsigned points = 2;
        struct err err = {0};
        for (unsigned fail_at = 2; fail_at <= points; fail_at++) {
                begin();
                w.fail_at = fail_at;
                g_assert_cmpint(ask("up", false, true, &err), ==, 0);
                run(0);
                is_done(993, VMS);
                points = MAX(points, w.points);
                end();
        }
}

/* One does not fit; found by its dry run, or only by its handover, where none went before. */
static void test_unfit(void)
{
        struct err err = {0};
        for (int is_late = 0; is_late < 2; is_late++)
                for (unsigned die_at = 0; die_at < 120; die_at++) {
                        begin();
                        w.die_at = die_at;
                        w.unfit = is_late ? "-v0" : "v5";
                        for (int i = 1; i < VMS && is_late; i++)
                                w.vms[i].at = -1;
                        if (ask("up", false, true, &err)) {
                                end();
                                continue;
                        }
                        run(0);
                        is_undone(REASON_INCOMPATIBLE);
                        g_assert_cmpstr(core()->sentence, ==,
                                        is_late ? "v0: another CPU model" : "v5: another CPU model");
                        end();
                }
}

/* The others go meanwhile, before or behind it: it is undone, or it is too late, and that one goes when it
 * fits. */
static void test_unfit_among_others(void)
{
        struct err err = {0};
        unsigned done = 0;
        for (unsigned die_at = 0; die_at < 150; die_at++) {
                begin();
                w.die_at = die_at;
                w.unfit = die_at % 2 ? "-v0" : "-v6";
                w.fits_at_ms = w.now_ms + 200000;
                if (ask("up", false, true, &err) == 0) {
                        run(0);
                        done += core()->state == UPGRADE_DONE;
                        if (core()->state == UPGRADE_DONE)
                                is_done(993, VMS);
                        else
                                is_undone(REASON_INCOMPATIBLE);
                }
                end();
        }
        g_assert_cmpuint(done, >, 50);
}

static void test_refused(void)
{
        struct err err = {0};
        begin(); /* stopped */
        w.vms[3].is_stopped = true;
        g_assert_cmpint(ask("up", false, true, &err), ==, 0);
        g_assert_cmpint(ask("other", false, true, &err), ==, -EBUSY);
        g_assert_cmpint(ask("up", false, true, &err), ==, 0);
        g_assert_cmpint(ask("up", true, true, &err), ==, -EEXIST);
        run(0);
        is_undone(REASON_STALE);
        g_assert_nonnull(strstr(core()->sentence, "v3"));
        /* its name is free again */
        w.vms[3].is_stopped = false;
        g_autofree struct api_upgrade_start *in = g_new0(struct api_upgrade_start, 1);
        *in = (struct api_upgrade_start){.from = "a", .vmm = "/bin/sh", .has_as = true, .as = "a2"};
        g_assert_cmpint(upgrading_ask(sp, in, &err), ==, 0);
        g_assert_cmpint(sp->server.n, ==, 2);
        run(0);
        is_done(1000, VMS);
        end();
        begin();
        *in = (struct api_upgrade_start){
                .from = "a", .vmm = "/bin/sh", .has_memory_bytes = true, .memory_bytes = MIB};
        g_assert_cmpint(upgrading_ask(sp, in, &err), ==, -EINVAL);
        g_assert_nonnull(strstr(err.sentence, "--cpus"));
        end();
        begin(); /* never runs */
        w.never_starts = true;
        g_assert_cmpint(ask("up", false, true, &err), ==, 0);
        run(0);
        g_assert_nonnull(strstr(core()->sentence, "configuration"));
        is_undone(REASON_PEER_LOST);
        end();
        begin(); /* no CPU is free */
        (void)STR_COPY(w.vms[8].name, "v8");
        g_assert_cmpint(w.vms[8].at, ==, A); /* on the third */
        g_assert_cmpint(ask("up", false, false, &err), ==, 0);
        run(0);
        g_assert_nonnull(strstr(core()->sentence, "no CPU"));
        is_undone(REASON_NO_CAPACITY);
        end();
}

static void test_dry(void)
{
        struct err err = {0};
        for (unsigned die_at = 0; die_at < 150; die_at++) {
                begin();
                w.die_at = die_at;
                if (ask("up", true, die_at % 2, &err) == 0) {
                        run(0);
                        is_undone(REASON_CANCELLED);
                        g_assert_true(core()->would);
                }
                end();
        }
}

/* At any instant: it is undone, or it is too late and all go. */
static void test_cancel(void)
{
        struct err err = {0};
        unsigned undone = 0, late = 0;
        for (int n = 0; n < 200; n++) {
                begin();
                g_assert_cmpint(ask("up", false, n % 2, &err), ==, 0);
                for (int i = 0; i < n && !upgrade_is_final(core()); i++) {
                        tick();
                        step();
                }
                int bad = upgrading_cancel(sp->upgrading, &err);
                g_assert_true(bad == 0 || bad == -ESTALE);
                run(0);
                if (core()->state == UPGRADE_UNDONE)
                        is_undone(REASON_CANCELLED);
                else
                        is_done(n % 2 ? 993 : 1000, VMS);
                undone += core()->state == UPGRADE_UNDONE;
                late += core()->state == UPGRADE_DONE;
                end();
        }
        g_assert_true(undone > 20 && late > 20);
}

/* The successor gets CPUs as they become free, and a VM that comes late goes as well. */
static void test_room(void)
{
        struct err err = {0};
        begin();
        w.per_cpu = ON_A_CPU + 1;
        w.newcomer = "late";
        w.reserved = 5;
        g_assert_cmpint(ask("up", false, false, &err), ==, 0);
        run(0);
        is_done(1000, VMS + 1);
        g_assert_cmpuint(w.reserved, ==, 0);
        end();
}

/* Half of what is free, once, however often it begins again. */
static void test_lent_once(void)
{
        struct err err = {0};
        unsigned points = 20, lent = 0;
        for (unsigned die_at = 0; die_at < points; die_at++) {
                begin();
                w.die_at = die_at;
                if (ask("up", false, die_at % 2, &err) == 0) {
                        for (int i = 0; i < 5000 && core()->state != UPGRADE_CHECKING; i++)
                                turn();
                        g_assert_cmpint(core()->state, ==, UPGRADE_CHECKING);
                        g_assert_cmpint(server_share(&sp->server, MEMORY, B)->amount, ==,
                                        (244 + (die_at % 2 ? 7 : 0)) * MIB);
                        lent++;
                }
                end();
        }
        g_assert_cmpuint(lent, >, 10);
}

static void stop(int hypervisor)
{
        struct err err = {0};
        g_assert_cmpint(upgrading_check_stop(sp, hypervisor, &err), ==, 0);
        sp->hypervisors[hypervisor].is_wanted = false;
        save_partition();
}

/* VMs may be where it was told that it has something; whoever knows better says so by stopping it. */
static void test_told_in_vain(void)
{
        struct err err = {0};
        for (unsigned die_at = 0; die_at < 60; die_at++) {
                begin();
                w.die_at = die_at;
                w.is_gone[B] = true;
                if (ask("up", false, true, &err) == 0) {
                        for (int i = 0; i < 2000; i++)
                                turn();
                        g_assert_cmpint(core()->state, ==, UPGRADE_RETURNING);
                        g_assert_nonnull(strstr(sp->upgrading->problem, "mete server stop a2"));
                        g_assert_cmpint(upgrading_check_stop(sp, A, &err), ==, -EBUSY);
                        g_assert_cmpint(upgrading_check_other(sp, B, &err), ==, -EBUSY);
                        stop(B);
                        run(0);
                        is_undone(REASON_PEER_LOST);
                }
                end();
        }
}

static void turn_until(enum upgrade_state s)
{
        for (int i = 0; i < 20000 && core()->state != s; i++)
                turn();
        g_assert_cmpint(core()->state, ==, s);
}

static void turns(int n)
{
        for (int i = 0; i < n; i++)
                turn();
}

/* Back, with a successor that was told its part. */
static void go_back(void)
{
        struct err err = {0};
        g_assert_cmpint(ask("up", false, true, &err), ==, 0);
        turn_until(UPGRADE_CHECKING);
        g_assert_cmpint(upgrading_cancel(sp->upgrading, &err), ==, 0);
        turn_until(UPGRADE_RETURNING);
}

/* One that has VMs and says so is not stopped: not while it is being found again, nor while a VM of it is
 * being handed over, however long that takes. */
static void test_stop_of_healthy(void)
{
        struct err err = {0};
        begin();
        (void)STR_COPY(w.vms[VMS].name, "theirs");
        w.vms[VMS].at = B;
        go_back();
        turns(100);
        g_assert_nonnull(strstr(sp->upgrading->problem, "theirs is at a2: hand it over"));
        die();
        w.found_at_ms = w.now_ms + 5000;
        born();
        for (int i = 0; i < 400; i++) {
                g_assert_cmpint(upgrading_check_stop(sp, B, &err), ==, -EBUSY);
                turn();
        }
        struct leading *l = &w.leads[w.n_leads++];
        *l = (struct leading){.from = B, .to = OTHER, .vm = "theirs"};
        l->core.row.state = HANDOVER_INFORMED;
        for (int i = 0; i < 400; i++) {
                turn();
                g_assert_cmpint(upgrading_check_stop(sp, B, &err), ==, -EBUSY);
        }
        g_assert_nonnull(strstr(sp->upgrading->problem, "theirs is being handed over"));
        w.vms[VMS].at = -1;
        l->core.row.state = HANDOVER_RUNNING;
        run(0);
        is_undone(REASON_CANCELLED);
        end();
}

/* One that runs and does not say which VMs it has may be stopped, after a while. */
static void test_stop_of_deaf(void)
{
        struct err err = {0};
        begin();
        go_back();
        w.is_deaf[B] = true;
        turns(100);
        g_assert_cmpint(upgrading_check_stop(sp, B, &err), ==, -EBUSY);
        turns(200);
        g_assert_cmpint(sp->hypervisors[B].state, ==, API_SERVER_STATE_RUNNING);
        g_assert_nonnull(strstr(sp->upgrading->problem,
                                "a2 does not say which VMs it has; if there are none: "
                                "'mete server stop a2'"));
        stop(B);
        run(0);
        is_undone(REASON_CANCELLED);
        end();
}

/* It hands a VM over and never runs again: it is not given up before that handover is decided, as what
 * belongs to the VM changes hands with it; what is left of it then waits for nobody else. */
static void test_given_up_while_handing(void)
{
        const enum handover_state waits[] = {HANDOVER_CONFIGURED, HANDOVER_CLASSIFIED, HANDOVER_ACCEPTED,
                                             HANDOVER_SEPARATED,  HANDOVER_QUIESCED,   HANDOVER_INFORMED,
                                             HANDOVER_CLOSING,    HANDOVER_ASSIGNED},
                                  goes[] = {HANDOVER_FINISHING, HANDOVER_RECALLING, HANDOVER_DROPPING};
        for (size_t n = 0; n < G_N_ELEMENTS(goes); n++) {
                begin();
                go_back();
                struct leading *l = &w.leads[w.n_leads++];
                *l = (struct leading){.from = B, .to = OTHER, .vm = "theirs"};
                l->core.row.state = HANDOVER_CONFIGURED;
                w.is_gone[B] = true;
                turns(300);
                g_assert_nonnull(strstr(sp->upgrading->problem, "mete server stop a2"));
                stop(B);
                for (size_t i = 0; i < G_N_ELEMENTS(waits); i++) {
                        l->core.row.state = waits[i];
                        turns(50);
                        g_assert_cmpint(core()->state, ==, UPGRADE_RETURNING);
                        g_assert_nonnull(strstr(sp->upgrading->problem, "theirs is being handed over"));
                }
                l->core.row.state = goes[n];
                run(0);
                is_undone(REASON_CANCELLED);
                end();
        }
}

/* For good, before anything else happens. */
static void dies(int hypervisor)
{
        w.is_gone[hypervisor] = true;
        w.alive[hypervisor] = false;
}

static void until_it_gives(int hypervisor)
{
        for (int i = 0; i < 1000 && sp->server.giving.amount == 0; i++) {
                step();
                tick();
        }
        g_assert_true(sp->server.giving.amount > 0 && sp->server.giving.from == hypervisor);
}

/* A part of it is on its way back when it dies for good. */
static void test_given_up_while_giving(void)
{
        begin();
        go_back();
        until_it_gives(B);
        g_assert_cmpint(core()->state, ==, UPGRADE_RETURNING);
        dies(B);
        turns(400);
        g_assert_cmpint(sp->server.giving.from, ==, B);
        g_assert_nonnull(strstr(sp->upgrading->problem, "mete server stop a2"));
        stop(B);
        run(0);
        is_undone(REASON_CANCELLED);
        end();
}

/* Likewise forward: the old one never runs again, when all that is known to be there went. */
static void test_old_given_up(void)
{
        struct err err = {0};
        for (int n = 0; n < 3; n++) {
                begin();
                g_assert_cmpint(ask("up", false, true, &err), ==, 0);
                for (int i = 0; i < 5000 && !(core()->has_moved && upgrade_is_through(core())); i++) {
                        g_assert_cmpint(upgrading_check_stop(sp, A, &err), ==, -EBUSY);
                        step();
                        tick();
                }
                g_assert_cmpint(core()->state, ==, UPGRADE_MOVING);
                if (n > 0)
                        turn_until(UPGRADE_GIVING);
                if (n == 1)
                        until_it_gives(A);
                dies(A);
                struct leading *l = n == 2 ? &w.leads[w.n_leads++] : NULL;
                if (l)
                        *l = (struct leading){.from = A, .to = OTHER, .vm = "theirs"};
                if (l)
                        l->core.row.state = HANDOVER_INFORMED;
                g_assert_cmpint(upgrading_check_stop(sp, A, &err), ==, -EBUSY);
                turns(400);
                g_assert_cmpint(core()->state, ==, n ? UPGRADE_GIVING : UPGRADE_MOVING);
                g_assert_nonnull(strstr(sp->upgrading->problem, "mete server stop a'"));
                g_assert_cmpint(upgrading_check_stop(sp, B, &err), ==, -EBUSY);
                stop(A);
                turns(l ? 100 : 0);
                g_assert_true(!l || core()->state == UPGRADE_GIVING);
                if (l)
                        l->core.row.state = HANDOVER_FINISHING;
                run(0);
                is_done(993, VMS);
                end();
        }
        begin(); /* but while VMs are to go it must run */
        w.per_cpu = 2;
        g_assert_cmpint(ask("up", false, true, &err), ==, 0);
        for (int i = 0; i < 5000 && at_successor() == 0; i++)
                turn();
        dies(A);
        turns(400);
        g_assert_cmpint(core()->state, ==, UPGRADE_MOVING);
        g_assert_cmpint(upgrading_check_stop(sp, A, &err), ==, -EBUSY);
        g_assert_nonnull(strstr(sp->upgrading->problem, "a does not run"));
        w.is_gone[A] = false;
        w.per_cpu = 100;
        run(0);
        is_done(993, VMS);
        end();
}

/* Something that somebody else gives never gets on: what it is about is said. */
static void test_hung_gift(void)
{
        struct err err = {0};
        begin();
        g_assert_cmpint(ask("up", false, true, &err), ==, 0);
        for (int i = 0; i < 5000 && at_successor() == 0; i++)
                turn();
        g_assert_cmpuint(under_way(), ==, 0);
        sp->server.giving = (struct server_giving){.component = 0, .from = OTHER, .to = A, .amount = 1000};
        turns(300);
        g_assert_nonnull(strstr(sp->upgrading->problem, "cpu:0 is on its way from"));
        sp->server.giving = (struct server_giving){0};
        upgrading_gave(sp, NULL);
        g_assert_cmpstr(sp->upgrading->problem, ==, "");
        run(0);
        is_done(993, VMS);
        end();
}

/* Somebody hands a VM over to the old one just as that has nothing more: what comes of it is waited for. */
static void test_handed_there(void)
{
        struct err err = {0};
        begin();
        g_assert_cmpint(ask("up", false, true, &err), ==, 0);
        for (int i = 0; i < 20000 && (core()->state != UPGRADE_GIVING || sp->server.giving.amount > 0 ||
                                      server_sum(&sp->server, A, COMPONENT_CPU) > 1000 ||
                                      server_sum(&sp->server, A, COMPONENT_MEMORY) > MIB);
             i++)
                turn();
        g_assert_cmpint(core()->state, ==, UPGRADE_GIVING);
        struct leading *l = &w.leads[w.n_leads++];
        *l = (struct leading){.from = OTHER, .to = A, .vm = "theirs"};
        l->core.row.state = HANDOVER_CONFIGURED;
        for (int i = 0; i < 200; i++)
                turn();
        g_assert_cmpint(core()->state, ==, UPGRADE_GIVING);
        g_assert_nonnull(strstr(sp->upgrading->problem, "theirs is being handed over"));
        (void)STR_COPY(w.vms[VMS].name, "theirs"); /* it came, with its memory */
        server_assign(&sp->server, B, A, &(struct server_portion){MEMORY, VM_MIB * MIB}, 1);
        l->core.row.state = HANDOVER_RUNNING;
        run(0);
        is_done(993, VMS + 1);
        end();
}

/* What others may do meanwhile with both, by how far it is. */
static void test_others(void)
{
        struct err err = {0};
        bool was_back = false, was_moved = false;
        for (int is_back = 0; is_back < 2; is_back++) {
                begin();
                g_assert_cmpint(upgrading_check_give(sp, A, A, &err), ==, 0);
                g_assert_cmpint(ask("up", false, true, &err), ==, 0);
                for (int i = 0; i < 20000 && !upgrade_is_final(core()); i++) {
                        bool is_forward = !upgrade_is_back(core());
                        bool has_moved = core()->has_moved && core()->state == UPGRADE_MOVING;
                        int away = is_forward ? A : B, other = is_forward ? B : A, third = OTHER;
                        g_assert_cmpint(upgrading_check_arrival(sp, away, &err), ==, -EBUSY);
                        g_assert_cmpint(upgrading_check_arrival(sp, other, &err), ==, 0);
                        g_assert_cmpint(upgrading_check_give(sp, third, A, &err), ==, has_moved ? 0 : -EBUSY);
                        g_assert_cmpint(upgrading_check_give(sp, B, A, &err), ==, has_moved ? 0 : -EBUSY);
                        g_assert_cmpint(upgrading_check_give(sp, A, B, &err), ==, -EBUSY);
                        g_assert_cmpint(upgrading_check_give(sp, B, third, &err), ==, -EBUSY);
                        g_assert_cmpint(upgrading_check_give(sp, third, B, &err), ==, has_moved ? 0 : -EBUSY);
                        g_assert_cmpint(upgrading_check_stop(sp, B, &err), ==, -EBUSY);
                        was_back = was_back || !is_forward;
                        was_moved = was_moved || has_moved;
                        if (is_back && core()->state == UPGRADE_CHECKING)
                                (void)upgrading_cancel(sp->upgrading, &err);
                        turn();
                }
                g_assert_cmpint(upgrading_check_arrival(sp, A, &err), ==, 0);
                end();
        }
        g_assert_true(was_back && was_moved);
}

/* Each finds room alone. All do not, as the CPUs that they share get free only with the last; or with the
 * last its memory would go, and it is no hypervisor without. Nothing moves then, of a dry run either. */
static void test_room_for_all(void)
{
        struct err err = {0};
        for (int n = 0; n < 8; n++) {
                bool is_dry = n & 1, with_nobodys = n & 2, is_full = n & 4;
                begin();
                w.is_spread = !is_full;
                w.per_cpu = 4;
                if (is_full && with_nobodys) { /* 7 MiB are lent of nobody's */
                        const struct server_portion p = {MEMORY, (1000 - VMS * VM_MIB) * MIB};
                        w.per_cpu = 100;
                        server_set_aside(&sp->server, A, &p, 1);
                }
                g_assert_cmpint(ask("up", is_dry, with_nobodys, &err), ==, 0);
                run(0);
                bool is_fit = is_full ? !with_nobodys : with_nobodys;
                if (is_fit && !is_dry) {
                        is_done(with_nobodys ? 993 : 1000, VMS);
                } else {
                        g_assert_cmpint(core()->state, ==, UPGRADE_UNDONE);
                        g_assert_cmpint(at_successor(), ==, 0);
                        g_assert_cmpint(core()->would, ==, is_fit);
                        g_assert_cmpint(core()->reason, ==, is_fit ? REASON_CANCELLED : REASON_NO_CAPACITY);
                        if (!is_fit)
                                g_assert_nonnull(
                                        strstr(core()->sentence, is_full ? "without any" : "share CPUs"));
                }
                end();
        }
}

/* What lies where the old one keeps it is moved before, to where it has room; each alone finds that, and
 * takes it along. So there is enough for all of them, or nothing moves. */
static void test_room_elsewhere(void)
{
        const int64_t half_mib = VMS * VM_MIB / 2; /* of their memory; and as much of what is free is lent */
        struct err err = {0};
        for (int n = 0; n < 4; n++) {
                bool is_dry = n & 1, is_short = n & 2;
                const struct server_portion rest = {MEMORY, (1000 - 3 * half_mib + 2 * is_short) * MIB};
                begin();
                server_set_aside(&sp->server, A, &rest, 1);
                keep(half_mib / VMS);
                g_assert_cmpint(ask("up", is_dry, false, &err), ==, 0);
                run(0);
                if (!is_short && !is_dry) {
                        is_done(2000 - 3 * half_mib, VMS);
                        g_assert_true(server_share(&sp->server, KEPT, B)->is_kept);
                } else {
                        g_assert_cmpint(core()->state, ==, UPGRADE_UNDONE);
                        g_assert_true(at_successor() == 0 && core()->would == !is_short);
                        g_assert_cmpint(!strstr(core()->sentence, "keeps them"), ==, !is_short);
                }
                end();
        }
}

/* VMs that are not alike, and of those that are side by side the last is the first to be there. v0 before v2
 * would take what that has no room without, and stay on its CPU: the order is kept, whoever dies. */
static void test_order(void)
{
        static const int64_t unlike[VMS_MAX][CPUS] = {
                {600},
                { 0,    900},
                { 300, 0, 300}
        };
        struct err err = {0};
        for (unsigned die_at = 0; die_at < 150; die_at++) {
                begin();
                w.die_at = die_at;
                w.unlike = unlike;
                for (int i = 3; i < VMS; i++)
                        w.vms[i].at = -1;
                if (ask("up", false, true, &err) == 0) {
                        run(0);
                        is_done(993, 3);
                        for (size_t i = 0; i < 3; i++) {
                                g_assert_cmpuint(core()->vms[i].rank, >, 0);
                                if (die_at == 0) /* nor is one asked for in vain */
                                        g_assert_cmpuint(core()->vms[i].tries, ==, 2);
                        }
                }
                end();
        }
}

/* Whatever they have: all go, or none. */
static void test_orders(void)
{
        struct err err = {0};
        unsigned done = 0, ordered = 0;
        for (int n = 0; n < 100; n++) {
                int64_t unlike[VMS_MAX][CPUS] = {{0}}, left[CPUS] = {1000, 1000, 1000, 0};
                int n_vms = g_test_rand_int_range(2, VMS + 1);
                begin();
                w.unlike = (const int64_t(*)[CPUS])unlike;
                for (int i = 0; i < VMS; i++) {
                        w.vms[i].at = i < n_vms ? A : -1;
                        for (int k = g_test_rand_int_range(1, 3); i < n_vms && k > 0; k--) {
                                int cpu = g_test_rand_int_range(0, 3);
                                int64_t wanted = g_test_rand_int_range(1, 8) * 100,
                                        milli = MIN(left[cpu], wanted);
                                unlike[i][cpu] += milli;
                                left[cpu] -= milli;
                        }
                }
                g_assert_cmpint(ask("up", false, true, &err), ==, 0);
                run(0);
                if (core()->state == UPGRADE_DONE) {
                        is_done(993, n_vms);
                        done++;
                        for (size_t i = 0; i < core()->n; i++)
                                if (core()->vms[i].rank > 1) {
                                        ordered++;
                                        break;
                                }
                } else {
                        is_undone(REASON_NO_CAPACITY);
                }
                end();
        }
        g_test_message("%u of 100 done, %u by an order", done, ordered);
        g_assert_true(done < 95 && ordered > 10);
}

/* One that never comes to an end of what its VMs have only spoils its own upgrade. */
static void test_endless(void)
{
        struct err err = {0};
        begin();
        w.is_endless = true;
        g_assert_cmpint(ask("up", false, false, &err), ==, 0);
        for (int i = 0; i < 3000 && !strstr(sp->upgrading->problem, "what its VMs have"); i++)
                turn();
        g_assert_nonnull(strstr(sp->upgrading->problem, "a does not say what its VMs have"));
        g_assert_cmpint(core()->state, ==, UPGRADE_CHECKING);
        g_assert_cmpint(upgrading_cancel(sp->upgrading, &err), ==, 0);
        run(0);
        is_undone(REASON_CANCELLED);
        end();
}

static int ask_gap(const char *id, int64_t max_gap_ms, struct err *err)
{
        g_autofree struct api_upgrade_start *in = g_new0(struct api_upgrade_start, 1);
        *in = (struct api_upgrade_start){.from = "a", .vmm = "/bin/sh", .has_id = true};
        (void)STR_COPY(in->id, id);
        in->has_max_gap_ms = max_gap_ms > 0;
        in->max_gap_ms = max_gap_ms;
        return upgrading_ask(sp, in, err);
}

/* One guest cannot keep the bound, and others went: it is said, and another bound lets it go, at once. */
static void test_bound(void)
{
        struct err err = {0};
        begin();
        w.slow = "v2";
        g_assert_cmpint(ask_gap("up", 50, &err), ==, 0);
        for (int i = 0; i < 5000 && (core()->state != UPGRADE_MOVING || !core()->vms[2].reason ||
                                     upgrade_count(core(), UPGRADE_VM_WENT) < VMS - 1);
             i++)
                turn();
        for (int i = 0; i < 4000; i++)
                turn();
        g_assert_cmpuint(upgrade_count(core(), UPGRADE_VM_WENT), ==, VMS - 1);
        g_assert_nonnull(strstr(sp->upgrading->problem, "v2: its guest stood"));
        g_assert_nonnull(strstr(sp->upgrading->problem, "--max-gap"));
        g_assert_cmpint(ask_gap("other", 0, &err), ==, -EBUSY);
        w.fail_at = w.points + 1; /* not written: as it was */
        g_assert_cmpint(ask_gap("up", 0, &err), <, 0);
        g_assert_cmpint(sp->upgrading->max_gap_ms, ==, 50);
        g_assert_cmpint(ask_gap("up", 0, &err), ==, 0);
        g_assert_cmpint(sp->upgrading->max_gap_ms, ==, 0);
        die();
        born();
        g_assert_cmpint(sp->upgrading->max_gap_ms, ==, 0);
        run(0);
        is_done(1000, VMS);
        g_assert_cmpint(ask_gap("up", 0, &err), ==, 0);
        g_assert_cmpint(ask_gap("up", 50, &err), ==, -EEXIST);
        end();
}

/* Lines of the log in which this stands. */
static unsigned count_lines(FILE *log, const char *text)
{
        char line[512];
        unsigned n = 0;
        rewind(log);
        while (fgets(line, sizeof(line), log))
                n += strstr(line, text) != NULL;
        return n;
}

/* One that somebody else is at is in nobody's way, and not said again and again while others are under way.
 */
static void test_busy(void)
{
        struct err err = {0};
        FILE *log = tmpfile();
        g_assert_nonnull(log);
        begin();
        for (int i = LEADS_PAIR_MAX; i < VMS; i++) /* so that it is asked for as well, again and again */
                w.vms[i].at = -1;
        g_assert_cmpint(ask("up", false, true, &err), ==, 0);
        for (int i = 0; i < 5000 && core()->state != UPGRADE_MOVING; i++)
                turn();
        w.busy = "v0";
        w.ends_at_ms = w.now_ms + 30000;
        int before = dup(STDERR_FILENO);
        g_assert_cmpint(dup2(fileno(log), STDERR_FILENO), ==, STDERR_FILENO);
        for (int i = 0; i < 500; i++)
                turn();
        g_assert_cmpint(dup2(before, STDERR_FILENO), ==, STDERR_FILENO);
        (void)close(before);
        g_assert_cmpuint(upgrade_count(core(), UPGRADE_VM_UNDER_WAY), ==, LEADS_PAIR_MAX - 1);
        g_assert_cmpuint(count_lines(log, "being handed over"), <=, 1);
        (void)fclose(log);
        w.busy = NULL;
        run(0);
        is_done(993, LEADS_PAIR_MAX);
        end();
        for (unsigned die_at = 0; die_at < 150; die_at += 3) {
                begin();
                w.die_at = die_at;
                if (ask("up", false, true, &err) == 0) {
                        for (int i = 0; i < 5000 && core()->state != UPGRADE_MOVING; i++)
                                turn();
                        w.busy = "v0";
                        run(0);
                        is_done(993, VMS);
                }
                end();
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/sp/upgrade/deaths", test_deaths);
        g_test_add_func("/sp/upgrade/full-disk", test_full_disk);
        g_test_add_func("/sp/upgrade/unfit", test_unfit);
        g_test_add_func("/sp/upgrade/unfit-among-others", test_unfit_among_others);
        g_test_add_func("/sp/upgrade/refused", test_refused);
        g_test_add_func("/sp/upgrade/dry", test_dry);
        g_test_add_func("/sp/upgrade/cancel", test_cancel);
        g_test_add_func("/sp/upgrade/room", test_room);
        g_test_add_func("/sp/upgrade/busy", test_busy);
        g_test_add_func("/sp/upgrade/room-for-all", test_room_for_all);
        g_test_add_func("/sp/upgrade/room-elsewhere", test_room_elsewhere);
        g_test_add_func("/sp/upgrade/order", test_order);
        g_test_add_func("/sp/upgrade/orders", test_orders);
        g_test_add_func("/sp/upgrade/endless", test_endless);
        g_test_add_func("/sp/upgrade/bound", test_bound);
        g_test_add_func("/sp/upgrade/lent-once", test_lent_once);
        g_test_add_func("/sp/upgrade/told-in-vain", test_told_in_vain);
        g_test_add_func("/sp/upgrade/stop-of-healthy", test_stop_of_healthy);
        g_test_add_func("/sp/upgrade/stop-of-deaf", test_stop_of_deaf);
        g_test_add_func("/sp/upgrade/given-up-while-handing", test_given_up_while_handing);
        g_test_add_func("/sp/upgrade/given-up-while-giving", test_given_up_while_giving);
        g_test_add_func("/sp/upgrade/old-given-up", test_old_given_up);
        g_test_add_func("/sp/upgrade/hung-gift", test_hung_gift);
        g_test_add_func("/sp/upgrade/handed-there", test_handed_there);
        g_test_add_func("/sp/upgrade/others", test_others);
        return g_test_run();
}
