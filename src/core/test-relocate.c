/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a VM that runs is moved to another node: claimed before, until it has left, whoever dies; and
 * back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "core/telling.h"
#include "core/test-world.h"

enum { NODE0 = 4, NODE1 = 5 };

static const struct definition *base_ram(const struct world *w, uint16_t *ret_item)
{
        const struct request *r = hypervisor_find(w->h, "vm:v");
        g_assert_nonnull(r);
        for (uint16_t i = 0; i < r->n_definitions; i++)
                if (r->definitions[i].kind == VIRTUAL_RAM) {
                        *ret_item = i;
                        return &r->definitions[i];
                }
        g_assert_not_reached();
}

static int64_t free_of(const struct world *w, uint32_t component)
{
        return ledger_free_over(hypervisor_ledger(w->h), component, w->now, LEDGER_OPEN);
}

static uint32_t bound_to(const struct world *w, const char *key)
{
        gpointer value = g_hash_table_lookup(w->bound, key);
        g_assert_nonnull(value);
        return (uint32_t)(GPOINTER_TO_SIZE(value) >> 48);
}

static enum relocating how(const struct world *w)
{
        struct relocating_why why = {0};
        enum relocating is = hypervisor_vm_relocating(w->h, "v", &why);
        g_assert_true((is == RELOCATING_FAILED) == (why.sentence != NULL && *why.sentence != '\0'));
        g_assert_true((is == RELOCATING_FAILED) == (why.tries > 0));
        g_assert_cmpint(hypervisor_vm_relocating(w->h, "v", NULL), ==, is);
        return is;
}

static struct relocation base_move(const struct world *w, uint32_t to)
{
        struct relocation m = {.serial = hypervisor_find(w->h, "vm:v")->serial, .to = to};
        (void)base_ram(w, &m.item);
        return m;
}

static int relocate(struct world *w, const struct relocation *moves, size_t n, enum reason *ret)
{
        struct err err = {0};
        int r = hypervisor_vm_relocate(w->h, "v", moves, n, "it is made to", w->now, &err);
        *ret = err.reason;
        turn(w);
        return r;
}

static void begin(struct world *w, uint32_t *ret_was, uint32_t *ret_to)
{
        uint16_t item;
        world_init(w);
        start_vm(w);
        *ret_was = base_ram(w, &item)->component;
        *ret_to = *ret_was == NODE0 ? NODE1 : NODE0;
}

static void to(struct world *w, uint32_t component)
{
        struct relocation m = base_move(w, component);
        enum reason why;
        g_assert_cmpint(relocate(w, &m, 1, &why), ==, 0);
}

/* Where its guest is told that its own memory is. */
static void is_told(const struct world *w, uint32_t component)
{
        struct told rows[MACHINE_N];
        hypervisor_told(w->h, "v", rows);
        for (uint32_t i = NODE0; i <= NODE1; i++)
                g_assert_true(rows[i].has_base == (i == component) &&
                              (rows[i].yours > 0) == (i == component));
}

/* It dies with so many steps done; another one goes on with it. */
static void dies(struct world *w, int at)
{
        for (int i = 0; i < at && !g_queue_is_empty(&w->work); i++)
                work_one(w, false);
        if (at < 0)
                return;
        g_queue_clear_full(&w->work, g_free);
        reload(w);
}

static void test_moved(void)
{
        for (int dies_at = -1; dies_at < 5; dies_at++) {
                struct world w;
                uint32_t was, there;
                uint16_t item;
                begin(&w, &was, &there);
                int64_t free_was = free_of(&w, was), free_there = free_of(&w, there);
                g_string_truncate(w.log, 0);
                to(&w, there);
                const struct definition *d = base_ram(&w, &item);
                g_assert_true(d->component == there && d->from == was + 1 && d->moving);
                g_assert_cmpint(free_of(&w, was), ==, free_was); /* it lies there still */
                g_assert_cmpint(free_of(&w, there), ==, free_there - d->amount);
                g_assert_cmpint(how(&w), ==, RELOCATING_UNDER_WAY);
                g_assert_false(
                        hypervisor_is_moving(w.h, "v")); /* who waits for that need not wait for memory */
                is_told(&w, was);
                dies(&w, dies_at);
                work_all(&w);
                d = base_ram(&w, &item);
                g_assert_true(d->component == there && d->from == 0 && !d->moving);
                is_told(&w, there);
                g_assert_cmpint(how(&w), ==, RELOCATING_NOTHING);
                g_assert_cmpuint(bound_to(&w, "v ram 0"), ==, there);
                g_assert_cmpint(free_of(&w, was), ==, free_was + d->amount);
                g_assert_cmpint(free_of(&w, there), ==, free_there - d->amount);
                g_assert_cmpint(logged(&w, "v moving;"), ==, 1);
                g_assert_cmpint(logged(&w, "v moved;"), ==, 1);
                world_done(&w);
        }
}

/* Half way, and turned back: as it was, and there is as much room as before. */
static void test_back(void)
{
        for (int done = 0; done < 3; done++)
                for (int dies_at = -1; dies_at < 4; dies_at++) {
                        struct world w;
                        uint32_t was, there;
                        uint16_t item;
                        begin(&w, &was, &there);
                        int64_t free_was = free_of(&w, was), free_there = free_of(&w, there);
                        to(&w, there);
                        for (int i = 0; i < done; i++)
                                work_one(&w, false);
                        bool is_there = how(&w) == RELOCATING_NOTHING;
                        g_assert_true(is_there == (done == 2));
                        g_assert_false(base_ram(&w, &item)->goes_back);
                        hypervisor_vm_relocate_back(w.h, "v", "it is not wanted", w.now);
                        turn(&w);
                        g_assert_true(base_ram(&w, &item)->goes_back == !is_there);
                        is_told(&w, is_there ? there : was);
                        dies(&w, dies_at);
                        work_all(&w);
                        const struct definition *d = base_ram(&w, &item);
                        g_assert_true(d->component == (is_there ? there : was) && d->from == 0 && !d->moving);
                        g_assert_false(d->goes_back);
                        g_assert_cmpuint(bound_to(&w, "v ram 0"), ==, d->component);
                        g_assert_cmpint(free_of(&w, was), ==, free_was + (is_there ? d->amount : 0));
                        g_assert_cmpint(free_of(&w, there), ==, free_there - (is_there ? d->amount : 0));
                        g_assert_cmpint(logged(&w, "v moving-back;"), ==, !is_there);
                        world_done(&w);
                }
}

static void next_part(struct world *w)
{
        for (int i = 0; i < 20; i++) {
                if (work_part(w))
                        return;
                work_one(w, false);
        }
        g_assert_not_reached();
}

/* In parts, with what else is wanted of the VM between them: a lease is granted, all of it is looked at, and
 * another lease comes back, while the memory is on its way. Dying between two parts is as if none was. */
static void test_in_parts(void)
{
        for (int dies_after = -1; dies_after < 12; dies_after++) {
                struct world w;
                uint32_t was, there;
                uint16_t item;
                uint64_t serial;
                struct err err = {0};
                begin(&w, &was, &there);
                uint64_t old = ask(&w, "old", "cpu:1,share>=0.2", false, NULL);
                work_all(&w);
                to(&w, there);
                g_assert_true(work_part(&w));
                uint64_t lease = ask(&w, "m", "memory:128M", false, NULL);
                unsigned checked = w.checked;
                g_assert_cmpint(hypervisor_vm_check(w.h, "v", w.now, &serial, &err), ==, 0);
                g_assert_cmpint(hypervisor_release(w.h, "vm:v/old", "released", w.now, &serial, &err), ==, 0);
                turn(&w);
                int parts = 0, steps = 0;
                while ((get(&w, lease)->state != REQUEST_GRANTED || w.checked < checked + 2 ||
                        !request_is_final(get(&w, old))) &&
                       steps < 200) {
                        bool is_part = work_part(&w);
                        parts += is_part;
                        steps++;
                        if (!is_part)
                                work_one(&w, false);
                        if (steps == dies_after) {
                                g_queue_clear_full(&w.work, g_free);
                                reload(&w);
                                break;
                        }
                }
                g_assert_cmpint(steps, <, 200);
                g_assert_true(dies_after >= 0 || (parts > 2 && parts <= steps / 2 + 2)); /* they take turns */
                g_assert_cmpint(how(&w), ==, RELOCATING_UNDER_WAY);
                g_assert_true(base_ram(&w, &item)->moving && base_ram(&w, &item)->from == was + 1);
                for (int i = 0; i < 5; i++)
                        if (!work_part(&w))
                                work_one(&w, false);
                work_all(&w);
                g_assert_cmpint(how(&w), ==, RELOCATING_NOTHING);
                g_assert_cmpint(get(&w, lease)->state, ==, REQUEST_GRANTED);
                g_assert_cmpuint(bound_to(&w, "v ram 0"), ==, there);
                world_done(&w);
        }
}

/* Two of them on their way, and none waits for all of the other. */
static void test_two_in_parts(void)
{
        struct world w;
        uint32_t was, there;
        enum reason why;
        begin(&w, &was, &there);
        uint64_t lease = ask(&w, "m", "memory:256M", false, NULL), last = 0;
        work_all(&w);
        const struct relocation both[] = {
                base_move(&w, there), {lease, 0, there}
        };
        g_assert_cmpint(relocate(&w, both, 2, &why), ==, 0);
        int changes = 0;
        for (int i = 0; i < 40; i++) {
                const struct work *next = g_queue_peek_head(&w.work);
                g_assert_nonnull(next);
                bool is_move = next->is_check && next->step.phase == PHASE_HOST;
                changes += is_move && next->serial != last;
                last = is_move ? next->serial : last;
                if (!work_part(&w))
                        work_one(&w, false);
        }
        g_assert_cmpint(changes, >=, 10);
        work_all(&w);
        g_assert_cmpint(how(&w), ==, RELOCATING_NOTHING);
        world_done(&w);
}

/* Turned back between two parts, and while one is out. */
static void test_parts_and_back(void)
{
        for (int is_out = 0; is_out < 2; is_out++) {
                struct world w;
                uint32_t was, there;
                uint16_t item;
                begin(&w, &was, &there);
                int64_t free_there = free_of(&w, there);
                to(&w, there);
                for (int i = 0; i < 3; i++)
                        next_part(&w);
                struct work *out = is_out ? g_queue_pop_head(&w.work) : NULL;
                hypervisor_vm_relocate_back(w.h, "v", "it is not wanted", w.now);
                turn(&w);
                if (out)
                        hypervisor_step_goes_on(w.h, out->serial, out->token, w.now);
                g_free(out);
                turn(&w);
                next_part(&w);
                g_assert_cmpint(base_ram(&w, &item)->component, ==, was);
                g_assert_cmpint(base_ram(&w, &item)->from, ==, there + 1); /* what lies there is claimed */
                g_assert_cmpint(free_of(&w, there), ==, free_there - base_ram(&w, &item)->amount);
                work_all(&w);
                g_assert_cmpuint(bound_to(&w, "v ram 0"), ==, was);
                g_assert_cmpint(free_of(&w, there), ==, free_there);
                world_done(&w);
        }
}

/* What is to be left gets nothing new: neither a grant nor a part of an offer, until that is over. */
static void test_avoided(void)
{
        struct world w;
        uint32_t was, there;
        enum reason why = 0;
        begin(&w, &was, &there);
        uint64_t before = ask(&w, "a", "memory:128M", false, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, before)->definitions[0].component, ==, was);
        const uint32_t avoided[] = {was, 0}; /* of a CPU it means nothing */
        hypervisor_vm_avoid(w.h, "v", avoided, 2);
        hypervisor_vm_avoid(w.h, "nobody", avoided, 2);
        uint64_t now = ask(&w, "b", "memory:128M", false, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, now)->definitions[0].component, ==, there);
        g_assert_cmpint(get(&w, before)->state, ==, REQUEST_GRANTED);
        uint64_t cpu = ask(&w, "c", "cpu:1,share>=0.2,id=0", false, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, cpu)->state, ==, REQUEST_GRANTED);
        char need[48];
        (void)snprintf(need, sizeof(need), "memory:128M,node=%u", machine[was].node);
        uint64_t named = ask(&w, "d", need, false, &why);
        g_assert_cmpint(get(&w, named)->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_nonnull(strstr(get(&w, named)->sentence, "handed over"));
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &(struct err){0}), ==, 0); /* another VM may */
        turn(&w);
        work_all(&w);
        hypervisor_vm_avoid(w.h, "v", NULL, 0);
        uint64_t again = ask(&w, "e", need, false, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, again)->definitions[0].component, ==, was);
        world_done(&w);
}

static void test_worth_while(void)
{
        for (int reason = 1; reason < REASON_N; reason++)
                for (unsigned tries = 1; tries < RELOCATING_TRIES + 2; tries++) {
                        const struct relocating_why why = {(enum reason)reason, tries, ""};
                        bool passes = reason == REASON_BUSY || reason == REASON_TIMEOUT ||
                                      reason == REASON_PEER_LOST || reason == REASON_CANCELLED ||
                                      reason == REASON_STALE;
                        g_assert_true(relocating_may_do(&why) == (passes && tries < RELOCATING_TRIES));
                }
}

/* It could not be moved: that is known, and it is tried again until it is turned back, which is, too. */
static void test_fails(void)
{
        struct world w;
        uint32_t was, there;
        uint16_t item;
        begin(&w, &was, &there);
        int64_t free_there = free_of(&w, there);
        to(&w, there);
        work_one(&w, true);
        g_assert_cmpint(how(&w), ==, RELOCATING_FAILED);
        g_assert_cmpint(free_of(&w, there), ==, free_there - base_ram(&w, &item)->amount);
        for (unsigned tries = 1; tries < 4; tries++) { /* each counts, with its reason */
                struct relocating_why why;
                g_assert_cmpint(hypervisor_vm_relocating(w.h, "v", &why), ==, RELOCATING_FAILED);
                g_assert_cmpuint(why.tries, ==, tries);
                g_assert_true(why.reason == REASON_STALE || why.reason == REASON_TIMEOUT);
                while (!g_queue_is_empty(&w.work)) /* what else the check looks at */
                        work_one(&w, false);
                w.now += config.retry_max_ms;
                hypervisor_tick(w.h, w.now);
                turn(&w);
                work_one(&w, true);
        }
        hypervisor_vm_relocate_back(w.h, "v", "it could not be moved", w.now);
        turn(&w);
        g_assert_cmpint(how(&w), ==, RELOCATING_UNDER_WAY);
        for (int i = 0; i < 3; i++) {
                while (!g_queue_is_empty(&w.work))
                        work_one(&w, true);
                g_assert_cmpint(how(&w), ==, RELOCATING_FAILED);
                g_assert_true(base_ram(&w, &item)->component == was &&
                              base_ram(&w, &item)->from == there + 1);
                w.now += config.retry_max_ms;
                hypervisor_tick(w.h, w.now);
                turn(&w);
        }
        work_all(&w);
        g_assert_cmpint(how(&w), ==, RELOCATING_NOTHING);
        g_assert_cmpint(base_ram(&w, &item)->component, ==, was);
        g_assert_cmpint(free_of(&w, there), ==, free_there);
        world_done(&w);
}

/* All of it or nothing: the second has no room. */
static void test_no_room(void)
{
        struct world w;
        uint32_t was, there;
        uint16_t item;
        enum reason why;
        begin(&w, &was, &there);
        uint64_t lease = ask(&w, "m", "memory:256M", false, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, lease)->state, ==, REQUEST_GRANTED);
        uint32_t lease_was = get(&w, lease)->definitions[0].component;
        g_assert_cmpint(lease_was, ==, was);
        char need[48];
        (void)snprintf(need, sizeof(need), "memory:1408M,node=%u", machine[there].node);
        (void)ask_for(&w, NULL, "fill", need, false, 0, LEDGER_OPEN, NULL);
        int64_t free_was = free_of(&w, was), free_there = free_of(&w, there);
        g_assert_cmpint(free_there, ==, 640 * MIB);
        const struct relocation both[] = {
                base_move(&w, there), {lease, 0, there}
        };
        g_assert_cmpint(relocate(&w, both, 2, &why), ==, -ENOSPC);
        g_assert_cmpint(why, ==, REASON_NO_CAPACITY);
        g_assert_true(base_ram(&w, &item)->component == was && !base_ram(&w, &item)->moving);
        g_assert_true(free_of(&w, was) == free_was && free_of(&w, there) == free_there);
        g_assert_true(g_queue_is_empty(&w.work) && how(&w) == RELOCATING_NOTHING);
        g_assert_cmpint(relocate(&w, both + 1, 1, &why), ==, 0); /* it has, for the lease alone */
        work_all(&w);
        g_assert_cmpint(get(&w, lease)->definitions[0].component, ==, there);
        g_assert_cmpint(free_of(&w, there), ==, free_there - 256 * MIB);
        g_assert_cmpint(free_of(&w, was), ==, free_was + 256 * MIB);
        world_done(&w);
}

/* The VM ends, or gives the lease back, while it moves: nothing stays claimed. */
static void test_ends(void)
{
        for (int is_vm = 0; is_vm < 2; is_vm++) {
                struct world w;
                uint32_t was, there;
                uint64_t serial;
                enum reason why;
                struct err err = {0};
                begin(&w, &was, &there);
                uint64_t lease = ask(&w, "m", "memory:256M", false, NULL);
                work_all(&w);
                const struct relocation m = {lease, 0, there};
                g_assert_cmpint(relocate(&w, &m, 1, &why), ==, 0);
                g_assert_cmpint(
                        hypervisor_release(w.h, is_vm ? "vm:v" : "vm:v/m", "released", w.now, &serial, &err),
                        ==, 0);
                turn(&w);
                work_all(&w);
                g_assert_cmpint(how(&w), ==, RELOCATING_NOTHING);
                g_assert_cmpint(free_of(&w, there), ==, machine[there].owned);
                g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, is_vm ? 0 : 2);
                g_assert_true(!is_vm || nothing_held(&w));
                world_done(&w);
        }
}

static void test_refused(void)
{
        struct world w;
        uint32_t was, there;
        enum reason why;
        begin(&w, &was, &there);
        struct relocation m = base_move(&w, was);
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -EINVAL); /* it is there */
        m.to = 0;
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -EINVAL); /* a CPU */
        m = (struct relocation){m.serial, (uint16_t)(m.item ? 0 : 1), there};
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -EINVAL); /* of a CPU */
        m = (struct relocation){m.serial, 99, there};
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -ESTALE);
        m = (struct relocation){m.serial + 99, 0, there};
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -ESTALE);
        m = base_move(&w, there);
        struct relocation twice[] = {m, m};
        g_assert_cmpint(relocate(&w, twice, 2, &why), ==, -EBUSY);
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, 0);
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -EBUSY);
        m.to = was;
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -EBUSY);
        work_all(&w);
        change(&w, was, false, 0);
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -ENODEV);
        world_done(&w);
        world_init(&w);
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -EAGAIN);
        g_assert_cmpint(why, ==, REASON_STALE);
        hypervisor_vm_relocate_back(w.h, "v", "", w.now);
        hypervisor_vm_relocate_back(w.h, "nobody", "", w.now);
        g_assert_cmpint(how(&w), ==, RELOCATING_NOTHING);
        world_done(&w);
}

/* What is kept of a VM that was stopped is in the way: it is taken back first. */
static void test_kept(void)
{
        struct world w;
        uint32_t was, there;
        uint64_t serial;
        struct err err = {0};
        enum reason why;
        begin(&w, &was, &there);
        char need[48];
        (void)snprintf(need, sizeof(need), "memory:1536M,node=%u", machine[was].node);
        (void)ask_for(&w, NULL, "fill", need, false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(hypervisor_vm_stopped(w.h, "u", "powered down", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_nonnull(hypervisor_kept(w.h, "u"));
        (void)snprintf(need, sizeof(need), "memory:1536M,node=%u", machine[there].node);
        (void)ask_for(&w, NULL, "more", need, false, 0, LEDGER_OPEN, NULL);
        struct relocation m = base_move(&w, there);
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, -EBUSY);
        g_assert_cmpint(how(&w), ==, RELOCATING_NOTHING);
        work_all(&w); /* it is taken back */
        g_assert_null(hypervisor_kept(w.h, "u"));
        g_assert_cmpint(relocate(&w, &m, 1, &why), ==, 0);
        work_all(&w);
        g_assert_cmpuint(bound_to(&w, "v ram 0"), ==, there);
        world_done(&w);
}

static void random_event(struct world *w, GRand *rand, const uint64_t *leases, int *relocated)
{
        static const uint32_t nodes[] = {NODE0, NODE1};
        struct relocation m = {.to = nodes[g_rand_int_range(rand, 0, 2)]};
        struct err err = {0};
        uint64_t serial;
        const struct request *r;
        switch (g_rand_int_range(rand, 0, 12)) {
        case 0:
        case 1:
                r = hypervisor_request(w->h, leases[g_rand_int_range(rand, 0, 3)]);
                if (!r)
                        break;
                m.serial = r->serial;
                *relocated += hypervisor_vm_relocate(w->h, "v", &m, 1, "made to", w->now, &err) == 0;
                break;
        case 2:
                hypervisor_vm_relocate_back(w->h, "v", "it is not wanted", w->now);
                break;
        case 3:
                g_queue_clear_full(&w->work, g_free);
                reload(w);
                break;
        case 4:
                w->now += g_rand_int_range(rand, 0, 700);
                hypervisor_tick(w->h, w->now);
                break;
        case 5:
                (void)hypervisor_vm_check(w->h, "v", w->now, &serial, &err);
                break;
        case 6:
                w->disk_fails = g_rand_int_range(rand, 0, 4) == 0;
                if (g_rand_int_range(rand, 0, 8) == 0)
                        (void)hypervisor_release(w->h, "vm:v/b", "released", w->now, &serial, &err);
                break;
        case 7:
        case 8:
                if (work_part(w))
                        break;
                work_one(w, false);
                break;
        default:
                work_one(w, g_rand_int_range(rand, 0, 4) == 0);
        }
        turn(w);
}

/* Whatever happens, in the end nothing is on its way, each lies where the books say, and all comes back. */
static void test_any(void)
{
        guint32 seed = (guint32)g_test_rand_int_range(0, G_MAXINT32);
        GRand *rand = g_rand_new_with_seed(seed);
        int relocated = 0;
        g_test_message("seed %u", seed);
        for (int round = 0; round < 100; round++) {
                struct world w;
                uint32_t was, there;
                uint64_t serial;
                struct err err = {0};
                begin(&w, &was, &there);
                const uint64_t leases[] = {hypervisor_find(w.h, "vm:v")->serial,
                                           ask(&w, "a", "memory:256M", false, NULL),
                                           ask(&w, "b", "memory:128M", false, NULL)};
                work_all(&w);
                for (int i = 0; i < 80; i++)
                        random_event(&w, rand, leases, &relocated);
                w.disk_fails = false;
                for (int i = 0; i < 4; i++) { /* what failed, once more */
                        work_all(&w);
                        w.now += config.retry_max_ms;
                        hypervisor_tick(w.h, w.now);
                        turn(&w);
                }
                work_all(&w);
                uint16_t item;
                g_assert_cmpint(how(&w), ==, RELOCATING_NOTHING);
                g_assert_cmpuint(bound_to(&w, "v ram 0"), ==, base_ram(&w, &item)->component);
                g_assert_cmpint(hypervisor_release(w.h, "vm:v", "killed", w.now, &serial, &err), ==, 0);
                turn(&w);
                work_all(&w);
                g_assert_cmpuint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
                world_done(&w);
        }
        g_assert_cmpint(relocated, >, 100);
        g_rand_free(rand);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/relocate/moved", test_moved);
        g_test_add_func("/relocate/back", test_back);
        g_test_add_func("/relocate/in-parts", test_in_parts);
        g_test_add_func("/relocate/two-in-parts", test_two_in_parts);
        g_test_add_func("/relocate/parts-and-back", test_parts_and_back);
        g_test_add_func("/relocate/avoided", test_avoided);
        g_test_add_func("/relocate/worth-while", test_worth_while);
        g_test_add_func("/relocate/fails", test_fails);
        g_test_add_func("/relocate/no-room", test_no_room);
        g_test_add_func("/relocate/ends", test_ends);
        g_test_add_func("/relocate/refused", test_refused);
        g_test_add_func("/relocate/kept", test_kept);
        g_test_add_func("/relocate/any", test_any);
        return g_test_run();
}
