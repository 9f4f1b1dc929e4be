/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/view.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "vm/pick.h"

int view_index(const char *id, const char *prefix, int n)
{
        size_t length = strlen(prefix);
        char again[32];
        if (strncmp(id, prefix, length) != 0 || strlen(id) >= sizeof(again))
                return -1;
        long i = strtol(id + length, NULL, 10);
        snprintf(again, sizeof(again), "%s%ld", prefix, i);
        return i >= 0 && i < n && strcmp(again, id) == 0 ? (int)i : -1;
}

/* The vCPU slot of an entry with props, -1 where it is not of the shape that we start VMMs with. */
static int slot_of(const struct view *view, const json_t *entry)
{
        const json_t *props = json_object_get(entry, "props");
        int64_t socket, core, thread;
        if (!pick_integer(props, "socket-id", 0, 0, &socket) ||
            !pick_integer(props, "thread-id", 0, 0, &thread) ||
            !pick_integer(props, "core-id", 0, view->definition->cpus_max - 1, &core))
                return -1;
        return (int)core;
}

static int see_hotpluggable(struct view *view, const json_t *list, struct err *err)
{
        size_t i;
        json_t *entry;
        json_array_foreach(list, i, entry)
        {
                int slot = slot_of(view, entry);
                if (slot < 0)
                        continue;
                json_t *props = json_object(), *value;
                const char *key;
                /* What goes back to the VMM has this form only. */
                json_object_foreach(json_object_get(entry, "props"), key, value)
                {
                        if (json_is_integer(value) && strlen(key) < 32)
                                json_object_set(props, key, value);
                }
                json_decref(view->cpu_props[slot]);
                view->cpu_props[slot] = props;
                pick_string(entry, "type", view->cpu_type, sizeof(view->cpu_type));
        }
        return 0;
}

static int see_cpus(struct view *view, const json_t *list, struct err *err)
{
        size_t i;
        json_t *entry;
        memset(view->cpus, 0, sizeof(view->cpus));
        json_array_foreach(list, i, entry)
        {
                int slot = slot_of(view, entry);
                int64_t tid;
                if (slot < 0 || !pick_integer(entry, "thread-id", 1, INT32_MAX, &tid))
                        continue;
                view->cpus[slot] = (struct vm_cpu){.plugged = true, .tid = (pid_t)tid};
        }
        return 0;
}

static int see_backends(struct view *view, const json_t *list, struct err *err)
{
        size_t i;
        json_t *entry;
        memset(view->dimms, 0, sizeof(view->dimms));
        json_array_foreach(list, i, entry)
        {
                int slot = view_index(pick_text(entry, "id"), "dimmmem", (int)view->definition->dimm_slots);
                int64_t bytes;
                if (slot < 0 || !pick_integer(entry, "size", 1, INT64_MAX, &bytes))
                        continue;
                view->dimms[slot].backed = true;
                view->dimms[slot].bytes = bytes;
        }
        return 0;
}

/* After see_backends(). */
static int see_devices(struct view *view, const json_t *list, struct err *err)
{
        size_t i;
        json_t *entry;
        json_array_foreach(list, i, entry)
        {
                const json_t *data = json_object_get(entry, "data");
                int slot = view_index(pick_text(data, "id"), "dimm", (int)view->definition->dimm_slots);
                int64_t address;
                if (slot < 0 || !pick_integer(data, "addr", 0, INT64_MAX, &address))
                        continue;
                view->dimms[slot].plugged = true;
                view->dimms[slot].address = (uint64_t)address;
        }
        return 0;
}

/* Limits of one direction are none of ours: where there are some, the disk is slower than we say. */
static int see_disks(struct view *view, const json_t *list, struct err *err)
{
        static const char *const others[] = {"bps_rd",      "bps_wr",      "iops_rd",    "iops_wr",
                                             "bps_max",     "bps_rd_max",  "bps_wr_max", "iops_max",
                                             "iops_rd_max", "iops_wr_max", "iops_size"};
        size_t i;
        json_t *entry;
        view->disk = (struct vm_disk){0};
        json_array_foreach(list, i, entry)
        {
                const json_t *in = json_object_get(entry, "inserted");
                if (strcmp(pick_text(entry, "qdev"), VIEW_DISK) != 0)
                        continue;
                view->disk.is_there = pick_integer(in, "bps", 0, INT64_MAX, &view->disk.bytes_per_s) &&
                                      pick_integer(in, "iops", 0, INT64_MAX, &view->disk.iops);
                for (size_t k = 0; k < ARRAY_N(others); k++) {
                        int64_t value = 0;
                        view->disk.has_others =
                                view->disk.has_others ||
                                (pick_integer(in, others[k], INT64_MIN, INT64_MAX, &value) && value != 0);
                }
        }
        return 0;
}

static const struct {
        const char *name;
        enum vm_run run;
} run_rows[] = {
        {"prelaunch",   VM_RUN_PRELAUNCH},
        {"running",     VM_RUN_RUNNING  },
        {"paused",      VM_RUN_PAUSED   },
        {"shutdown",    VM_RUN_SHUTDOWN },
        {"inmigrate",   VM_RUN_INCOMING },
        {"postmigrate", VM_RUN_MIGRATED },
};

static int see_run(struct view *view, const json_t *status, struct err *err)
{
        const char *name = pick_text(status, "status");
        view->run = VM_RUN_OTHER;
        for (size_t i = 0; i < ARRAY_N(run_rows); i++)
                if (strcmp(name, run_rows[i].name) == 0)
                        view->run = run_rows[i].run;
        return 0;
}

static int see_name(struct view *view, const json_t *ret, struct err *err)
{
        if (strcmp(pick_text(ret, "name"), view->definition->name) == 0)
                return 0;
        return err_set(err, REASON_INCOMPATIBLE, EINVAL, "VM %s: the VMM runs another VM, by its name",
                       view->definition->name);
}

static int see_uuid(struct view *view, const json_t *ret, struct err *err)
{
        if (strcmp(pick_text(ret, "UUID"), view->definition->uuid) == 0)
                return 0;
        return err_set(err, REASON_INCOMPATIBLE, EINVAL, "VM %s: the VMM runs another VM, by its UUID",
                       view->definition->name);
}

/* Backends before the devices that stand on them. */
const struct view_query view_queries[VIEW_QUERIES] = {
        {LOOK_IDENTITY, "query-name",              see_name,         false},
        {LOOK_IDENTITY, "query-uuid",              see_uuid,         false},
        {LOOK_RUN,      "query-status",            see_run,          false},
        {LOOK_CPUS,     "query-hotpluggable-cpus", see_hotpluggable, true },
        {LOOK_CPUS,     "query-cpus-fast",         see_cpus,         true },
        {LOOK_MEMORY,   "query-memdev",            see_backends,     true },
        {LOOK_MEMORY,   "query-memory-devices",    see_devices,      true },
        {LOOK_DISK,     "query-block",             see_disks,        true },
};

int view_take(struct view *view, size_t query, const json_t *ret, struct err *err)
{
        const struct view_query *q = &view_queries[query];
        if (q->list ? !json_is_array(ret) : !json_is_object(ret))
                return err_set(err, REASON_INTERNAL, EPROTO, "the VMM's answer to %s makes no sense",
                               q->command);
        return q->see(view, ret, err);
}

void view_done(struct view *view)
{
        for (size_t i = 0; i < ARRAY_N(view->cpu_props); i++) {
                json_decref(view->cpu_props[i]);
                view->cpu_props[i] = NULL;
        }
}
