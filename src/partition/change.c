/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/file.h"
#include "partition/change.h"

#define RECORD_SCHEMA "cleave.partition/1"
#define RECORD_MAX    (1u << 20)
#define SHOW_STEP     20 /* msec */

static const char *const phase_words[] = {
        [CHANGE_APPLYING] = "applying",
        [CHANGE_DONE] = "done",
        [CHANGE_UNDOING] = "undoing",
};

static const char *const role_words[] = {
        [CHANGE_MAKES] = "makes",
        [CHANGE_KEEPS] = "keeps",
        [CHANGE_CLEARS] = "clears",
};

const char *change_phase_word(enum change_phase phase)
{
        return phase_words[phase];
}

static void step_done(struct change_step *step)
{
        free(step->what);
        free(step->path);
        free(step->value);
        free(step->expect_path);
        free(step->expect_value);
        free(step->before);
        for (size_t j = 0; j < step->n_undo; j++) {
                free(step->undo[j].path);
                free(step->undo[j].value);
                free(step->undo[j].when_path);
                free(step->undo[j].when_value);
        }
}

void change_done(struct change *change)
{
        for (size_t i = 0; i < change->n_steps; i++)
                step_done(change->steps + i);
        free(change->steps);
        json_decref(change->geometry);
        json_decref(change->previous);
        *change = (struct change){0};
}

static void boot_id(const struct host *host, char ret[static 48])
{
        _cleanup_free_ char *text = NULL;

        ret[0] = '\0';
        if (host_read_proc(host, "sys/kernel/random/boot_id", &text) < 0)
                return;
        text[strcspn(text, "\n")] = '\0';
        snprintf(ret, 48, "%s", text);
}

int change_init(
        struct change *change, const struct host *host, const char *technique, const char *device)
{
        *change = (struct change){.geometry = json_object()};
        if (!change->geometry)
                return -ENOMEM;
        snprintf(change->technique, sizeof(change->technique), "%s", technique);
        snprintf(change->device, sizeof(change->device), "%s", device);
        snprintf(change->id, sizeof(change->id), "%s-%.38s", technique, device);
        boot_id(host, change->boot);
        return 0;
}

struct change_step *change_add(struct change *change, const struct host *host, const char *what,
        const char *path, const char *value, const char *expect_path, const char *expect_value)
{
        struct change_step *steps, *step;
        char before[HOST_TEXT_MAX];

        steps = realloc(change->steps, (change->n_steps + 1) * sizeof(*steps));
        if (!steps)
                return NULL;
        change->steps = steps;
        step = steps + change->n_steps++;
        host_state(host, expect_path ?: path, before);
        *step = (struct change_step){
                .what = strdup(what),
                .path = strdup(path),
                .value = strdup(value),
                .expect_path = strdup(expect_path ?: path),
                .expect_value = strdup(expect_path ? expect_value : value),
                .before = strdup(before),
        };
        if (!step->what || !step->path || !step->value || !step->expect_path ||
                !step->expect_value || !step->before)
                return NULL;
        return step;
}

int change_add_undo(struct change_step *step, const char *path, const char *value,
        const char *when_path, const char *when_value)
{
        struct change_undo *undo = step->undo + step->n_undo;

        if (step->n_undo == ARRAY_SIZE(step->undo))
                return -ENOMEM;
        *undo = (struct change_undo){
                .path = strdup(path),
                .value = strdup(value),
                .when_path = strdup(when_path),
                .when_value = strdup(when_value),
        };
        step->n_undo++;
        return undo->path && undo->value && undo->when_path && undo->when_value ? 0 : -ENOMEM;
}

int change_keep(struct change *change, const struct change_step *step)
{
        struct change_step *steps, *kept;
        int r = 0;

        steps = realloc(change->steps, (change->n_steps + 1) * sizeof(*steps));
        if (!steps)
                return -ENOMEM;
        change->steps = steps;
        kept = steps + change->n_steps++;
        *kept = (struct change_step){
                .role = CHANGE_KEEPS,
                .what = strdup(step->what),
                .path = strdup(step->path),
                .value = strdup(step->value),
                .expect_path = strdup(step->expect_path),
                .expect_value = strdup(step->expect_value),
                .before = strdup(step->before),
        };
        if (!kept->what || !kept->path || !kept->value || !kept->expect_path ||
                !kept->expect_value || !kept->before)
                return -ENOMEM;
        for (size_t i = 0; r == 0 && i < step->n_undo; i++)
                r = change_add_undo(kept, step->undo[i].path, step->undo[i].value,
                        step->undo[i].when_path, step->undo[i].when_value);
        return r;
}

/* Of a change that has come to its end: the steps that hold. */
json_t *change_to_json(const struct change *change)
{
        bool ended = change->phase == CHANGE_DONE;
        json_t *steps = json_array();
        json_t *whole;

        for (size_t i = 0; i < change->n_steps; i++) {
                const struct change_step *step = change->steps + i;
                json_t *undo;

                if (ended && step->role == CHANGE_CLEARS)
                        continue;
                undo = json_array();

                for (size_t j = 0; j < step->n_undo; j++)
                        json_array_append_new(undo,
                                json_pack("{s:s,s:s,s:s,s:s}", "path", step->undo[j].path, "value",
                                        step->undo[j].value, "when_path", step->undo[j].when_path,
                                        "when_value", step->undo[j].when_value));
                json_array_append_new(
                        steps, json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:o}", "role",
                                       role_words[ended ? CHANGE_MAKES : step->role], "what",
                                       step->what, "path", step->path, "value", step->value,
                                       "expect_path", step->expect_path, "expect_value",
                                       step->expect_value, "before", step->before, "undo", undo));
        }
        whole = json_pack("{s:s,s:s,s:s,s:s,s:s,s:O,s:o}", "id", change->id, "technique",
                change->technique, "device", change->device, "phase",
                change_phase_word(change->phase), "boot", change->boot, "geometry",
                change->geometry, "steps", steps);
        if (whole && change->previous && !ended)
                json_object_set(whole, "previous", change->previous);
        return whole;
}

static int change_from_json(const json_t *whole, struct change *ret)
{
        const char *id, *technique, *device, *phase, *boot;
        _cleanup_change_ struct change change = {0};
        json_t *steps, *geometry, *item;
        size_t i;

        if (json_unpack((json_t *)whole, "{s:s,s:s,s:s,s:s,s:s,s:o,s:o}", "id", &id, "technique",
                    &technique, "device", &device, "phase", &phase, "boot", &boot, "geometry",
                    &geometry, "steps", &steps) < 0)
                return -EBADMSG;
        change.geometry = json_incref(geometry);
        change.previous = json_incref(json_object_get(whole, "previous"));
        snprintf(change.id, sizeof(change.id), "%s", id);
        snprintf(change.technique, sizeof(change.technique), "%s", technique);
        snprintf(change.device, sizeof(change.device), "%s", device);
        snprintf(change.boot, sizeof(change.boot), "%s", boot);
        for (i = 0; i < ARRAY_SIZE(phase_words); i++)
                if (strcmp(phase_words[i], phase) == 0)
                        break;
        if (i == ARRAY_SIZE(phase_words))
                return -EBADMSG;
        change.phase = (enum change_phase)i;
        change.steps = calloc(json_array_size(steps) + 1, sizeof(*change.steps));
        if (!change.steps)
                return -ENOMEM;
        json_array_foreach(steps, i, item)
        {
                const char *what, *path, *value, *expect_path, *expect_value, *before;
                const char *role = role_words[CHANGE_MAKES]; /* there was no other at first */
                struct change_step *step = change.steps + i;
                json_t *undo, *one;
                size_t j;

                if (json_unpack(item, "{s?s,s:s,s:s,s:s,s:s,s:s,s:s,s:o}", "role", &role, "what",
                            &what, "path", &path, "value", &value, "expect_path", &expect_path,
                            "expect_value", &expect_value, "before", &before, "undo", &undo) < 0)
                        return -EBADMSG;
                change.n_steps++;
                while (step->role < CHANGE_CLEARS && strcmp(role, role_words[step->role]) != 0)
                        step->role++;
                if (strcmp(role, role_words[step->role]) != 0)
                        return -EBADMSG;
                step->what = strdup(what);
                step->path = strdup(path);
                step->value = strdup(value);
                step->expect_path = strdup(expect_path);
                step->expect_value = strdup(expect_value);
                step->before = strdup(before);
                if (!step->what || !step->path || !step->value || !step->expect_path ||
                        !step->expect_value || !step->before)
                        return -ENOMEM;
                json_array_foreach(undo, j, one)
                {
                        const char *when_path, *when_value;
                        int r;

                        if (json_unpack(one, "{s:s,s:s,s:s,s:s}", "path", &path, "value", &value,
                                    "when_path", &when_path, "when_value", &when_value) < 0)
                                return -EBADMSG;
                        r = change_add_undo(step, path, value, when_path, when_value);
                        if (r < 0)
                                return r;
                }
        }
        *ret = change;
        change = (struct change){0};
        return 0;
}

static char *record_path(const struct host *host, const char *id)
{
        char *path;

        return asprintf(&path, "%s/%s.json", host->state, id) < 0 ? NULL : path;
}

static int sync_directory(const char *path)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0 || fsync(fd) < 0)
                return -errno;
        return 0;
}

/* The record is on the disk, whole, before anything it speaks of is written. */
static int record_store(struct host *host, const char *id, json_t *json, struct cleave_error *error)
{
        _cleanup_free_ char *path = record_path(host, id), *temporary = NULL, *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (json)
                json_object_set_new(json, "schema", json_string(RECORD_SCHEMA));
        text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
        if (!path || !text || asprintf(&temporary, "%s/.new", host->state) < 0) {
                temporary = NULL;
                return error_set_errno(error, ENOMEM, "cannot record the change");
        }
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        r = fd < 0 ? -errno : write_all(fd, text, strlen(text));
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        host_point(host);
        if (r == 0 && rename(temporary, path) < 0)
                r = -errno;
        if (r == 0)
                r = sync_directory(host->state);
        host_point(host);
        if (r < 0)
                return error_set(error, CLEAVE_REASON_JOURNAL_FAILED,
                        "cannot record the change in %s: %s", host->state, strerror(-r));
        return 0;
}

static int record_write(struct host *host, struct change *change, enum change_phase phase,
        struct cleave_error *error)
{
        json_t *json;
        int r;

        change->phase = phase;
        json = change_to_json(change);
        r = record_store(host, change->id, json, error);
        json_decref(json);
        return r;
}

static int record_remove(struct host *host, const struct change *change)
{
        _cleanup_free_ char *path = record_path(host, change->id);

        if (!path)
                return -ENOMEM;
        host_point(host);
        if (unlink(path) < 0 && errno != ENOENT)
                return -errno;
        host_point(host);
        return sync_directory(host->state);
}

/* Nothing is left of it: the record that it took the place of holds again, or there is none. */
static int record_forget(struct host *host, const struct change *change)
{
        return change->previous ? record_store(host, change->id, change->previous, NULL)
                                : record_remove(host, change);
}

/* One change at a time on a machine. The lock goes with the process. */
static int state_lock(const struct host *host, int *ret_fd, struct cleave_error *error)
{
        _cleanup_free_ char *path = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (strcmp(host->state, HOST_STATE_DIR) == 0)
                mkdir("/var/lib/cleave", 0755);
        r = make_directory(host->state, 0700);
        if (r < 0)
                return error_set(error,
                        r == -EACCES || r == -EPERM ? CLEAVE_REASON_NOT_PERMITTED
                                                    : CLEAVE_REASON_JOURNAL_FAILED,
                        "cannot keep records in %s: %s", host->state, strerror(-r));
        path = path_join(host->state, "lock");
        if (!path)
                return error_set_errno(error, ENOMEM, "cannot lock %s", host->state);
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return error_set_errno(error, errno, "cannot lock %s", host->state);
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                error_set(error, CLEAVE_REASON_BUSY,
                        "another change of this machine's partitions is under way");
                error_set_hint(error, "Try again when it has ended.");
                return -EBUSY;
        }
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Of files that are NVIDIA's driver; before these rows stand those of one of them. */
#define ANY_OF_MIG MIG_FILES "*"

/* What the kernel means by an error of that file; the rest is told by strerror(). */
static const struct {
        const char *leaf;
        int number;
        const char *sentence, *hint;
} meanings[] = {
        {"unbind", ENODEV, "the driver has let the device go already", NULL},
        {"drivers_probe", EINVAL, "no driver took the device", "See dmesg."},
        {"sriov_numvfs", ENOENT, "no driver is bound to the device, so it makes no functions",
                "Give the device back to its driver first."},
        {"sriov_numvfs", ERANGE, "the device has not so many virtual functions",
                "sriov_totalvfs says how many it has."},
        {"sriov_numvfs", EBUSY, "virtual functions are enabled already",
                "They have to be removed before their number changes."},
        {"sriov_numvfs", ENOMEM, "the firmware has left no room for the functions' memory",
                "Enable SR-IOV and Above 4G Decoding in the firmware."},
        {"current_vgpu_type", EPERM, "the function has a vGPU already, or none to clear",
                "Clear it first."},
        {"current_vgpu_type", EIO, "this vGPU type cannot be created there now",
                "creatable_vgpu_types of the function lists those that can; it shrinks as the "
                "card fills."},
        {"current_vgpu_type", EINVAL, "this vGPU type cannot be created there now",
                "creatable_vgpu_types of the function lists those that can; it shrinks as the "
                "card fills."},
        {"create", EEXIST, "a mediated device of that UUID exists already", NULL},
        {"create", ENOSPC, "no more devices of that type can be created",
                "Types share the card: another type may have taken the room."},
        {"create", EINVAL, "the UUID is not one", NULL},
        {"current_compute_partition", EPERM, "the GPU is being reset", "Try again."},
        {"current_compute_partition", EBUSY, "processes use the GPU", "End them first."},
        {"current_compute_partition", EINVAL, "the GPU cannot be partitioned so",
                "available_compute_partition lists the modes."},
        {"current_memory_partition", EPERM, "the GPU is being reset", "Try again."},
        {"current_memory_partition", EBUSY, "processes use the GPU", "End them first."},
        {"exec_quantum_ms", EUCLEAN, "the tiles have different values", NULL},
        {"mode", EBUSY, "programs have the GPU open, or instances exist",
                "End them: also nvidia-persistenced, nv-hostengine, monitors and X hold a GPU."},
        {"mode", EUCLEAN, "it would only take effect with a reset of the GPU, so it is as it was",
                "nvidia-smi -i ADDRESS -mig 1, then nvidia-smi -i ADDRESS --gpu-reset, or restart "
                "the machine."},
        {"instance", EBUSY, "the instance is in use", "End the programs that use it."},
        {"instance", ENOSPC, "there is no room for it at that place",
                "`cleave partition layouts` shows which places there are."},
        {"instance", EOPNOTSUPP, "MIG mode is off", "Turn it on with --turn-on-mig."},
        {"compute", EBUSY, "the instance is in use", "End the programs that use it."},
        {"compute", ENOSPC, "there is no room for it at that place", NULL},
        {ANY_OF_MIG, EPERM, "the driver allows it to root only", "Run it as root."},
        {ANY_OF_MIG, EACCES, "the operating system or a cgroup keeps this process from the GPU",
                "Run it outside of containers, and look at the rights of /dev/nvidia*."},
        {ANY_OF_MIG, ENODEV, "the GPU has fallen off the bus", "Restart the machine."},
        {ANY_OF_MIG, EUCLEAN, "the GPU has to be reset first",
                "nvidia-smi -i ADDRESS --gpu-reset, or restart the machine."},
        {ANY_OF_MIG, EAGAIN, "the driver is not ready for it yet", "Try again."},
        {ANY_OF_MIG, ENOMEM, "the driver has no memory left for it",
                "End programs that use the GPU, and try again."},
        {ANY_OF_MIG, EPROTO, "the driver's library and its kernel module do not fit together",
                "After an update of the driver load its module anew, or restart the machine."},
        {ANY_OF_MIG, EBADFD, "the GPU is in a state in which the driver does not do it",
                "Look at `nvidia-smi -q` and dmesg; another program may be changing it."},
};

static int step_error(const struct change_step *step, int r, struct cleave_error *error)
{
        const char *leaf = strrchr(step->path, '/');

        if (r == -ETIMEDOUT) {
                error_set(error, CLEAVE_REASON_TIMEOUT,
                        "cannot %s: the kernel did not finish in time, so something has the device "
                        "open",
                        step->what);
                error_set_hint(error,
                        "The kernel goes on as soon as the holder lets go; then run `cleave "
                        "partition reconcile`.");
                return -ETIMEDOUT;
        }
        for (size_t i = 0; leaf && i < ARRAY_SIZE(meanings); i++)
                if (meanings[i].number == -r &&
                        (strcmp(leaf + 1, meanings[i].leaf) == 0 ||
                                (strcmp(meanings[i].leaf, ANY_OF_MIG) == 0 &&
                                        strncmp(step->path, MIG_FILES, strlen(MIG_FILES)) == 0))) {
                        error_set(error,
                                r == -EBUSY || r == -ENOSPC ? CLEAVE_REASON_BUSY
                                                            : CLEAVE_REASON_INTERNAL,
                                "cannot %s: %s", step->what, meanings[i].sentence);
                        error_set_hint(error, "%s", meanings[i].hint ?: "See dmesg.");
                        return r;
                }
        error_set_errno(error, r, "cannot %s (%s)", step->what, step->path);
        error_set_hint(error, "%s", r == -EACCES || r == -EPERM ? "Run it as root." : "See dmesg.");
        return r;
}

static bool shows(const struct host *host, const char *path, const char *value)
{
        char text[HOST_TEXT_MAX];

        return host_state(host, path, text) == 0 && strcmp(text, value) == 0;
}

static bool shows_soon(const struct host *host, const char *path, const char *value)
{
        const struct timespec step = {.tv_nsec = SHOW_STEP * 1000000};

        for (unsigned i = 0; i < host->show_msec / SHOW_STEP; i++) {
                if (shows(host, path, value))
                        return true;
                nanosleep(&step, NULL);
        }
        return shows(host, path, value);
}

static int step_apply(struct host *host, const struct change_step *step, struct cleave_error *error)
{
        char text[HOST_TEXT_MAX];
        int r;

        if (step->role == CHANGE_KEEPS || shows(host, step->expect_path, step->expect_value))
                return 0;
        host_point(host);
        r = host_write(host, step->path, step->value);
        host_point(host);
        if (r < 0)
                return step_error(step, r, error);
        if (shows_soon(host, step->expect_path, step->expect_value))
                return 0;
        host_state(host, step->expect_path, text);
        error_set(error, CLEAVE_REASON_INTERNAL,
                "cannot %s: the kernel took it, but %s says '%s' instead of '%s'", step->what,
                step->expect_path, text, step->expect_value);
        error_set_hint(error, "See dmesg.");
        return -EIO;
}

/* A change that did not come to its end gives back what it has cleared; one that did takes away all
 * that is there of it. */
static bool is_undone(const struct change *change, const struct change_step *step)
{
        return step->role != (change->phase == CHANGE_APPLYING ? CHANGE_KEEPS : CHANGE_CLEARS);
}

/* Where the machine cannot be looked at, nothing can be said of what is left of a change. */
static int check_readable(
        const struct host *host, const struct change *change, struct cleave_error *error)
{
        for (size_t i = 0; i < change->n_steps; i++)
                for (size_t j = 0; j < change->steps[i].n_undo; j++) {
                        const char *path = change->steps[i].undo[j].when_path;
                        char text[HOST_TEXT_MAX];
                        int r = host_state(host, path, text);

                        if (r < 0)
                                return error_set_errno(error, r, "cannot look at %s", path);
                }
        return 0;
}

/* Takes steps back, the last first. Goes on after a failure, except where the kernel does not
 * return: what follows would only wait as well. */
static int take_back(
        struct host *host, const struct change *change, size_t n_steps, struct cleave_error *error)
{
        int result = 0;

        for (size_t i = n_steps; i-- > 0;) {
                const struct change_step *step = change->steps + i;

                if (!is_undone(change, step))
                        continue;
                for (size_t j = 0; j < step->n_undo; j++) {
                        const struct change_undo *undo = step->undo + j;
                        int r;

                        if (!shows(host, undo->when_path, undo->when_value))
                                continue;
                        host_point(host);
                        r = host_write(host, undo->path, undo->value);
                        host_point(host);
                        if (r < 0 && result == 0)
                                result = r;
                        if (r == -ETIMEDOUT) {
                                error_set(error, CLEAVE_REASON_TIMEOUT,
                                        "cannot take back '%s': the kernel did not finish in time, "
                                        "so something has the device open",
                                        step->what);
                                error_set_hint(error,
                                        "When the holder has let go, run `cleave partition "
                                        "reconcile`.");
                                return r;
                        }
                        if (r < 0)
                                error_set_errno(error, r, "cannot take back '%s' (%s)", step->what,
                                        undo->path);
                }
        }
        return result;
}

/* All as found? What a later step changed again is looked at once, at its first mention. */
static int check_taken_back(const struct host *host, const struct change *change, size_t n_steps,
        struct cleave_error *error)
{
        for (size_t i = 0; i < n_steps; i++) {
                const struct change_step *step = change->steps + i;
                char text[HOST_TEXT_MAX];
                bool first = is_undone(change, step);

                for (size_t j = 0; j < i; j++)
                        first = first && strcmp(change->steps[j].expect_path, step->expect_path);
                if (step->n_undo == 0 || !first ||
                        shows_soon(host, step->expect_path, step->before))
                        continue;
                host_state(host, step->expect_path, text);
                error_set(error, CLEAVE_REASON_INTERNAL,
                        "took back '%s', but %s says '%s' and was '%s' before", step->what,
                        step->expect_path, text, step->before);
                error_set_hint(error, "See dmesg. Nothing more is left to take back.");
                return -EIO;
        }
        return 0;
}

/* In memory as in its record. */
static void settle(struct change *change)
{
        size_t n = 0;

        for (size_t i = 0; i < change->n_steps; i++) {
                struct change_step *step = change->steps + i;

                if (step->role == CHANGE_CLEARS) {
                        step_done(step);
                        continue;
                }
                step->role = CHANGE_MAKES;
                change->steps[n++] = *step;
        }
        change->n_steps = n;
        json_decref(change->previous);
        change->previous = NULL;
}

/* Whether the record on the disk is the one that was planned for: none, or the previous one. */
static int check_record(
        const struct host *host, const struct change *change, struct cleave_error *error)
{
        _cleanup_free_ char *path = record_path(host, change->id);
        json_t *there;
        bool same;

        if (!path)
                return error_set_errno(error, ENOMEM, "cannot look at the records");
        if (!change->previous && access(path, F_OK) == 0) {
                error_set(error, CLEAVE_REASON_NAME_TAKEN, "there is a partition %s already",
                        change->id);
                error_set_hint(error, "`cleave partition list` shows it.");
                return -EEXIST;
        }
        if (!change->previous)
                return 0;
        there = json_load_file(path, 0, NULL);
        json_object_del(there, "schema");
        same = there && json_equal(there, change->previous);
        json_decref(there);
        if (same)
                return 0;
        return error_set(error, CLEAVE_REASON_BUSY,
                "%s has been changed while this change was planned", change->id);
}

int change_apply(struct host *host, struct change *change, struct cleave_error *error)
{
        _cleanup_error_ struct cleave_error undo_error = CLEAVE_ERROR_NONE;
        _cleanup_close_ int lock = -EBADF;
        size_t i;
        int r, undone;

        for (i = 0; i < change->n_steps; i++)
                if (!host_may_write(change->steps[i].path))
                        return error_set(error, CLEAVE_REASON_INTERNAL,
                                "%s is not among the files that may be written",
                                change->steps[i].path);
        r = state_lock(host, &lock, error);
        if (r < 0)
                return r;
        r = check_record(host, change, error);
        if (r < 0)
                return r;
        r = record_write(host, change, CHANGE_APPLYING, error);
        if (r < 0)
                return r;
        for (i = 0; r == 0 && i < change->n_steps; i++)
                r = step_apply(host, change->steps + i, error);
        if (r == 0)
                r = record_write(host, change, CHANGE_DONE, error);
        if (r == 0) {
                settle(change);
                return 0;
        }
        change->phase = CHANGE_APPLYING;
        undone = r == -ETIMEDOUT ? r : take_back(host, change, i, &undo_error);
        if (undone == 0) {
                record_forget(host, change);
                return r;
        }
        if (undone != -ETIMEDOUT || r != -ETIMEDOUT) {
                char *first = strdup(error ? error_message(error) : "");

                error_set(error, CLEAVE_REASON_INTERNAL, "%s; then %s", first ?: "it failed",
                        error_message(&undo_error));
                error_set_hint(error, "`cleave partition reconcile` tries again.");
                free(first);
        }
        return r;
}

static int undo_locked(struct host *host, struct change *change, struct cleave_error *error)
{
        int r;

        r = check_readable(host, change, error);
        /* One that was cut short stays so in its record, as it is undone in another way. */
        if (r == 0 && change->phase != CHANGE_APPLYING)
                r = record_write(host, change, CHANGE_UNDOING, error);
        if (r < 0)
                return r;
        r = take_back(host, change, change->n_steps, error);
        if (r < 0)
                return r;
        r = check_taken_back(host, change, change->n_steps, error);
        if (change->phase == CHANGE_APPLYING)
                record_forget(host, change);
        else
                record_remove(host, change);
        return r;
}

int change_undo(struct host *host, struct change *change, struct cleave_error *error)
{
        _cleanup_close_ int lock = -EBADF;
        int r;

        r = state_lock(host, &lock, error);
        return r < 0 ? r : undo_locked(host, change, error);
}

enum change_standing change_standing(const struct host *host, const struct change *change)
{
        size_t stand = 0, n = 0;

        if (check_readable(host, change, NULL) < 0)
                return CHANGE_UNKNOWN;
        for (size_t i = 0; i < change->n_steps; i++) {
                bool last = change->steps[i].role != CHANGE_CLEARS;

                /* Of steps that speak of the same file only the last one can show. */
                for (size_t j = i + 1; j < change->n_steps; j++)
                        last = last && strcmp(change->steps[i].expect_path,
                                               change->steps[j].expect_path) != 0;
                if (!last)
                        continue;
                n++;
                stand += shows(host, change->steps[i].expect_path, change->steps[i].expect_value);
        }
        return stand == n ? CHANGE_STANDS : stand == 0 ? CHANGE_GONE : CHANGE_PARTLY;
}

static int load_file(const struct host *host, const char *name, struct change *ret)
{
        _cleanup_free_ char *path = path_join(host->state, name), *text = NULL;
        json_t *json;
        int r;

        if (!path)
                return -ENOMEM;
        r = read_file(path, RECORD_MAX, &text, NULL);
        if (r < 0)
                return r;
        json = json_loads(text, 0, NULL);
        r = json ? change_from_json(json, ret) : -EBADMSG;
        json_decref(json);
        return r;
}

static int compare_changes(const void *a, const void *b)
{
        return strcmp(((const struct change *)a)->id, ((const struct change *)b)->id);
}

int change_load_all(const struct host *host, struct change **ret, size_t *ret_n, size_t *ret_bad)
{
        _cleanup_closedir_ DIR *directory = opendir(host->state);
        struct change *changes = NULL;
        size_t n = 0, bad = 0;
        struct dirent *entry;

        if (!directory && errno != ENOENT)
                return -errno;
        while (directory && (entry = readdir(directory))) {
                const char *dot = strrchr(entry->d_name, '.');
                struct change *more;
                int r;

                if (entry->d_name[0] == '.' || !dot || strcmp(dot, ".json") != 0)
                        continue;
                more = realloc(changes, (n + 1) * sizeof(*more));
                if (!more) {
                        change_free_all(changes, n);
                        return -ENOMEM;
                }
                changes = more;
                r = load_file(host, entry->d_name, changes + n);
                if (r == 0)
                        n++;
                else
                        bad++;
        }
        if (n > 0)
                qsort(changes, n, sizeof(*changes), compare_changes);
        *ret = changes;
        *ret_n = n;
        if (ret_bad)
                *ret_bad = bad;
        return 0;
}

void change_free_all(struct change *changes, size_t n)
{
        for (size_t i = 0; i < n; i++)
                change_done(changes + i);
        free(changes);
}

int change_load(
        const struct host *host, const char *id, struct change *ret, struct cleave_error *error)
{
        char name[CHANGE_ID_MAX + 8];
        int r;

        if (strchr(id, '/') || strlen(id) >= CHANGE_ID_MAX)
                r = -ENOENT;
        else {
                snprintf(name, sizeof(name), "%s.json", id);
                r = load_file(host, name, ret);
        }
        if (r == -ENOENT) {
                error_set(
                        error, CLEAVE_REASON_NO_SUCH_DEVICE, "Cleave has made no partition %s", id);
                error_set_hint(error, "`cleave partition list` shows those it has made.");
                return r;
        }
        if (r < 0)
                return error_set_errno(
                        error, r, "cannot read the record of %s in %s", id, host->state);
        return 0;
}

/* MIG mode is the one thing here that outlives a restart of the machine, on Ampere. */
static bool may_outlive(const struct change_step *step)
{
        return strncmp(step->path, MIG_FILES, strlen(MIG_FILES)) == 0 &&
               strcmp(strrchr(step->path, '/'), "/mode") == 0;
}

/* After a restart of the machine: what has outlived it stays recorded, so that it can be taken
 * back; the rest is forgotten. What happened, in words; NULL, and *ret, where the record cannot be
 * written. */
static const char *forget_wiped(
        struct host *host, struct change *change, const char *boot, int *ret)
{
        size_t n = 0;

        for (size_t i = 0; i < change->n_steps; i++) {
                char text[HOST_TEXT_MAX];

                if (!may_outlive(change->steps + i))
                        continue;
                *ret = 0;
                if (host_state(host, change->steps[i].expect_path, text) < 0)
                        return "cannot be looked at now and is left as it is";
                n += strcmp(text, change->steps[i].expect_value) == 0;
        }
        if (n == 0) {
                *ret = record_remove(host, change);
                return "gone with the restart of the machine";
        }
        n = 0;
        for (size_t i = 0; i < change->n_steps; i++) {
                if (may_outlive(change->steps + i)) {
                        change->steps[i].role = CHANGE_MAKES;
                        change->steps[n++] = change->steps[i];
                } else
                        step_done(change->steps + i);
        }
        change->n_steps = n;
        json_object_del(change->geometry, "instances");
        json_decref(change->previous);
        change->previous = NULL;
        snprintf(change->boot, sizeof(change->boot), "%s", boot);
        *ret = record_write(host, change, CHANGE_DONE, NULL);
        return "gone with the restart of the machine, but MIG mode is still on: remove turns it "
               "off";
}

int change_reconcile(struct host *host,
        void (*each)(void *context, const struct change *change, const char *outcome,
                const struct cleave_error *error),
        void *context, struct cleave_error *error)
{
        _cleanup_close_ int lock = -EBADF;
        struct change *changes = NULL;
        char boot[48];
        size_t n = 0;
        int r, result = 0;

        r = state_lock(host, &lock, error);
        if (r < 0)
                return r;
        r = change_load_all(host, &changes, &n, NULL);
        if (r < 0)
                return error_set_errno(error, r, "cannot read the records in %s", host->state);
        boot_id(host, boot);
        for (size_t i = 0; i < n; i++) {
                _cleanup_error_ struct cleave_error one = CLEAVE_ERROR_NONE;
                const char *outcome = NULL;

                if (strcmp(changes[i].boot, boot) != 0) {
                        outcome = forget_wiped(host, changes + i, boot, &r);
                } else if (changes[i].phase != CHANGE_DONE) {
                        outcome = "was cut short and is taken back";
                        r = undo_locked(host, changes + i, &one);
                } else if (change_standing(host, changes + i) == CHANGE_GONE) {
                        outcome = "was undone by others";
                        r = record_remove(host, changes + i);
                } else {
                        enum change_standing standing = change_standing(host, changes + i);

                        if (standing == CHANGE_PARTLY)
                                outcome = "was changed by others and is left as it is";
                        else if (standing == CHANGE_UNKNOWN)
                                outcome = "cannot be looked at now and is left as it is";
                        r = 0;
                }
                if (r < 0) {
                        result = r;
                        error_set(error, one.code ?: CLEAVE_REASON_INTERNAL, "%s: %s",
                                changes[i].id, one.code ? error_message(&one) : strerror(-r));
                        if (error_hint(&one))
                                error_set_hint(error, "%s", error_hint(&one));
                }
                if (outcome && each)
                        each(context, changes + i, outcome, r < 0 ? &one : NULL);
        }
        change_free_all(changes, n);
        return result;
}

void change_print(FILE *out, const struct host *host, const struct change *change)
{
        for (size_t i = 0; i < change->n_steps; i++) {
                const struct change_step *step = change->steps + i;

                if (step->role == CHANGE_KEEPS)
                        fprintf(out, "%zu. leave: %s\n", i + 1, step->what);
                else if (strncmp(step->path, MIG_FILES, strlen(MIG_FILES)) == 0)
                        fprintf(out, "%zu. %s\n     by NVML: '%s' as %s\n", i + 1, step->what,
                                step->value, step->path + strlen(MIG_FILES));
                else
                        fprintf(out, "%zu. %s\n     write '%s' to %s/%s\n", i + 1, step->what,
                                step->value, host->sysfs, step->path);
        }
        if (change->n_steps == 0)
                fputs("Nothing has to be done.\n", out);
}
