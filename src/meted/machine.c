/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "json/read.h"
#include "meted/activate.h"
#include "meted/handover.h"
#include "meted/hhi.h"
#include "meted/moves.h"
#include "vm/copy.h"

struct machine *machine_find(struct meted *m, const char *name)
{
        for (guint i = 0; i < m->machines->len; i++) {
                struct machine *v = g_ptr_array_index(m->machines, i);
                if (strcmp(v->definition.name, name) == 0)
                        return v;
        }
        return NULL;
}

static void on_agent_retry(void *arg)
{
        guest_connect(arg);
}

static void on_adopt_retry(void *arg)
{
        struct machine *v = arg;
        const struct request *base = machine_base(v);
        if (base && base->state == REQUEST_GRANTED && !v->is_dead)
                activate_adopt(v);
        else if (base)
                activate_hurry(v->m, base); /* it goes: nothing waits for it to be adopted */
}

struct machine *machine_add(struct meted *m, const struct api_vm_definition *d, int uid_slot)
{
        struct machine *v = g_new0(struct machine, 1);
        v->m = m;
        v->definition = *d;
        v->uid_slot = uid_slot;
        v->epoch = 1;
        loop_timer_init(&v->agent_retry, on_agent_retry, v);
        loop_timer_init(&v->adopt_retry, on_adopt_retry, v);
        guint at = 0;
        while (at < m->machines->len &&
               strcmp(((struct machine *)g_ptr_array_index(m->machines, at))->definition.name, d->name) < 0)
                at++;
        g_ptr_array_insert(m->machines, (gint)at, v);
        return v;
}

void machine_detach(struct machine *v)
{
        loop_timer_cancel(&v->adopt_retry);
        activate_drop(v); /* first: what the others cancel is then nobody's any more */
        g_list_free_full(g_steal_pointer(&v->placings), g_free);
        guest_disconnect(v);
        handovers_vm_gone(v);
        vm_free(v->vm);
        v->vm = NULL;
}

void machine_remove(struct machine *v)
{
        machine_detach(v);
        hhi_forget(v);
        g_ptr_array_remove(v->m->machines, v);
        g_free(v);
}

int64_t machine_lane(const struct machine *v)
{
        return MACHINE_LANES + v->uid_slot;
}

int machine_free_uid_slot(const struct meted *m)
{
        for (int slot = 0;; slot++) {
                bool taken = false;
                for (guint i = 0; i < m->machines->len && !taken; i++)
                        taken = ((const struct machine *)g_ptr_array_index(m->machines, i))->uid_slot == slot;
                if (!taken)
                        return slot;
        }
}

void machine_shape(const struct machine *v, struct vm_shape *ret)
{
        const struct api_vm_definition *d = &v->definition;
        *ret = (struct vm_shape){
                .cpus = (int32_t)d->cpus,
                .cpus_max = (int32_t)d->cpus_max,
                .share_milli = (int32_t)d->share_milli,
                .memory_bytes = d->memory_bytes,
                .memory_max_bytes = d->memory_max_bytes,
                .page_bytes = d->has_page_bytes ? d->page_bytes : 0,
                .unit_bytes = d->unit_bytes,
                .memory_slots = (int32_t)d->dimm_slots,
                .net_bps = d->has_network ? d->net_rate_bps : 0,
                .net_max_bps = d->has_net_ceiling_bps ? d->net_ceiling_bps : 0,
                .disk_rate = d->has_disk_rate_bytes                  ? d->disk_rate_bytes
                             : d->has_disk && v->m->config.disk_rate ? v->m->config.disk_default
                                                                     : 0,
                .disk_max = d->has_disk_ceiling_bytes ? d->disk_ceiling_bytes : 0,
        };
        (void)snprintf(ret->name, sizeof(ret->name), "%s", d->name);
}

const struct request *machine_base(const struct machine *v)
{
        char key[REQUEST_KEY];
        (void)snprintf(key, sizeof(key), "vm:%s", v->definition.name);
        return hypervisor_find(v->m->hv, key);
}

void machine_seen(struct meted *m, const struct request *r, const struct checked *checked)
{
        struct machine *v = machine_find(m, r->vm);
        if (!v)
                return;
        v->seen.changed += checked->changed;
        v->seen.repaired += checked->repaired;
        v->seen.lasting += checked->lasting;
        v->seen.unknown += checked->unknown;
}

enum api_vm_state machine_state(const struct machine *v)
{
        const struct request *r = machine_base(v);
        if (!r || request_is_final(r))
                return API_VM_STATE_STOPPED;
        if (r->state == REQUEST_GRANTED)
                return API_VM_STATE_RUNNING;
        return r->state == REQUEST_RELEASING ? API_VM_STATE_STOPPING : API_VM_STATE_STARTING;
}

void machine_path(const struct machine *v, const char *what, char *ret, size_t size)
{
        (void)snprintf(ret, size, "%s/vm/%s%s%s", v->m->config.run_dir, v->definition.name, *what ? "/" : "",
                       what);
}

void machine_clear_dir(const struct meted *m, const char *name)
{
        static const char *const left[] = {"/qmp.sock",      "/oob.sock",        "/guard.sock",
                                           "/agent.sock",    "/console.sock",    "/console.log",
                                           "/console.log.1", "/guard-says.sock", "/" COPY_KEY_FILE};
        char path[512];
        for (size_t i = 0; i < ARRAY_N(left); i++) {
                (void)snprintf(path, sizeof(path), "%s/vm/%s%s", m->config.run_dir, name, left[i]);
                if (unlink(path) < 0 && errno != ENOENT)
                        log_warn("%s: %s", path, strerror(errno));
        }
        (void)snprintf(path, sizeof(path), "%s/vm/%s/" COPY_KEY_DIR, m->config.run_dir, name);
        (void)rmdir(path);
        (void)snprintf(path, sizeof(path), "%s/vm/%s", m->config.run_dir, name);
        if (rmdir(path) < 0 && errno != ENOENT)
                log_warn("%s: %s", path, strerror(errno)); /* what is not ours stays */
}

/* ---- the store's row: {"uid_slot": N, "definition": {...}} ---- */

char *machine_record(const struct machine *v)
{
        json_t *whole = json_pack("{s:i, s:I, s:o}", "uid_slot", v->uid_slot, "epoch", (json_int_t)v->epoch,
                                  "definition", api_vm_definition_emit(&v->definition));
        char *text = whole ? json_write(whole, NULL) : NULL;
        json_decref(whole);
        return text;
}

int machine_put(const struct machine *v, struct err *err)
{
        char *record = machine_record(v);
        int bad = record ? store_put_document(v->m->store, STORE_VM, v->definition.name, record, err)
                         : err_set(err, REASON_INTERNAL, ENOMEM, "no memory for its record");
        free(record);
        return bad;
}

int machine_load(const char *name, const char *record, void *meted, struct err *err)
{
        struct meted *m = meted;
        json_t *whole = json_read(record, strlen(record), err);
        if (!whole)
                return err_note(err, "the definition of VM %s", name);
        struct api_vm_definition d;
        int bad = api_vm_definition_parse(json_object_get(whole, "definition"), &d, err);
        if (!bad)
                bad = vm_definition_check(&d, err);
        json_int_t slot = json_integer_value(json_object_get(whole, "uid_slot"));
        const json_t *said = json_object_get(whole, "epoch"); /* of before there were moves: the first */
        json_int_t epoch = said ? json_integer_value(said) : 1;
        json_decref(whole);
        if (bad)
                return err_note(err, "the definition of VM %s", name);
        machine_add(m, &d, (int)slot)->epoch = (uint64_t)epoch;
        return 0;
}

bool machine_is_awaited(const struct machine *v)
{
        return v->pid && (!v->vm || v->attaching);
}

bool machine_is_arriving(const struct machine *v)
{
        return moves_is_arriving(v) || handovers_is_arriving(v);
}

bool machine_is_standing(const struct machine *v)
{
        return moves_is_standing(v) || handovers_is_standing(v);
}

void machine_note(struct machine *v, const char *trace, const char *event, const char *fmt, ...)
{
        char text[REQUEST_SENTENCE], subject[REQUEST_KEY];
        va_list ap;
        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, ap);
        va_end(ap);
        (void)snprintf(subject, sizeof(subject), "vm:%s", v->definition.name);
        hypervisor_note(v->m->hv, loop_now_ms(), trace, subject, event, "%s", text);
        meted_changed(v->m);
}

void machine_died(struct machine *v, const char *why)
{
        const struct request *base = machine_base(v);
        if (why != v->ended)
                (void)snprintf(v->ended, sizeof(v->ended), "%s", why);
        v->is_dead = true;
        guest_disconnect(v);
        if (!base || request_is_final(base) || base->state == REQUEST_RELEASING)
                return; /* it is on its way out already */
        uint64_t serial;
        struct err err = {0};
        machine_note(v, v->definition.name, "died", "%s", why);
        if (base->state == REQUEST_ACTIVATING) {
                (void)err_set(&err, REASON_INTERNAL, ECHILD, "its VMM ended: %.150s", why);
                hypervisor_failed(v->m->hv, base->serial, &err, loop_now_ms());
        } else {
                if (v->has_powered_down)
                        (void)hypervisor_vm_stopped(v->m->hv, v->definition.name, "its guest powered down",
                                                    loop_now_ms(), &serial, &err);
                else
                        (void)hypervisor_release(v->m->hv, base->key, "its VMM ended", loop_now_ms(), &serial,
                                                 &err);
        }
        meted_changed(v->m);
}
