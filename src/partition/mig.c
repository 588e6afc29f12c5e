/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVIDIA MIG: GPU instances with their places, compute instances in them, and the mode, as the
 * driver's files below "mig/" (migdriver.h).
 *
 * A GPU has one record, of all instances that we made on it. Making more, or another layout, takes
 * its place. The driver keeps no owner of an instance; ours are those that the record names by
 * place and profile, all others are left alone.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "partition/attach.h"
#include "partition/passthrough.h"

#define CAPABILITIES "driver/nvidia/capabilities"

struct view {
        struct mig_driver driver;
        bool recorded;
        struct change record;
        bool ours[MIG_SLICES_MAX]; /* of driver.present */
};

static void view_done(struct view *view)
{
        change_done(&view->record);
}

static void file_of(char ret[static HOST_PATH_MAX], const char *address, unsigned start)
{
        snprintf(ret, HOST_PATH_MAX, MIG_FILES "%s/%u/instance", address, start);
}

static const char *profile_name(const struct mig_driver *driver, const struct mig_present *present)
{
        return driver->geometry.profiles[present->profile].name;
}

/* "slice 3", "slices 4 to 7" */
static void slices_text(char ret[static 32], const struct mig_profile *profile, unsigned start)
{
        if (profile->size == 1)
                snprintf(ret, 32, "slice %u", start);
        else
                snprintf(ret, 32, "slices %u to %u", start, start + profile->size - 1u);
}

static bool has_step(const struct change *change, const char *path, const char *value)
{
        for (size_t i = 0; i < change->n_steps; i++)
                if (strcmp(change->steps[i].path, path) == 0 &&
                        strcmp(change->steps[i].value, value) == 0)
                        return true;
        return false;
}

/* What there is, and which of it is ours. */
static int view_read(
        const struct host *host, const char *address, struct view *ret, struct cleave_error *error)
{
        char id[CHANGE_ID_MAX], path[HOST_PATH_MAX];
        int r;

        *ret = (struct view){0};
        r = mig_driver_read(host->mig, host->msec, address, &ret->driver, error);
        if (r < 0)
                return r;
        snprintf(id, sizeof(id), "mig-%s", address);
        r = change_load(host, id, &ret->record, NULL);
        if (r < 0 && r != -ENOENT)
                return error_set_errno(error, r, "cannot read the record of %s", id);
        ret->recorded = r == 0;
        for (unsigned i = 0; ret->recorded && i < ret->driver.n_present; i++) {
                file_of(path, address, ret->driver.present[i].start);
                ret->ours[i] = has_step(
                        &ret->record, path, profile_name(&ret->driver, ret->driver.present + i));
        }
        return 0;
}

/* ---- capability files ---- */

/* The driver has a node for each instance, numbered as a file in proc says. -1: not known. */
static int capability_minor(const struct host *host, const char *file)
{
        static const char label[] = "DeviceFileMinor:";
        _cleanup_free_ char *text = NULL;
        char path[HOST_PATH_MAX];
        const char *at;

        snprintf(path, sizeof(path), CAPABILITIES "/%s", file);
        if (host_read_proc(host, path, &text) < 0)
                return -1;
        at = strstr(text, label);
        return at ? atoi(at + strlen(label)) : -1;
}

static int instance_minor(const struct host *host, unsigned gpu, const struct mig_present *present)
{
        char file[96];

        snprintf(file, sizeof(file), "gpu%u/mig/gi%u/access", gpu, present->id);
        return capability_minor(host, file);
}

static int compute_minor(const struct host *host, unsigned gpu, const struct mig_present *present,
        const struct mig_compute *compute)
{
        char file[96];

        snprintf(file, sizeof(file), "gpu%u/mig/gi%u/ci%u/access", gpu, present->id, compute->id);
        return capability_minor(host, file);
}

static void capability_node(char ret[static 64], int minor)
{
        snprintf(ret, 64, "/dev/nvidia-caps/nvidia-cap%d", minor);
}

/* Who has an instance open: what the driver says, and who has one of its nodes. */
static int find_users(const struct host *host, const struct mig_driver *driver,
        const struct mig_present *present, char ret[static 160])
{
        char nodes[MIG_SLICES_MAX + 1][64], *names[MIG_SLICES_MAX + 1];
        struct host_names list = {.name = names};
        _cleanup_holders_ struct holders holders = {0};
        int minor = instance_minor(host, driver->minor, present), r;

        ret[0] = '\0';
        for (unsigned i = 0; i <= present->n_compute; i++) {
                if (i > 0)
                        minor = compute_minor(
                                host, driver->minor, present, present->compute + i - 1);
                if (minor < 0)
                        continue;
                capability_node(nodes[list.n], minor);
                names[list.n] = nodes[list.n];
                list.n++;
        }
        if (present->users) {
                snprintf(ret, 160, "process %u%s", present->pid,
                        present->users > 1 ? " and others" : "");
                return 1;
        }
        r = holders_of(host, &list, &holders);
        if (r < 0 || holders.n == 0)
                return r;
        snprintf(ret, 160, "process %d (%s) has %s open", (int)holders.list[0].pid,
                holders.list[0].command, holders.list[0].node);
        return 1;
}

/* ---- what can be done ---- */

static bool concerns(const struct host *host, const struct pci_function *f)
{
        struct mig_driver driver;

        if (f->vendor != PCI_VENDOR_NVIDIA || *f->physical)
                return false;
        return mig_geometry_of_pci(f->vendor, f->device) ||
               (strcmp(f->driver, "nvidia") == 0 && host->mig &&
                       mig_driver_read(host->mig, host->msec, f->address, &driver, NULL) == 0);
}

static void offers(
        const struct host *host, const struct pci_function *f, char ret[static HOST_TEXT_MAX])
{
        const struct mig_geometry *geometry = mig_geometry_of_pci(f->vendor, f->device);
        struct mig_driver driver;
        size_t used = 0;

        ret[0] = '\0';
        if (strcmp(f->driver, "nvidia") == 0 && host->mig &&
                mig_driver_read(host->mig, host->msec, f->address, &driver, NULL) == 0) {
                geometry = &driver.geometry;
                for (unsigned i = 0; i < driver.n_present && used < HOST_TEXT_MAX; i++)
                        used += (size_t)snprintf(ret + used, HOST_TEXT_MAX - used, "%s%s",
                                i ? ", " : "has ", profile_name(&driver, driver.present + i));
                if (used && used < HOST_TEXT_MAX)
                        used += (size_t)snprintf(ret + used, HOST_TEXT_MAX - used, "; of ");
        }
        for (unsigned i = 0; geometry && i < geometry->n_profiles && used < HOST_TEXT_MAX; i++)
                used += (size_t)snprintf(ret + used, HOST_TEXT_MAX - used, "%s%u x %s",
                        i ? ", " : "", geometry->profiles[i].most, geometry->profiles[i].name);
}

static int check(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct obstacles *obstacles)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct mig_driver driver;
        int r;

        if (!concerns(host, f)) {
                obstacles_add(obstacles, OBSTACLE_NOT_MIG, "%s cannot be cut by MIG", f->address);
                return 0;
        }
        if (strcmp(f->driver, "nvidia") != 0) {
                obstacles_add(
                        obstacles, OBSTACLE_NO_NVIDIA, "%s is not on NVIDIA's driver", f->address);
                return 0;
        }
        if (!host->mig)
                return 0; /* a copy of another machine's files: its driver cannot be asked */
        r = mig_driver_read(host->mig, host->msec, f->address, &driver, &error);
        if (r == -EOPNOTSUPP)
                obstacles_add(obstacles, OBSTACLE_NOT_MIG, "%s cannot be cut by MIG", f->address);
        else if (r < 0)
                obstacles_add(obstacles, OBSTACLE_NO_NVIDIA, "%s", error_message(&error));
        if (r < 0)
                return 0;
        if (driver.pending)
                obstacles_add(obstacles, OBSTACLE_MIG_PENDING,
                        "MIG mode of %s is %s until the GPU is reset", f->address,
                        driver.on ? "on" : "off");
        else if (!driver.on && !ask->turn_on)
                obstacles_add(obstacles, OBSTACLE_MIG_OFF, "MIG mode of %s is off", f->address);
        else if (!driver.on)
                return passthrough_check_use(host, f, 1, false, obstacles);
        if (driver.hidden)
                obstacles_add(obstacles, OBSTACLE_MIG_HIDDEN,
                        "the driver shows the instances of %s to root only", f->address);
        if (driver.on && capability_minor(host, "mig/config") < 0)
                obstacles_add(obstacles, OBSTACLE_NO_CAPABILITIES,
                        "%s/" CAPABILITIES
                        " is not there, so containers cannot be given instances of %s",
                        host->proc, f->address);
        return 0;
}

/* ---- planning ---- */

/* A step whose undo is the contrary, done while the file still reads as the step left it. */
static int add_step(struct change *change, const struct host *host, enum change_role role,
        const char *what, const char *path, const char *value, const char *before)
{
        struct change_step *step = change_add(change, host, what, path, value, NULL, NULL);

        if (!step)
                return -ENOMEM;
        step->role = role;
        free(step->before);
        step->before = strdup(before);
        return step->before ? change_add_undo(step, path, before, path, value) : -ENOMEM;
}

static int add_computes(struct change *change, const struct host *host, enum change_role role,
        const char *address, const struct mig_profile *profile, unsigned start, unsigned at,
        unsigned slices)
{
        char path[HOST_PATH_MAX], what[160], text[16];
        bool makes = role == CHANGE_MAKES;

        snprintf(path, sizeof(path), MIG_FILES "%s/%u/%u/compute", address, start, at);
        snprintf(text, sizeof(text), "%uc", slices);
        snprintf(what, sizeof(what), "%s compute instance of %u of %u slices %s the %s",
                makes ? "make a" : "destroy the", slices, profile->compute, makes ? "in" : "of",
                profile->name);
        return add_step(change, host, role, what, path, makes ? text : "", makes ? "" : text);
}

static int add_instance(struct change *change, const struct host *host, enum change_role role,
        const char *address, const struct mig_profile *profile, unsigned start)
{
        char path[HOST_PATH_MAX], what[160], place[32];
        bool makes = role == CHANGE_MAKES;

        file_of(path, address, start);
        slices_text(place, profile, start);
        snprintf(what, sizeof(what), "%s %s at %s of %s", makes ? "make a" : "destroy the",
                profile->name, place, address);
        return add_step(change, host, role, what, path, makes ? profile->name : "",
                makes ? "" : profile->name);
}

/* An instance with its compute instances: each of the same size. */
static int add_made(struct change *change, const struct host *host, const char *address,
        const struct mig_profile *profile, unsigned start, unsigned compute)
{
        unsigned slices = profile->compute / compute;
        int r;

        r = add_instance(change, host, CHANGE_MAKES, address, profile, start);
        for (unsigned i = 0; r == 0 && i < compute; i++)
                r = add_computes(
                        change, host, CHANGE_MAKES, address, profile, start, i * slices, slices);
        return r;
}

static int add_destroyed(struct change *change, const struct host *host, const char *address,
        const struct mig_driver *driver, const struct mig_present *present)
{
        const struct mig_profile *profile = driver->geometry.profiles + present->profile;
        int r = 0;

        for (unsigned i = 0; r == 0 && i < present->n_compute; i++)
                r = add_computes(change, host, CHANGE_CLEARS, address, profile, present->start,
                        present->compute[i].start, present->compute[i].slices);
        return r < 0 ? r
                     : add_instance(change, host, CHANGE_CLEARS, address, profile, present->start);
}

/* What the record has of the instance that begins at start; of the mode, where start is negative.
 */
static int keep_steps(
        struct change *change, const struct view *view, const char *address, int start)
{
        char prefix[64];
        int r = 0;

        if (start < 0)
                snprintf(prefix, sizeof(prefix), MIG_FILES "%s/mode", address);
        else
                snprintf(prefix, sizeof(prefix), MIG_FILES "%s/%d/", address, start);
        for (size_t i = 0; view->recorded && r == 0 && i < view->record.n_steps; i++)
                if (strncmp(view->record.steps[i].path, prefix, strlen(prefix)) == 0)
                        r = change_keep(change, view->record.steps + i);
        return r;
}

static void note_instance(struct change *change, const char *profile, unsigned start)
{
        json_t *list = json_object_get(change->geometry, "instances");

        if (!list) {
                list = json_array();
                json_object_set_new(change->geometry, "instances", list);
        }
        json_array_append_new(
                list, json_pack("{s:s,s:i}", "profile", profile, "start", (int)start));
}

static int add_mode(struct change *change, const struct host *host, const char *address)
{
        char path[HOST_PATH_MAX], what[96];

        snprintf(path, sizeof(path), MIG_FILES "%s/mode", address);
        snprintf(what, sizeof(what), "turn on MIG mode of %s", address);
        return add_step(change, host, CHANGE_MAKES, what, path, "on", "off");
}

/* Instances as the planner is told of them. Whose compute instances are not as we made them, or who
 * is used, stays. */
static int existing_of(const struct host *host, const struct view *view,
        struct mig_instance ret[static MIG_SLICES_MAX])
{
        for (unsigned i = 0; i < view->driver.n_present; i++) {
                const struct mig_present *present = view->driver.present + i;
                char users[160];
                int r = find_users(host, &view->driver, present, users);

                if (r < 0)
                        return r;
                ret[i] = (struct mig_instance){
                        .profile = present->profile,
                        .start = present->start,
                        .busy = r > 0,
                        .foreign = !view->ours[i],
                };
        }
        return 0;
}

static int no_layout(const struct view *view, const char *address, const struct technique_ask *ask,
        const struct mig_instance *existing, struct cleave_error *error)
{
        char there[HOST_TEXT_MAX] = "";
        size_t used = 0;

        for (unsigned i = 0; i < view->driver.n_present && used < sizeof(there); i++) {
                if (ask->replace && !existing[i].busy && !existing[i].foreign)
                        continue;
                used += (size_t)snprintf(there + used, sizeof(there) - used, "%s%s at %u (%s)",
                        used ? ", " : " beside ",
                        profile_name(&view->driver, view->driver.present + i),
                        view->driver.present[i].start,
                        existing[i].foreign ? "not made by Cleave"
                        : existing[i].busy  ? "in use"
                                            : "ours");
        }
        error_set(error, CLEAVE_REASON_BEYOND_DEVICE, "there is no layout of %s on %s%s", ask->want,
                address, there);
        error_set_hint(error, "%s",
                *there && !ask->replace
                        ? "`cleave partition change` may move idle instances of Cleave's."
                        : "`cleave partition layouts` shows what there can be.");
        return -ENOSPC;
}

static int plan_instances(const struct host *host, const char *address, const struct view *view,
        const struct technique_ask *ask, struct change *change, struct cleave_error *error)
{
        const struct mig_geometry *geometry = &view->driver.geometry;
        struct mig_instance existing[MIG_SLICES_MAX];
        struct mig_want wants[MIG_SLICES_MAX];
        struct mig_plan layout;
        int n, r;

        n = mig_wants_parse(geometry, ask->want, wants, error);
        if (n < 0)
                return n;
        r = existing_of(host, view, existing);
        if (r < 0)
                return r;
        if (mig_plan(geometry, existing, view->driver.n_present, wants, (size_t)n,
                    ask->replace ? MIG_REPLACE : MIG_ADD, &layout) < 0)
                return no_layout(view, address, ask, existing, error);
        r = keep_steps(change, view, address, -1);
        if (r == 0 && !view->driver.on)
                r = add_mode(change, host, address);
        for (unsigned i = 0; r == 0 && i < view->driver.n_present; i++) {
                const struct mig_present *present = view->driver.present + i;

                if (!view->ours[i])
                        continue;
                if (layout.destroy & 1u << i) {
                        r = add_destroyed(change, host, address, &view->driver, present);
                        continue;
                }
                r = keep_steps(change, view, address, present->start);
                note_instance(change, profile_name(&view->driver, present), present->start);
        }
        for (int i = 0; r == 0 && i < n; i++) {
                const struct mig_profile *profile = geometry->profiles + layout.place[i].profile;
                unsigned compute = ask->compute ?: 1;

                if (layout.place[i].existing >= 0)
                        continue;
                if (profile->compute % compute != 0)
                        return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                                "the %u compute slices of a %s are not to be cut into %u equal "
                                "instances",
                                profile->compute, profile->name, compute);
                r = add_made(change, host, address, profile, layout.place[i].start, compute);
                note_instance(change, profile->name, layout.place[i].start);
        }
        return r;
}

static int plan(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct change *change, struct cleave_error *error)
{
        _cleanup_(view_done) struct view view = {0};
        int r;

        if (!ask->want)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "say which instances to make (--want 3x10G,rest)");
        r = view_read(host, f->address, &view, error);
        if (r < 0)
                return r;
        if (view.recorded && view.record.phase != CHANGE_DONE) {
                error_set(
                        error, CLEAVE_REASON_BUSY, "a change of %s was cut short", view.record.id);
                error_set_hint(error, "Run `cleave partition reconcile` first.");
                return -EBUSY;
        }
        if (view.recorded) {
                change->previous = change_to_json(&view.record);
                if (!change->previous)
                        return -ENOMEM;
        }
        return plan_instances(host, f->address, &view, ask, change, error);
}

/* ---- taking it back ---- */

static int check_undo(
        const struct host *host, const struct change *change, struct obstacles *obstacles)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_(view_done) struct view view = {0};
        char path[HOST_PATH_MAX], users[160], place[32];
        struct pci_function f;
        bool turned_on;
        int r;

        r = view_read(host, change->device, &view, &error);
        if (r < 0) {
                obstacles_add(obstacles, OBSTACLE_NO_NVIDIA, "%s", error_message(&error));
                return 0;
        }
        snprintf(path, sizeof(path), MIG_FILES "%s/mode", change->device);
        turned_on = has_step(change, path, "on");
        if (turned_on && pci_read(host, change->device, &f) == 0 && f.functions > 0)
                obstacles_add(obstacles, OBSTACLE_HAS_FUNCTIONS,
                        "%s has %d virtual functions enabled, and MIG mode cannot be turned off "
                        "while it has",
                        change->device, f.functions);
        for (unsigned i = 0; i < view.driver.n_present; i++) {
                const struct mig_present *present = view.driver.present + i;
                const char *name = profile_name(&view.driver, present);

                slices_text(
                        place, view.driver.geometry.profiles + present->profile, present->start);
                if (!view.ours[i]) {
                        if (turned_on)
                                obstacles_add(obstacles, OBSTACLE_INSTANCE_OTHERS,
                                        "the %s at %s of %s is not Cleave's, and MIG mode cannot "
                                        "be turned off while it exists",
                                        name, place, change->device);
                        continue;
                }
                r = find_users(host, &view.driver, present, users);
                if (r < 0)
                        return r;
                if (r > 0)
                        obstacles_add(obstacles, OBSTACLE_INSTANCE_USED,
                                "the %s at %s of %s is in use: %s", name, place, change->device,
                                users);
                for (unsigned j = 0; j < present->n_compute; j++) {
                        snprintf(path, sizeof(path), MIG_FILES "%s/%u/%u/compute", change->device,
                                present->start, present->compute[j].start);
                        snprintf(users, sizeof(users), "%uc", present->compute[j].slices);
                        if (!has_step(change, path, users))
                                obstacles_add(obstacles, OBSTACLE_INSTANCE_OTHERS,
                                        "the %s at %s of %s has a compute instance that is not "
                                        "Cleave's",
                                        name, place, change->device);
                }
        }
        return 0;
}

/* ---- containers ---- */

static json_t *attach_compute(const struct host *host, const struct mig_driver *driver,
        const struct mig_present *present, const struct mig_compute *compute,
        struct cleave_error *error)
{
        int minors[] = {instance_minor(host, driver->minor, present),
                compute_minor(host, driver->minor, present, compute)};
        json_t *nodes = json_array(), *device;
        char text[128];

        snprintf(text, sizeof(text), "/dev/nvidia%u", driver->minor);
        json_array_append_new(nodes, json_string(text));
        json_array_append_new(nodes, json_string("/dev/nvidiactl"));
        json_array_append_new(nodes, json_string("/dev/nvidia-uvm"));
        for (size_t i = 0; i < ARRAY_SIZE(minors); i++) {
                if (minors[i] < 0) {
                        error_set(error, CLEAVE_REASON_NO_DRIVER,
                                "the driver has no capability file of the %s at slice %u in "
                                "%s/" CAPABILITIES,
                                profile_name(driver, present), present->start, host->proc);
                        error_set_hint(error,
                                "It is there once the instance is; in a container it may be "
                                "hidden.");
                        json_decref(nodes);
                        return NULL;
                }
                capability_node(text, minors[i]);
                json_array_append_new(nodes, json_string(text));
        }
        snprintf(text, sizeof(text), "CUDA_VISIBLE_DEVICES=%s", compute->uuid);
        device = json_pack("{s:s,s:o,s:[s],s:[],s:b,s:s,s:i}", "name", compute->uuid, "nodes",
                nodes, "env", text, "mounts", "libraries", true, "profile",
                profile_name(driver, present), "start", (int)present->start);
        return device;
}

static json_t *attach(
        const struct host *host, const struct change *change, struct cleave_error *error)
{
        _cleanup_(view_done) struct view view = {0};
        json_t *list;

        if (view_read(host, change->device, &view, error) < 0)
                return NULL;
        list = json_array();
        for (unsigned i = 0; i < view.driver.n_present; i++)
                for (unsigned j = 0; view.ours[i] && j < view.driver.present[i].n_compute; j++) {
                        json_t *device = attach_compute(host, &view.driver, view.driver.present + i,
                                view.driver.present[i].compute + j, error);

                        if (!device) {
                                json_decref(list);
                                return NULL;
                        }
                        json_array_append_new(list, device);
                }
        return list;
}

const struct technique technique_mig = {
        .name = "mig",
        .title = "MIG instances",
        .concerns = concerns,
        .offers = offers,
        .check = check,
        .plan = plan,
        .check_undo = check_undo,
        .attach = attach,
};
