/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Techniques on machines of plain files: every obstacle and its sentence; every technique applied,
 * taken back, and killed at each of its points; faults of the kernel; what others have changed.
 */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "partition/passthrough.h"
#include "partition/survey.h"
#include "partition/technique.h"
#include "tree.h"
#include "unit.h"

#define GPU   "0000:01:00.0"
#define AUDIO "0000:01:00.1"
#define DEV   "sys/bus/pci/devices/%s"

/* A card with a GPU and its audio function in a group of their own, on the host's drivers. */
static void setup_card(struct tree *tree)
{
        tree_init(tree);
        tree_file(tree, "", "sys/bus/pci/drivers/vfio-pci/new_id");
        tree_function(tree, "0000:00:01.0", NULL, 0x8086, 0x1901, 0x060400, 1, "pcieport");
        tree_function(tree, GPU, "0000:00:01.0", 0x10de, 0x2204, 0x030000, 12, "nvidia");
        tree_function(tree, AUDIO, "0000:00:01.0", 0x10de, 0x1aef, 0x040300, 12, "snd_hda_intel");
}

static void setup_console(struct tree *tree)
{
        setup_card(tree);
        tree_file(tree, "1\n", DEV "/boot_vga", GPU);
        tree_file(tree, "", DEV "/graphics/fb0/name", GPU);
        tree_file(tree, "(M) frame buffer device\n", "sys/class/vtconsole/vtcon1/name");
        tree_file(tree, "1\n", "sys/class/vtconsole/vtcon1/bind");
        tree_file(tree, "(S) dummy device\n", "sys/class/vtconsole/vtcon0/name");
        tree_file(tree, "0\n", "sys/class/vtconsole/vtcon0/bind");
}

static void put_firmware_display(struct tree *tree);
static void setup_firmware_display(struct tree *tree)
{
        setup_card(tree);
        put_firmware_display(tree);
        tree_file(tree, "", "sys/bus/platform/drivers/efi-framebuffer/bind");
        tree_file(tree, "", "sys/bus/platform/devices/efi-framebuffer.0/uevent");
        tree_link(tree, "../../drivers/efi-framebuffer",
                "sys/bus/platform/devices/efi-framebuffer.0/driver");
        tree_file(tree, "", "sys/bus/platform/devices/serial8250/uevent");
}

static void setup_variant(struct tree *tree)
{
        setup_card(tree);
        /* Someone's own override comes back. */
        tree_file(tree, "nvidia\n", DEV "/driver_override", GPU);
}

static void setup_functions(struct tree *tree)
{
        tree_init(tree);
        tree_function(tree, "0000:02:00.0", NULL, 0x1002, 0x7460, 0x120000, 20, "gim");
        tree_file(tree, "4\n", DEV "/sriov_totalvfs", "0000:02:00.0");
        tree_file(tree, "0\n", DEV "/sriov_numvfs", "0000:02:00.0");
        tree_file(tree, "1\n", DEV "/sriov_drivers_autoprobe", "0000:02:00.0");
}

static void setup_xe(struct tree *tree)
{
        setup_functions(tree);
        for (unsigned i = 1; i <= 4; i++) {
                static const char profile[] = DEV "/sriov_admin/vf%u/profile/%s";

                tree_file(tree, "0\n", profile, "0000:02:00.0", i, "exec_quantum_ms");
                tree_file(tree, "0\n", profile, "0000:02:00.0", i, "preempt_timeout_us");
                tree_file(tree, "0\n", profile, "0000:02:00.0", i, "vram_quota");
        }
}

static void setup_mediated(struct tree *tree)
{
        tree_init(tree);
        tree_function(tree, GPU, NULL, 0x10de, 0x20b7, 0x030200, 12, "nvidia");
        tree_file(tree, "GRID A30-6C\n",
                "sys/class/mdev_bus/%s/mdev_supported_types/nvidia-689/name", GPU);
        tree_file(tree, "4\n",
                "sys/class/mdev_bus/%s/mdev_supported_types/nvidia-689/available_instances", GPU);
        tree_file(tree, "", "sys/class/mdev_bus/%s/mdev_supported_types/nvidia-689/create", GPU);
        tree_file(tree, "0\n",
                "sys/class/mdev_bus/%s/mdev_supported_types/nvidia-690/available_instances", GPU);
        tree_file(tree, "", "sys/class/mdev_bus/%s/mdev_supported_types/nvidia-690/create", GPU);
        tree_file(tree, "GRID A30-12C\n",
                "sys/class/mdev_bus/%s/mdev_supported_types/nvidia-690/name", GPU);
}

/* Intel's GVT-g: the types have no other names. */
static void setup_gvt(struct tree *tree)
{
        static const char type[] = "sys/class/mdev_bus/%s/mdev_supported_types/i915-GVTg_V5_4/%s";

        tree_init(tree);
        tree_function(tree, "0000:00:02.0", NULL, 0x8086, 0x3e92, 0x030000, 1, "i915");
        tree_file(tree, "2\n", type, "0000:00:02.0", "available_instances");
        tree_file(tree, "", type, "0000:00:02.0", "create");
}

static void setup_vgpu(struct tree *tree)
{
        tree_init(tree);
        tree_function(tree, "0000:01:00.4", NULL, 0x10de, 0x2330, 0x030200, 13, "nvidia");
        tree_link(tree, "../" GPU, DEV "/physfn", "0000:01:00.4");
        tree_file(tree, "0\n", DEV "/nvidia/current_vgpu_type", "0000:01:00.4");
        tree_file(tree, "ID    : vGPU Name\n1132  : NVIDIA H100-4C\n1134  : NVIDIA H100-10C\n",
                DEV "/nvidia/creatable_vgpu_types", "0000:01:00.4");
}

static void setup_modes(struct tree *tree)
{
        tree_init(tree);
        tree_function(tree, GPU, NULL, 0x1002, 0x74a1, 0x120000, 12, "amdgpu");
        tree_file(tree, "SPX\n", DEV "/current_compute_partition", GPU);
        tree_file(tree, "SPX, DPX, QPX, CPX\n", DEV "/available_compute_partition", GPU);
        tree_file(tree, "NPS1\n", DEV "/current_memory_partition", GPU);
        tree_file(tree, "NPS1, NPS4\n", DEV "/available_memory_partition", GPU);
}

#define MIG "mig/" TREE_MIG_GPU

static void setup_mig(struct tree *tree)
{
        tree_init(tree);
        tree_mig(tree, "h100", true);
        /* Somebody else's, which no change of ours may touch. */
        tree_others(tree, MIG "/6/instance", "1g.10gb");
}

static void setup_mig_off(struct tree *tree)
{
        tree_init(tree);
        tree_mig(tree, "a30", false);
}

#define VGPU_FUNCTION "0000:1b:00.4"

/* A driver that answers, and vGPUs by both of its interfaces. */
static void setup_vgpu_host(struct tree *tree)
{
        static const char type[] = "sys/class/mdev_bus/%s/mdev_supported_types/nvidia-689/%s";

        setup_mig_off(tree);
        tree_function(tree, VGPU_FUNCTION, NULL, 0x10de, 0x20b7, 0x030200, 13, "nvidia");
        tree_link(tree, "../" TREE_MIG_GPU, DEV "/physfn", VGPU_FUNCTION);
        tree_file(tree, "0\n", DEV "/nvidia/current_vgpu_type", VGPU_FUNCTION);
        tree_file(tree, "ID    : vGPU Name\n1134  : NVIDIA H100-10C\n",
                DEV "/nvidia/creatable_vgpu_types", VGPU_FUNCTION);
        tree_file(tree, "GRID A30-6C\n", type, TREE_MIG_GPU, "name");
        tree_file(tree, "4\n", type, TREE_MIG_GPU, "available_instances");
        tree_file(tree, "", type, TREE_MIG_GPU, "create");
}

#define UUID "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"

/* Which obstacles were met in these tests, so that none is left out. */
static bool met[OBSTACLE_N_CODES];

static const struct obstacle *seen(const struct obstacles *obstacles, enum obstacle_code code)
{
        const struct obstacle *found = obstacles_find(obstacles, code);

        met[code] = met[code] || found;
        return found;
}

static const struct scenario {
        const char *what;
        void (*setup)(struct tree *tree);
        const struct technique *technique;
        const char *address;
        struct technique_ask ask;
        const char *path, *value; /* what it comes to */
        const char *leaf;         /* of the write that a fault hits */
} scenarios[] = {
        {"a card with audio", setup_card, &technique_passthrough, GPU, {0},
                "bus/pci/devices/" AUDIO "/driver", "vfio-pci", "drivers_probe"},
        {"a card with the console", setup_console, &technique_passthrough, GPU,
                {.allow_console_loss = true}, "class/vtconsole/vtcon1/bind", "0", "unbind"},
        {"a card with the firmware's display", setup_firmware_display, &technique_passthrough, GPU,
                {.allow_console_loss = true}, "bus/platform/devices/efi-framebuffer.0/driver", "",
                "drivers_probe"},
        {"a card with an override", setup_variant, &technique_passthrough, GPU, {0},
                "bus/pci/devices/" GPU "/driver_override", "vfio-pci", "drivers_probe"},
        {"virtual functions", setup_functions, &technique_sriov, "0000:02:00.0", {.count = 3},
                "bus/pci/devices/0000:02:00.0/sriov_numvfs", "3", "sriov_numvfs"},
        {"virtual functions of xe", setup_xe, &technique_sriov, "0000:02:00.0",
                {.count = 2, .quantum_msec = 20, .preempt_usec = 1000, .memory = 1ull << 30},
                "bus/pci/devices/0000:02:00.0/sriov_admin/vf2/profile/vram_quota", "1073741824",
                "sriov_numvfs"},
        {"a mediated device", setup_mediated, &technique_mediated, GPU,
                {.type = "A30-6C", .uuid = UUID}, "bus/mdev/devices/" UUID "/mdev_type",
                "nvidia-689", "create"},
        {"a vGPU", setup_vgpu, &technique_vgpu, "0000:01:00.4", {.type = "H100-10C"},
                "bus/pci/devices/0000:01:00.4/nvidia/current_vgpu_type", "1134",
                "current_vgpu_type"},
        {"partition modes", setup_modes, &technique_modes, GPU,
                {.type = "CPX", .memory_mode = "NPS4"},
                "bus/pci/devices/" GPU "/current_compute_partition", "CPX",
                "current_memory_partition"},
        {"MIG instances", setup_mig, &technique_mig, TREE_MIG_GPU, {.want = "4g.40gb,2x10G"},
                MIG "/0/instance", "4g.40gb", "instance"},
        {"MIG instances, the mode first", setup_mig_off, &technique_mig, TREE_MIG_GPU,
                {.want = "rest", .turn_on = true, .compute = 2}, MIG "/0/2/compute", "2c",
                "compute"},
        {"MIG mode", setup_mig_off, &technique_mig, TREE_MIG_GPU,
                {.want = "2g.12gb,rest", .turn_on = true}, MIG "/mode", "on", "mode"},
        {"a device of GVT-g", setup_gvt, &technique_mediated, "0000:00:02.0",
                {.type = "i915-GVTg_V5_4", .uuid = UUID}, "bus/mdev/devices/" UUID "/mdev_type",
                "i915-GVTg_V5_4", "create"},
};

static int apply(
        struct tree *tree, const struct scenario *s, char *ret_id, struct cleave_error *error)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        _cleanup_change_ struct change change = {0};
        int r;

        r = technique_apply(
                s->technique, &tree->host, s->address, &s->ask, &change, &obstacles, error);
        if (ret_id)
                snprintf(ret_id, CHANGE_ID_MAX, "%s", change.id);
        return r;
}

static int undo(struct tree *tree, const char *id, struct cleave_error *error)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};

        return technique_undo(&tree->host, id, &obstacles, error);
}

static void assert_as_before(struct tree *tree, const char *before, const char *what)
{
        _cleanup_free_ char *after = tree_snapshot(tree);

        if (strcmp(before, after) != 0)
                fail_msg("%s left traces:\n--- before\n%s\n--- after\n%s", what, before, after);
}

static void assert_no_records(struct tree *tree)
{
        struct change *changes;
        size_t n, bad;

        assert_int_equal(change_load_all(&tree->host, &changes, &n, &bad), 0);
        assert_int_equal(n + bad, 0);
        change_free_all(changes, n);
}

static void every_technique_is_applied_and_taken_back(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
                const struct scenario *s = scenarios + i;
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                _cleanup_free_ char *before = NULL;
                char id[CHANGE_ID_MAX];
                struct tree tree;

                s->setup(&tree);
                before = tree_snapshot(&tree);
                if (apply(&tree, s, id, &error) < 0)
                        fail_msg("%s: %s", s->what, error_message(&error));
                assert_string_equal(tree_state(&tree, "%s", s->path), s->value);
                /* A second time it is refused. */
                assert_true(apply(&tree, s, NULL, NULL) < 0);
                assert_string_equal(tree_state(&tree, "%s", s->path), s->value);
                assert_int_equal(change_reconcile(&tree.host, NULL, NULL, NULL), 0);
                assert_string_equal(tree_state(&tree, "%s", s->path), s->value);
                if (undo(&tree, id, &error) < 0)
                        fail_msg("%s: %s", s->what, error_message(&error));
                assert_as_before(&tree, before, s->what);
                assert_no_records(&tree);
                assert_int_equal(undo(&tree, id, NULL), -ENOENT);
                tree_done(&tree);
        }
}

static void a_plan_writes_nothing(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
                const struct scenario *s = scenarios + i;
                _cleanup_obstacles_ struct obstacles obstacles = {0};
                _cleanup_change_ struct change change = {0};
                _cleanup_free_ char *before = NULL;
                struct tree tree;

                s->setup(&tree);
                before = tree_snapshot(&tree);
                assert_int_equal(technique_plan(s->technique, &tree.host, s->address, &s->ask,
                                         &change, &obstacles, NULL),
                        0);
                assert_true(change.n_steps > 0);
                for (size_t j = 0; j < change.n_steps; j++)
                        assert_true(host_may_write(change.steps[j].path));
                assert_int_equal(tree.writes, 0);
                assert_as_before(&tree, before, s->what);
                assert_no_records(&tree);
                tree_done(&tree);
        }
}

/* Runs f in a child that is killed at its n-th point. Whether it was. */
static bool killed_at(struct tree *tree, const struct scenario *s, const char *id, unsigned n)
{
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                tree->points = 0;
                tree->crash_at = n;
                _exit((id ? undo(tree, id, NULL) : apply(tree, s, NULL, NULL)) == 0 ? 0 : 1);
        }
        assert_true(pid > 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status)) {
                assert_int_equal(status, 0);
                return false;
        }
        assert_int_equal(WTERMSIG(status), SIGKILL);
        return true;
}

/* Either the whole of it stands, recorded, or nothing is left. */
static bool reconciled(struct tree *tree, const struct scenario *s, const char *before)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct change *changes;
        size_t n, bad;
        bool stands;

        if (change_reconcile(&tree->host, NULL, NULL, &error) < 0)
                fail_msg("%s: %s", s->what, error_message(&error));
        assert_int_equal(change_load_all(&tree->host, &changes, &n, &bad), 0);
        assert_int_equal(bad, 0);
        assert_true(n <= 1);
        stands = n == 1;
        if (stands) {
                assert_int_equal(changes[0].phase, CHANGE_DONE);
                assert_int_equal(change_standing(&tree->host, changes), CHANGE_STANDS);
        } else
                assert_as_before(tree, before, s->what);
        change_free_all(changes, n);
        return stands;
}

static void killed_at_every_point_of_making_it(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
                const struct scenario *s = scenarios + i;
                unsigned n = 0;
                bool killed;

                do {
                        _cleanup_free_ char *before = NULL;
                        struct tree tree;

                        s->setup(&tree);
                        before = tree_snapshot(&tree);
                        killed = killed_at(&tree, s, NULL, ++n);
                        assert_true(reconciled(&tree, s, before) || killed);
                        tree_done(&tree);
                } while (killed);
                /* Two at each record, two at each write. */
                assert_true(n > 6);
        }
}

static void killed_at_every_point_of_taking_it_back(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
                const struct scenario *s = scenarios + i;
                unsigned n = 0;
                bool killed;

                do {
                        _cleanup_free_ char *before = NULL;
                        char id[CHANGE_ID_MAX];
                        struct tree tree;

                        s->setup(&tree);
                        before = tree_snapshot(&tree);
                        assert_int_equal(apply(&tree, s, id, NULL), 0);
                        killed = killed_at(&tree, s, id, ++n);
                        assert_true(!reconciled(&tree, s, before) || killed);
                        tree_done(&tree);
                } while (killed);
                assert_true(n > 6);
        }
}

static void a_write_that_fails_is_rolled_back(void **state)
{
        static const int errors[] = {-EIO, -EBUSY, -EPERM, -EINVAL, -ENOSPC, 0};

        for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++)
                for (size_t j = 0; j < ARRAY_SIZE(errors); j++) {
                        const struct scenario *s = scenarios + i;
                        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                        _cleanup_free_ char *before = NULL;
                        struct tree tree;

                        s->setup(&tree);
                        before = tree_snapshot(&tree);
                        tree.fault_leaf = s->leaf;
                        tree.fault_error = errors[j];
                        assert_true(apply(&tree, s, NULL, &error) < 0);
                        assert_true(error.code != CLEAVE_REASON_NONE);
                        assert_non_null(error_hint(&error));
                        if (errors[j] == 0)
                                assert_non_null(strstr(error_message(&error), "instead of"));
                        assert_as_before(&tree, before, s->what);
                        assert_no_records(&tree);
                        tree_done(&tree);
                }
}

/* What the kernel and NVIDIA's driver mean by a number, with what to do; all is as before. */
static void errors_of_the_kernel_have_their_sentences(void **state)
{
        enum { CARD, CONSOLE, FIRMWARE, OVERRIDE, VFS, XE, MDEV, VGPU, MODES, CUT, UNCUT, MODE };
        static const struct {
                unsigned scenario;
                const char *leaf;
                int error;
                const char *sentence, *hint;
        } cases[] = {
                {CARD, "unbind", -ENODEV, "the driver has let the device go already", NULL},
                {CARD, "drivers_probe", -EINVAL, "no driver took the device", "dmesg"},
                {CARD, "driver_override", -EACCES, "cannot keep " GPU " (display) for vfio-pci",
                        "Run it as root."},
                {VFS, "sriov_numvfs", -ENOENT, "no driver is bound to the device", "Give"},
                {VFS, "sriov_numvfs", -ERANGE, "has not so many virtual functions", "totalvfs"},
                {VFS, "sriov_numvfs", -EBUSY, "virtual functions are enabled already", "removed"},
                {VFS, "sriov_numvfs", -ENOMEM, "left no room for the functions' memory", "Above"},
                {XE, "exec_quantum_ms", -EUCLEAN, "the tiles have different values", "dmesg"},
                {MDEV, "create", -EEXIST, "a mediated device of that UUID exists already", NULL},
                {MDEV, "create", -ENOSPC, "no more devices of that type can be created", "share"},
                {MDEV, "create", -EINVAL, "the UUID is not one", NULL},
                {VGPU, "current_vgpu_type", -EPERM, "the function has a vGPU already", "Clear"},
                {VGPU, "current_vgpu_type", -EIO, "cannot be created there now", "creatable"},
                {VGPU, "current_vgpu_type", -EINVAL, "cannot be created there now", "creatable"},
                {MODES, "current_compute_partition", -EPERM, "the GPU is being reset", "again"},
                {MODES, "current_compute_partition", -EBUSY, "processes use the GPU", "End"},
                {MODES, "current_compute_partition", -EINVAL, "cannot be partitioned so", "lists"},
                {MODES, "current_memory_partition", -EPERM, "the GPU is being reset", "again"},
                {MODES, "current_memory_partition", -EBUSY, "processes use the GPU", "End"},
                {MODE, "mode", -EBUSY, "programs have the GPU open, or instances exist",
                        "nvidia-persistenced"},
                {MODE, "mode", -EUCLEAN, "only take effect with a reset", "--gpu-reset"},
                {MODE, "mode", -EPERM, "the driver allows it to root only", "root"},
                {CUT, "instance", -EBUSY, "the instance is in use", "End"},
                {CUT, "instance", -ENOSPC, "there is no room for it at that place", "layouts"},
                {CUT, "instance", -EPERM, "the driver allows it to root only", "root"},
                {CUT, "instance", -EOPNOTSUPP, "MIG mode is off", "--turn-on-mig"},
                {CUT, "instance", -ENODEV, "the GPU has fallen off the bus", "Restart"},
                {CUT, "instance", -EAGAIN, "the driver is not ready for it yet", "again"},
                {CUT, "instance", -EACCES, "a cgroup keeps this process from the GPU", "Run"},
                {CUT, "instance", -EUCLEAN, "the GPU has to be reset first", "--gpu-reset"},
                {CUT, "instance", -ENOMEM, "the driver has no memory left for it", "End"},
                {CUT, "instance", -EPROTO, "do not fit together", "update"},
                {CUT, "instance", -EBADFD, "in a state in which the driver does not", "dmesg"},
                {MODE, "mode", -ENODEV, "the GPU has fallen off the bus", "Restart"},
                {CUT, "compute", -EBUSY, "the instance is in use", "End"},
                {CUT, "compute", -ENOSPC, "there is no room for it at that place", "dmesg"},
                {CUT, "compute", -EPERM, "the driver allows it to root only", "root"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const struct scenario *s = scenarios + cases[i].scenario;
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                _cleanup_free_ char *before = NULL;
                struct tree tree;

                s->setup(&tree);
                before = tree_snapshot(&tree);
                tree.fault_leaf = cases[i].leaf;
                tree.fault_error = cases[i].error;
                assert_int_equal(apply(&tree, s, NULL, &error), cases[i].error);
                if (!strstr(error_message(&error), cases[i].sentence))
                        fail_msg("'%s' is not in '%s'", cases[i].sentence, error_message(&error));
                if (!strstr(error_hint(&error), cases[i].hint ?: "dmesg"))
                        fail_msg("'%s' is not in '%s'", cases[i].hint, error_hint(&error));
                assert_as_before(&tree, before, s->what);
                tree_done(&tree);
        }
}

/* Others have given a function values that one file cannot hold: reading it fails, as a directory
 * does. What could not be given back is not changed. */
static void values_that_cannot_be_read_are_not_overwritten(void **state)
{
        static const char profile[] = DEV "/sriov_admin/vf1/profile/exec_quantum_ms";
        const struct scenario *s = scenarios + 5;
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        struct tree tree;

        s->setup(&tree);
        tree_remove(&tree, profile, "0000:02:00.0");
        tree_file(&tree, "", DEV "/sriov_admin/vf1/profile/exec_quantum_ms/x", "0000:02:00.0");
        assert_int_equal(apply(&tree, s, NULL, &error), -EISDIR);
        assert_string_equal(error_message(&error),
                "cannot read what the functions of 0000:02:00.0 have now: Is a directory");
        assert_non_null(strstr(error_hint(&error), "tiles have different values"));
        assert_int_equal(tree.writes, 0);
        tree_done(&tree);

        /* And a driver that has no such files says so. */
        setup_functions(&tree);
        error_done(&error);
        assert_int_equal(apply(&tree, s, NULL, &error), -EINVAL);
        assert_string_equal(
                error_message(&error), "0000:02:00.0 takes no time or memory for its functions");
        assert_non_null(strstr(error_hint(&error), "Linux 6.19"));
        tree_done(&tree);
}

/* The kernel still has the request: nothing is written over it, and reconciling ends it. Of every
 * technique. */
static void a_write_that_does_not_return_is_left_to_reconcile(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
                const struct scenario *s = scenarios + i;
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                _cleanup_free_ char *before = NULL;
                unsigned writes;
                struct tree tree;

                s->setup(&tree);
                before = tree_snapshot(&tree);
                tree.fault_leaf = s->leaf;
                tree.fault_error = -ETIMEDOUT;
                assert_int_equal(apply(&tree, s, NULL, &error), -ETIMEDOUT);
                assert_int_equal(error.code, CLEAVE_REASON_TIMEOUT);
                assert_non_null(strstr(error_hint(&error), "reconcile"));
                /* That write was the last. */
                writes = tree.writes;
                assert_null(tree.fault_leaf);
                assert_false(reconciled(&tree, s, before));
                assert_true(tree.writes >= writes);
                tree_done(&tree);
        }
}

/* And taking back what was made: the record stays until it is done. */
static void an_undo_that_does_not_return_is_left_to_reconcile(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
                const struct scenario *s = scenarios + i;
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                _cleanup_free_ char *before = NULL;
                char id[CHANGE_ID_MAX];
                struct tree tree;

                s->setup(&tree);
                before = tree_snapshot(&tree);
                assert_int_equal(apply(&tree, s, id, NULL), 0);
                tree.fault_leaf = TREE_ANY_LEAF;
                tree.fault_error = -ETIMEDOUT;
                assert_int_equal(undo(&tree, id, &error), -ETIMEDOUT);
                assert_int_equal(error.code, CLEAVE_REASON_TIMEOUT);
                assert_false(reconciled(&tree, s, before));
                tree_done(&tree);
        }
}

#define OTHER_BOOT "ffffffff-0000-4000-8000-000000000002\n"
#define BOOT_ID    "proc/sys/kernel/random/boot_id"

/* The machine after its restart is a new one with the old one's records. */
static void restart(struct tree *tree, const struct scenario *s)
{
        struct tree before = *tree;
        char command[400];

        s->setup(tree);
        tree_file(tree, OTHER_BOOT, BOOT_ID);
        snprintf(command, sizeof(command), "rm -rf %s && cp -r %s %s", tree->state, before.state,
                tree->state);
        assert_int_equal(system(command), 0);
        tree_done(&before);
}

static void a_restart_wipes_all_away(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
                const struct scenario *s = scenarios + i;
                _cleanup_free_ char *before = NULL;
                struct tree tree;

                s->setup(&tree);
                assert_int_equal(apply(&tree, s, NULL, NULL), 0);
                restart(&tree, s);
                before = tree_snapshot(&tree);
                assert_int_equal(change_reconcile(&tree.host, NULL, NULL, NULL), 0);
                assert_no_records(&tree);
                assert_int_equal(tree.writes, 0);
                assert_as_before(&tree, before, s->what);
                tree_done(&tree);
        }
}

/* Ampere keeps MIG mode, which we have turned on: the record of it stays, and can be undone. */
static void a_mode_that_outlives_a_restart_is_still_ours(void **state)
{
        const struct scenario *s = scenarios + 11;
        _cleanup_change_ struct change change = {0};
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_mig_off(&tree);
        assert_int_equal(apply(&tree, s, id, NULL), 0);
        restart(&tree, s);
        tree_others(&tree, MIG "/mode", "on");
        tree_faults(&tree, "fail=9@nvmlInit_v2:1+");
        /* Nothing is forgotten that cannot be looked at. */
        assert_int_equal(change_reconcile(&tree.host, NULL, NULL, NULL), 0);
        tree_faults(&tree, "");
        assert_int_equal(change_reconcile(&tree.host, NULL, NULL, NULL), 0);
        assert_int_equal(change_load(&tree.host, id, &change, NULL), 0);
        assert_int_equal(change_standing(&tree.host, &change), CHANGE_STANDS);
        assert_int_equal(change.n_steps, 1);
        assert_int_equal(change_reconcile(&tree.host, NULL, NULL, NULL), 0);
        /* More may be made on it, as before. */
        assert_int_equal(apply(&tree,
                                 &(struct scenario){.technique = &technique_mig,
                                         .address = TREE_MIG_GPU,
                                         .ask = {.want = "1g.6gb"}},
                                 NULL, NULL),
                0);
        assert_int_equal(undo(&tree, id, NULL), 0);
        assert_string_equal(tree_state(&tree, MIG "/mode"), "off");
        assert_no_records(&tree);
        tree_done(&tree);
}

/* What others did meanwhile is theirs. */
static void what_others_changed_is_left_alone(void **state)
{
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_card(&tree);
        tree_file(&tree, "", "sys/bus/pci/drivers/nouveau/new_id");
        assert_int_equal(apply(&tree, scenarios, id, NULL), 0);
        /* Someone moves the GPU to nouveau by hand. */
        tree_file(&tree, "nouveau\n", DEV "/driver_override", GPU);
        tree_link(&tree, "../../../bus/pci/drivers/nouveau", DEV "/driver", GPU);
        assert_true(undo(&tree, id, NULL) < 0);
        assert_string_equal(tree_state(&tree, "bus/pci/devices/" GPU "/driver"), "nouveau");
        assert_string_equal(
                tree_state(&tree, "bus/pci/devices/" GPU "/driver_override"), "nouveau");
        assert_string_equal(tree_state(&tree, "bus/pci/devices/" AUDIO "/driver"), "snd_hda_intel");
        assert_no_records(&tree);
        tree_done(&tree);
}

/* --- obstacles --- */

static void put_iommu_off(struct tree *tree)
{
        tree_remove(tree, "sys/class/iommu");
}
static void put_no_group(struct tree *tree)
{
        tree_remove(tree, DEV "/iommu_group", GPU);
}
static void put_no_remapping(struct tree *tree)
{
        tree_file(tree, "           CPU0\n  1:  9  IO-APIC  1-edge i8042\n", "proc/interrupts");
}
static void put_unsafe(struct tree *tree)
{
        tree_file(tree, "Y\n", "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
}
static void put_neighbour(struct tree *tree)
{
        tree_function(tree, "0000:02:00.0", NULL, 0x144d, 0xa808, 0x010802, 12, "nvme");
}
static void put_no_acs(struct tree *tree)
{
        uint8_t config[4096] = {[0x06] = 0x10, [0x34] = 0x40, [0x40] = 0x10, [0x42] = 0x42};
        char path[160];

        put_neighbour(tree);
        tree_file(tree, "", "sys/bus/pci/devices/0000:00:01.0/config");
        snprintf(path, sizeof(path), "%s/bus/pci/devices/0000:00:01.0/config", tree->sysfs);
        assert_int_equal(write_file_atomic(path, config, sizeof(config), 0644), 0);
}
static void put_acs_override(struct tree *tree)
{
        tree_file(tree, "quiet pcie_acs_override=downstream\n", "proc/cmdline");
}
static void put_holder(struct tree *tree)
{
        tree_file(tree, "Model: X\nDevice Minor: \t 3\n",
                "proc/driver/nvidia/gpus/" GPU "/information");
        tree_process(tree, 4711, "python3", "/dev/nvidia3");
}
static void put_drm_holder(struct tree *tree)
{
        tree_file(tree, "", DEV "/drm/renderD128/dev", GPU);
        tree_process(tree, 99, "Xorg", "/dev/dri/renderD128");
}
static void put_functions(struct tree *tree)
{
        tree_file(tree, "2\n", DEV "/sriov_numvfs", GPU);
}
static void put_mediated(struct tree *tree)
{
        tree_file(tree, "", "sys/class/mdev_bus/" GPU "/" UUID "/remove");
}
static void put_console(struct tree *tree)
{
        tree_file(tree, "", DEV "/graphics/fb0/name", GPU);
        tree_file(tree, "(M) frame buffer device\n", "sys/class/vtconsole/vtcon1/name");
        tree_file(tree, "1\n", "sys/class/vtconsole/vtcon1/bind");
}
/* As a kernel shows it to others than root: order and depth tell. */
static void put_firmware_display(struct tree *tree)
{
        tree_file(tree,
                "00000000-00000000 : PCI Bus 0000:00\n"
                "  00000000-00000000 : PCI Bus 0000:01\n"
                "    00000000-00000000 : " AUDIO "\n"
                "    00000000-00000000 : " GPU "\n"
                "      00000000-00000000 : BOOTFB\n",
                "proc/iomem");
}
static void put_boot_display(struct tree *tree)
{
        tree_file(tree, "1\n", DEV "/boot_vga", GPU);
}
static void put_no_reset(struct tree *tree)
{
        tree_remove(tree, DEV "/reset", GPU);
}
static void put_no_vfio(struct tree *tree)
{
        static char modules[96];

        tree_remove(tree, "sys/bus/pci/drivers/vfio-pci");
        tree_file(tree, "kernel/x.ko:\n", "lib/6.1.0-test/modules.dep");
        snprintf(modules, sizeof(modules), "%s/lib", tree->root);
        tree->host.modules = modules;
}
static void put_no_addresses(struct tree *tree)
{
        tree_file(tree,
                "0x00000000f0000000 0x00000000f0ffffff 0x0000000000040200\n"
                "0x0000000000000000 0x00000003ffffffff 0x000000002014220c\n",
                DEV "/resource", GPU);
}
static void put_slow_link(struct tree *tree)
{
        tree_file(tree, "2.5 GT/s PCIe\n", DEV "/current_link_speed", GPU);
        tree_file(tree, "32.0 GT/s PCIe\n", DEV "/max_link_speed", GPU);
        tree_file(tree, "8\n", DEV "/current_link_width", GPU);
        tree_file(tree, "16\n", DEV "/max_link_width", GPU);
}
static void put_asleep(struct tree *tree)
{
        tree_file(tree, "D3cold\n", DEV "/power_state", GPU);
}
static void put_apparmor(struct tree *tree)
{
        tree_file(tree, "Y\n", "sys/module/apparmor/parameters/enabled");
        tree_file(tree,
                "man_filter (enforce)\nqemu-bridge (complain)\n/usr/sbin/libvirtd (enforce)\n",
                "sys/kernel/security/apparmor/profiles");
}
static void put_on_vfio(struct tree *tree)
{
        tree_link(tree, "../../../bus/pci/drivers/vfio-pci", DEV "/driver", GPU);
}
static void put_vfio_holder(struct tree *tree)
{
        put_on_vfio(tree);
        tree_process(tree, 4712, "qemu-system-x86", "/dev/vfio/12");
}
static void put_no_driver(struct tree *tree)
{
        tree_remove(tree, DEV "/driver", "0000:02:00.0");
}
static void put_pf_on_vfio(struct tree *tree)
{
        tree_link(tree, "../../../bus/pci/drivers/vfio-pci", DEV "/driver", "0000:02:00.0");
}
static void put_functions_on(struct tree *tree)
{
        tree_file(tree, "3\n", DEV "/sriov_numvfs", "0000:02:00.0");
}
static void put_nvidia_pf(struct tree *tree)
{
        tree_file(tree, "0x10de\n", DEV "/vendor", "0000:02:00.0");
        tree_link(tree, "../../../bus/pci/drivers/nvidia", DEV "/driver", "0000:02:00.0");
}
static void put_nothing(struct tree *tree)
{
}
static void put_pf_captures(struct tree *tree)
{
        put_pf_on_vfio(tree);
        tree_file(tree, "Y\n", "sys/module/vfio_pci/parameters/enable_sriov");
}
static void put_amdgpu(struct tree *tree)
{
        tree_link(tree, "../../../bus/pci/drivers/amdgpu", DEV "/driver", "0000:02:00.0");
}
static void put_vgpu_function(struct tree *tree)
{
        tree_file(tree, "0\n", DEV "/nvidia/current_vgpu_type", GPU);
}
static void put_vgpu_made(struct tree *tree)
{
        tree_file(tree, "1134\n", DEV "/nvidia/current_vgpu_type", GPU);
}
static void put_intel(struct tree *tree)
{
        tree_file(tree, "0x8086\n", DEV "/vendor", GPU);
}
static void put_fixed_mode(struct tree *tree)
{
        char path[160];

        snprintf(path, sizeof(path), "%s/bus/pci/devices/" GPU "/current_compute_partition",
                tree->sysfs);
        assert_int_equal(chmod(path, 0444), 0);
}
/* It makes virtual functions as well, as a vGPU host's does. */
static void put_mig_pf(struct tree *tree)
{
        tree_file(tree, "16\n", DEV "/sriov_totalvfs", TREE_MIG_GPU);
        tree_file(tree, "0\n", DEV "/sriov_numvfs", TREE_MIG_GPU);
}
/* A display by USB-C, linked as what the GPU supplies. */
static void put_consumer(struct tree *tree)
{
        tree_function(tree, "0000:03:00.0", NULL, 0x10de, 0x1ad8, 0x0c0330, 13, "xhci_hcd");
        tree_link(tree, "../../virtual/devlink/x", DEV "/consumer:pci:0000:03:00.0", GPU);
        tree_file(tree, "", DEV "/drm/renderD128/dev", "0000:03:00.0");
        tree_process(tree, 98, "Xorg", "/dev/dri/renderD128");
}
static void put_vgpu(struct tree *tree)
{
        tree_file(tree, "1134\n", DEV "/nvidia/current_vgpu_type", "0000:01:00.4");
}
static void put_vgpu_full(struct tree *tree)
{
        tree_file(tree, "ID    : vGPU Name\n", DEV "/nvidia/creatable_vgpu_types", "0000:01:00.4");
}
static void put_vgpu_on_vfio(struct tree *tree)
{
        tree_link(tree, "../../../bus/pci/drivers/vfio-pci", DEV "/driver", "0000:01:00.4");
}
static void put_kfd_holder(struct tree *tree)
{
        tree_file(tree, "", DEV "/drm/renderD129/dev", GPU);
        tree_process(tree, 77, "rocm", "/dev/dri/renderD129");
}

static void put_mode_pending(struct tree *tree)
{
        tree_mode_pending(tree, 1);
}
static void put_hidden(struct tree *tree)
{
        tree_faults(tree, "fail=4@nvmlDeviceGetGpuInstances:1+");
}
static void put_ecc(struct tree *tree)
{
        tree_faults(tree, "vgpu=ecc");
}
static void put_nouveau(struct tree *tree)
{
        tree_link(tree, "../../../bus/pci/drivers/nouveau", DEV "/driver", TREE_MIG_GPU);
}
static void put_no_answer(struct tree *tree)
{
        tree_faults(tree, "fail=9@nvmlInit_v2:1+");
}
static void put_no_capabilities(struct tree *tree)
{
        tree_remove(tree, "proc/driver/nvidia/capabilities");
}
static void put_mode_holder(struct tree *tree)
{
        tree_file(tree, "Model: A30\nDevice Minor: \t 0\n",
                "proc/driver/nvidia/gpus/" TREE_MIG_GPU "/information");
        tree_process(tree, 4712, "nvidia-persiste", "/dev/nvidia0");
}

static const struct scenario not_a_gpu = {
        .setup = setup_card, .technique = &technique_passthrough, .address = AUDIO};
static const struct scenario no_mediated = {
        .setup = setup_modes, .technique = &technique_mediated, .address = GPU};
static const struct scenario no_mediated_nvidia = {
        .setup = setup_card, .technique = &technique_mediated, .address = GPU};
static const struct scenario no_vgpu = {
        .setup = setup_card, .technique = &technique_vgpu, .address = GPU};
static const struct scenario no_modes = {
        .setup = setup_card, .technique = &technique_modes, .address = GPU};
static const struct scenario card_of_old = {
        .setup = setup_card, .technique = &technique_mig, .address = GPU};
static const struct scenario vgpu_of_mig = {
        .setup = setup_vgpu_host, .technique = &technique_vgpu, .address = VGPU_FUNCTION};
static const struct scenario mediated_of_mig = {
        .setup = setup_vgpu_host, .technique = &technique_mediated, .address = TREE_MIG_GPU};
static const struct scenario functions_beside = {
        .setup = setup_mig, .technique = &technique_sriov, .address = TREE_MIG_GPU};
static const struct scenario instances_there = {
        .setup = setup_mig, .technique = &technique_passthrough, .address = TREE_MIG_GPU};

static const struct {
        const struct scenario *scenario;
        void (*put)(struct tree *tree);
        struct technique_ask ask;
        enum obstacle_code code;
        const char *sentence;
} obstacle_cases[] = {
#define CARD  (scenarios + 0)
#define VFS   (scenarios + 4)
#define XE    (scenarios + 5)
#define MDEV  (scenarios + 6)
#define VGPU  (scenarios + 7)
#define MODES (scenarios + 8)
#define CUT   (scenarios + 9)
#define UNCUT (scenarios + 10)
        {CARD, put_iommu_off, {0}, OBSTACLE_NO_IOMMU,
                "the IOMMU is off: /sys/class/iommu is empty"},
        {CARD, put_no_group, {0}, OBSTACLE_NO_GROUP,
                "the IOMMU is on, but 0000:01:00.0 is in no IOMMU group"},
        {CARD, put_no_remapping, {0}, OBSTACLE_NO_REMAPPING,
                "interrupts are not remapped, so a VM could send any of them"},
        {CARD, put_unsafe, {0}, OBSTACLE_UNSAFE_INTERRUPTS,
                "allow_unsafe_interrupts is on: a VM may send interrupts to the host"},
        {CARD, put_neighbour, {0}, OBSTACLE_GROUP_SHARED,
                "IOMMU group 12 also holds 0000:02:00.0 (NVMe), which the host's driver nvme has"},
        {CARD, put_no_acs, {0}, OBSTACLE_NO_ACS,
                "port 0000:00:01.0 above it has no ACS, which is why the group is so large"},
        {CARD, put_acs_override, {0}, OBSTACLE_ACS_OVERRIDE,
                "pcie_acs_override is on the kernel's command line: groups look smaller than the "
                "hardware isolates"},
        {CARD, put_holder, {0}, OBSTACLE_HELD,
                "0000:01:00.0 is in use: process 4711 (python3) has /dev/nvidia3 open"},
        {CARD, put_drm_holder, {0}, OBSTACLE_HELD,
                "0000:01:00.0 is in use: process 99 (Xorg) has /dev/dri/renderD128 open"},
        {CARD, put_vfio_holder, {0}, OBSTACLE_HELD,
                "0000:01:00.0 is in use: process 4712 (qemu-system-x86) has /dev/vfio/12 open"},
        {CARD, put_functions, {0}, OBSTACLE_HAS_FUNCTIONS,
                "0000:01:00.0 has 2 virtual functions enabled"},
        {CARD, put_mediated, {0}, OBSTACLE_HAS_MEDIATED,
                "0000:01:00.0 has the mediated device " UUID},
        {CARD, put_console, {0}, OBSTACLE_CONSOLE,
                "the text console is drawn on 0000:01:00.0 and would be lost"},
        {CARD, put_firmware_display, {0}, OBSTACLE_FIRMWARE_DISPLAY,
                "the firmware's frame buffer (BOOTFB) lies in the memory of 0000:01:00.0, so a VM "
                "could not have all of it"},
        {CARD, put_vgpu_function, {0}, OBSTACLE_VGPU_FUNCTION,
                "0000:01:00.0 is for a vGPU, which has to stay with NVIDIA's driver"},
        {CARD, put_vgpu_made, {0}, OBSTACLE_VGPU_FUNCTION,
                "0000:01:00.0 is a vGPU of type 1134, which has to stay with NVIDIA's driver"},
        {CARD, put_consumer, {0}, OBSTACLE_HELD,
                "0000:03:00.0 is in use: process 98 (Xorg) has /dev/dri/renderD128 open"},
        {CARD, put_boot_display, {0}, OBSTACLE_BOOT_DISPLAY,
                "the machine started with 0000:01:00.0 as its display, so its ROM may be changed"},
        {CARD, put_no_reset, {0}, OBSTACLE_NO_RESET,
                "0000:01:00.0 cannot be reset, so it keeps its state between VMs"},
        {CARD, put_no_vfio, {0}, OBSTACLE_NO_VFIO, "this kernel has no driver vfio-pci"},
        {CARD, put_no_addresses, {0}, OBSTACLE_NO_ADDRESSES,
                "the firmware gave BAR 1 of 0000:01:00.0 no addresses"},
        {CARD, put_slow_link, {0}, OBSTACLE_SLOW_LINK,
                "the PCIe link runs at 2.5 GT/s PCIe x8, the card can 32.0 GT/s PCIe x16"},
        {CARD, put_asleep, {0}, OBSTACLE_ASLEEP, "0000:01:00.0 sleeps (D3cold)"},
        {CARD, put_apparmor, {0}, OBSTACLE_APPARMOR,
                "AppArmor's profile /usr/sbin/libvirtd is in force: QEMU under it, or under one "
                "that libvirt makes, may open /dev/vfio/12 only if the profile has '/dev/vfio/vfio "
                "rw, /dev/vfio/12 rw,'"},
        {CARD, put_on_vfio, {0}, OBSTACLE_OTHERS_VFIO,
                "0000:01:00.0 is on vfio-pci already, and Cleave has no record of having done it"},
        {VFS, put_no_driver, {.count = 1}, OBSTACLE_NO_DRIVER,
                "0000:02:00.0 has no driver, so nothing can make its virtual functions"},
        {VFS, put_pf_on_vfio, {.count = 1}, OBSTACLE_ON_VFIO,
                "0000:02:00.0 is on vfio-pci, which makes no virtual functions"},
        {VFS, put_pf_captures, {.count = 1}, OBSTACLE_ON_VFIO,
                "0000:02:00.0 is on vfio-pci, which makes no virtual functions"},
        {VFS, put_amdgpu, {.count = 1}, OBSTACLE_NO_SRIOV,
                "0000:02:00.0 is on amdgpu, which makes no virtual functions; AMD's gim does"},
        {&functions_beside, put_mig_pf, {.count = 1}, OBSTACLE_HAS_INSTANCES,
                TREE_MIG_GPU " has 1 MIG instance, which enabling its virtual functions destroys"},
        {VFS, put_functions_on, {.count = 4}, OBSTACLE_FUNCTIONS_ON,
                "0000:02:00.0 has 3 virtual functions already, which Cleave has not made"},
        {VFS, put_nothing, {.count = 5}, OBSTACLE_TOO_MANY,
                "0000:02:00.0 makes at most 4 virtual functions, not 5"},
        {VFS, put_nvidia_pf, {.count = 1}, OBSTACLE_NO_SRIOV,
                "NVIDIA's driver takes no number of functions from sysfs; its own sriov-manage -e "
                "0000:02:00.0 enables all of them"},
        {MDEV, put_nothing, {.type = "A30-24C"}, OBSTACLE_NO_TYPE,
                "0000:01:00.0 has no type A30-24C; it has 4 x A30-6C, 0 x A30-12C"},
        {MDEV, put_nothing, {.type = "nvidia-690"}, OBSTACLE_TYPE_EXHAUSTED,
                "0000:01:00.0 has no room for another nvidia-690"},
        {VGPU, put_vgpu, {.type = "H100-4C"}, OBSTACLE_VGPU_TAKEN,
                "0000:01:00.4 has a vGPU of type 1134 already, which Cleave has not made"},
        {VGPU, put_vgpu_full, {.type = "H100-4C"}, OBSTACLE_TYPE_EXHAUSTED,
                "no vGPU can be made on 0000:01:00.4 now: the card is full, or of another size"},
        {VGPU, put_nothing, {.type = "H100-80C"}, OBSTACLE_NO_TYPE,
                "0000:01:00.4 cannot become a H100-80C now; it can become NVIDIA H100-4C, NVIDIA "
                "H100-10C"},
        {VGPU, put_vgpu_on_vfio, {.type = "H100-4C"}, OBSTACLE_ON_VFIO,
                "0000:01:00.4 is on vfio-pci, but a vGPU's function has to stay with NVIDIA's "
                "driver"},
        {MODES, put_nothing, {.type = "HPX"}, OBSTACLE_NO_TYPE,
                "0000:01:00.0 has no compute mode HPX; it has SPX, DPX, QPX, CPX"},
        {MODES, put_fixed_mode, {.type = "CPX"}, OBSTACLE_NO_PARTITIONS,
                "the compute mode of 0000:01:00.0 is fixed"},
        {&not_a_gpu, put_nothing, {0}, OBSTACLE_NOT_A_GPU, AUDIO " is not a GPU (audio)"},
        {&no_mediated, put_nothing, {.type = "x"}, OBSTACLE_NO_MEDIATED,
                GPU " makes no mediated devices"},
        {&no_mediated, put_intel, {.type = "x"}, OBSTACLE_NO_MEDIATED,
                GPU " makes no mediated devices: load kvmgt, with i915.enable_gvt=1 (Broadwell to "
                    "Comet Lake)"},
        {&no_mediated_nvidia, put_nothing, {.type = "x"}, OBSTACLE_NO_MEDIATED,
                GPU " makes no mediated devices: the vGPU host driver is missing, or this card's "
                    "vGPUs are virtual functions"},
        {&no_vgpu, put_nothing, {.type = "x"}, OBSTACLE_NO_VGPU,
                GPU " is no virtual function of NVIDIA's vGPU host driver"},
        {&no_modes, put_nothing, {.type = "CPX"}, OBSTACLE_NO_PARTITIONS,
                GPU " has no partition modes; AMD's Instinct MI300 and later have"},
        {UNCUT, put_nothing, {.want = "1g.6gb"}, OBSTACLE_MIG_OFF,
                "MIG mode of " TREE_MIG_GPU " is off"},
        {UNCUT, put_mode_pending, {.want = "1g.6gb", .turn_on = true}, OBSTACLE_MIG_PENDING,
                "MIG mode of " TREE_MIG_GPU " is off until the GPU is reset"},
        {UNCUT, put_mode_holder, {.want = "1g.6gb", .turn_on = true}, OBSTACLE_HELD,
                TREE_MIG_GPU " is in use: process 4712 (nvidia-persiste) has /dev/nvidia0 open"},
        {CUT, put_hidden, {.want = "1g.10gb"}, OBSTACLE_MIG_HIDDEN,
                "the driver shows the instances of " TREE_MIG_GPU " to root only"},
        {CUT, put_nouveau, {.want = "1g.10gb"}, OBSTACLE_NO_NVIDIA,
                TREE_MIG_GPU " is not on NVIDIA's driver"},
        {CUT, put_no_answer, {.want = "1g.10gb"}, OBSTACLE_NO_NVIDIA,
                "NVIDIA's driver does not answer: its kernel module is not loaded (NVML error 9)"},
        {&card_of_old, put_nothing, {.want = "1g.10gb"}, OBSTACLE_NOT_MIG,
                GPU " cannot be cut by MIG"},
        {&instances_there, put_nothing, {0}, OBSTACLE_HAS_INSTANCES,
                TREE_MIG_GPU " has 1 MIG instance"},
        {&vgpu_of_mig, put_ecc, {.type = "H100-10C"}, OBSTACLE_VGPU_ECC,
                "NVIDIA's driver makes no vGPU on " TREE_MIG_GPU " while its ECC is on"},
        {&mediated_of_mig, put_ecc, {.type = "A30-6C"}, OBSTACLE_VGPU_ECC,
                "NVIDIA's driver makes no vGPU on " TREE_MIG_GPU " while its ECC is on"},
        {MODES, put_kfd_holder, {.type = "CPX"}, OBSTACLE_HELD,
                "0000:01:00.0 is in use: process 77 (rocm) has /dev/dri/renderD129 open"},
};

static void every_obstacle_has_its_sentence(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(obstacle_cases); i++) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                _cleanup_obstacles_ struct obstacles obstacles = {0};
                _cleanup_change_ struct change change = {0};
                const struct scenario *s = obstacle_cases[i].scenario;
                const struct obstacle *found;
                bool blocks = obstacle_blocks(obstacle_cases[i].code);
                struct tree tree;
                int r;

                s->setup(&tree);
                obstacle_cases[i].put(&tree);
                r = technique_plan(s->technique, &tree.host, s->address, &obstacle_cases[i].ask,
                        &change, &obstacles, &error);
                found = seen(&obstacles, obstacle_cases[i].code);
                if (!found)
                        fail_msg("'%s' is not seen", obstacle_cases[i].sentence);
                assert_string_equal(found->sentence, obstacle_cases[i].sentence);
                if (blocks) {
                        assert_int_equal(r, -EBUSY);
                        assert_true(error.code != CLEAVE_REASON_NONE);
                }
                assert_int_equal(tree.writes, 0);
                tree_done(&tree);
        }
}

static void little_memory_to_lock_is_noted(void **state)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        struct rlimit before, limit;
        struct pci_function f;
        char expected[128];
        struct tree tree;

        assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &before), 0);
        limit = before;
        limit.rlim_cur = MIN_OF(before.rlim_cur, (rlim_t)8 << 20);
        assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
        snprintf(expected, sizeof(expected),
                "only %llu MiB may be locked here, and a VM with a device locks all of its memory",
                (unsigned long long)limit.rlim_cur >> 20);
        setup_card(&tree);
        assert_int_equal(pci_read(&tree.host, GPU, &f), 0);
        assert_int_equal(technique_passthrough.check(&tree.host, &f, &CARD->ask, &obstacles), 0);
        assert_string_equal(seen(&obstacles, OBSTACLE_NO_MEMLOCK)->sentence, expected);
        assert_null(obstacles_blocking(&obstacles));
        assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &before), 0);
        tree_done(&tree);
}

/* Off, not in force, of other programs, or not ours to read: then nothing is said. */
static void apparmor_is_noted_only_where_it_confines_qemu(void **state)
{
        static const struct {
                const char *enabled, *profiles;
                bool noted;
        } cases[] = {
                {"N\n", "libvirtd (enforce)\n", false},
                {"Y\n", NULL, false},
                {"Y\n", "", false},
                {"Y\n", "cupsd (enforce)\nlibvirtd (complain)\nqemu (unconfined)\n(enforce)\n",
                        false},
                {"Y\n", "libvirt-" UUID " (enforce)\n", true},
                {"Y\n", "cupsd (enforce)\nqemu-system-x86_64 (kill)", true},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_obstacles_ struct obstacles obstacles = {0};
                struct pci_function f;
                struct tree tree;

                setup_card(&tree);
                tree_file(&tree, cases[i].enabled, "sys/module/apparmor/parameters/enabled");
                if (cases[i].profiles)
                        tree_file(
                                &tree, cases[i].profiles, "sys/kernel/security/apparmor/profiles");
                assert_int_equal(pci_read(&tree.host, GPU, &f), 0);
                assert_int_equal(
                        technique_passthrough.check(&tree.host, &f, &CARD->ask, &obstacles), 0);
                assert_int_equal(!!seen(&obstacles, OBSTACLE_APPARMOR), cases[i].noted);
                assert_null(obstacles_blocking(&obstacles));
                tree_done(&tree);
        }
}

/* Where the sentence has the place of this test's own proc. */
static void capability_files_are_missed(void **state)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        struct pci_function f;
        struct tree tree;

        setup_mig(&tree);
        put_no_capabilities(&tree);
        assert_int_equal(pci_read(&tree.host, TREE_MIG_GPU, &f), 0);
        assert_int_equal(technique_mig.check(&tree.host, &f, &CUT->ask, &obstacles), 0);
        assert_non_null(strstr(seen(&obstacles, OBSTACLE_NO_CAPABILITIES)->sentence,
                "/proc/driver/nvidia/capabilities is not there, so containers cannot be given "
                "instances of " TREE_MIG_GPU));
        assert_null(obstacles_blocking(&obstacles));
        tree_done(&tree);
}

static void a_machine_without_obstacles_shows_none(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
                const struct scenario *s = scenarios + i;
                _cleanup_obstacles_ struct obstacles obstacles = {0};
                struct pci_function f;
                struct tree tree;

                s->setup(&tree);
                assert_int_equal(pci_read(&tree.host, s->address, &f), 0);
                assert_int_equal(s->technique->check(&tree.host, &f, &s->ask, &obstacles), 0);
                assert_null(obstacles_blocking(&obstacles));
                tree_done(&tree);
        }
}

static void functions_in_use_are_not_taken_away(void **state)
{
        static const struct scenario vf = {
                .technique = &technique_passthrough, .address = "0000:02:00.2"};
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        char pf_id[CHANGE_ID_MAX], vf_id[CHANGE_ID_MAX];
        _cleanup_free_ char *before = NULL;
        struct tree tree;

        setup_functions(&tree);
        tree_file(&tree, "", "sys/bus/pci/drivers/vfio-pci/new_id");
        before = tree_snapshot(&tree);
        assert_int_equal(apply(&tree, VFS, pf_id, NULL), 0);
        assert_int_equal(apply(&tree, &vf, vf_id, NULL), 0);
        assert_string_equal(tree_state(&tree, "bus/pci/devices/0000:02:00.2/driver"), "vfio-pci");
        /* Its siblings stay as they are. */
        assert_string_equal(tree_state(&tree, "bus/pci/devices/0000:02:00.1/driver"), "");
        assert_int_equal(technique_undo(&tree.host, pf_id, &obstacles, NULL), -EBUSY);
        assert_non_null(seen(&obstacles, OBSTACLE_FUNCTION_ATTACHED));
        tree_process(&tree, 4713, "qemu", "/dev/vfio/101");
        obstacles_done(&obstacles);
        assert_int_equal(technique_undo(&tree.host, vf_id, &obstacles, NULL), -EBUSY);
        assert_string_equal(seen(&obstacles, OBSTACLE_HELD)->sentence,
                "0000:02:00.2 is in use: process 4713 (qemu) has /dev/vfio/101 open");
        tree_remove(&tree, "proc/4713");
        assert_int_equal(undo(&tree, vf_id, NULL), 0);
        assert_int_equal(undo(&tree, pf_id, NULL), 0);
        tree_remove(&tree, "dev/vfio");
        assert_as_before(&tree, before, "two partitions");
        tree_done(&tree);
}

/* Whoever has a descriptor of the device itself, and none of the group's file any more, keeps it as
 * well: unbinding would wait for him. */
static void who_has_a_vfio_device_is_found(void **state)
{
        static const struct {
                bool busy, process;
                const char *device;   /* what the kernel says that the process has */
                const char *sentence; /* NULL: nobody is in the way */
        } cases[] = {
                {true, true, GPU,
                        GPU " is in use: process 4714 (qemu-system-x86) has its VFIO device open"},
                {true, true, "0000:09:00.0",
                        GPU " is in use: somebody who cannot be seen from here has /dev/vfio/12 "
                            "open"},
                {true, true, NULL,
                        GPU " is in use: process 4714 (qemu-system-x86) has a VFIO device, perhaps "
                            "this one, open"},
                {true, false, NULL,
                        GPU " is in use: somebody who cannot be seen from here has /dev/vfio/12 "
                            "open"},
                {false, true, NULL, NULL},
                {false, true, "0000:09:00.0", NULL},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_obstacles_ struct obstacles obstacles = {0};
                char id[CHANGE_ID_MAX];
                struct tree tree;
                unsigned writes;

                setup_card(&tree);
                assert_int_equal(apply(&tree, CARD, id, NULL), 0);
                if (cases[i].process)
                        tree_vfio_device(&tree, 4714, "qemu-system-x86", cases[i].device);
                if (cases[i].busy)
                        tree_vfio_busy(&tree, 12);
                writes = tree.writes;
                if (cases[i].sentence) {
                        assert_int_equal(technique_undo(&tree.host, id, &obstacles, NULL), -EBUSY);
                        assert_string_equal(
                                seen(&obstacles, OBSTACLE_HELD)->sentence, cases[i].sentence);
                        assert_int_equal(tree.writes, writes);
                } else
                        assert_int_equal(technique_undo(&tree.host, id, &obstacles, NULL), 0);
                tree_done(&tree);
        }
}

/* sysfs lists a way to reset it, which VFIO found not to work. */
static void what_vfio_cannot_reset_is_noted(void **state)
{
        static const char sentence[] =
                "VFIO tried to reset " GPU " and could not, so it keeps its state between VMs";
        const struct technique_ask thorough = {.thorough = true};
        struct obstacles obstacles = {0};
        struct change change = {0};
        struct tree tree;

        setup_card(&tree);
        tree_no_reset(&tree, GPU);
        /* Before it is on VFIO nobody can know. */
        assert_int_equal(technique_plan(&technique_passthrough, &tree.host, GPU, &thorough, &change,
                                 &obstacles, NULL),
                0);
        assert_null(obstacles_find(&obstacles, OBSTACLE_NO_RESET));
        change_done(&change);
        obstacles_done(&obstacles);
        /* When it is attached, which it stays; and when it is looked at again. */
        assert_int_equal(technique_apply(&technique_passthrough, &tree.host, GPU, &CARD->ask,
                                 &change, &obstacles, NULL),
                0);
        assert_string_equal(seen(&obstacles, OBSTACLE_NO_RESET)->sentence, sentence);
        assert_int_equal(change_standing(&tree.host, &change), CHANGE_STANDS);
        change_done(&change);
        obstacles_done(&obstacles);
        for (unsigned i = 0; i < 2; i++) {
                assert_int_equal(technique_plan(&technique_passthrough, &tree.host, GPU,
                                         i ? &thorough : &CARD->ask, &change, &obstacles, NULL),
                        -EBUSY);
                assert_string_equal(seen(&obstacles, OBSTACLE_ATTACHED)->sentence,
                        GPU " is on vfio-pci already, where Cleave has put it");
                assert_null(obstacles_find(&obstacles, OBSTACLE_OTHERS_VFIO));
                /* Only on request, as looking resets it. */
                assert_int_equal(!!obstacles_find(&obstacles, OBSTACLE_NO_RESET), i);
                obstacles_done(&obstacles);
        }
        /* Nor while a VM has it. */
        tree_process(&tree, 4712, "qemu-system-x86", "/dev/vfio/12");
        assert_int_equal(technique_plan(&technique_passthrough, &tree.host, GPU, &thorough, &change,
                                 &obstacles, NULL),
                -EBUSY);
        assert_null(obstacles_find(&obstacles, OBSTACLE_NO_RESET));
        obstacles_done(&obstacles);
        tree_done(&tree);
}

static void only_listed_files_are_written(void **state)
{
        static const char *const never[] = {
                "bus/pci/devices/0000:01:00.0/remove",
                "bus/pci/rescan",
                "bus/pci/drivers/vfio-pci/new_id",
                "bus/pci/devices/../../../kernel/mm/x/driver_override",
                "bus/pci/devices/0000:01:00.0/reset",
                "class/vtconsole/vtcon0/../../x/bind",
                "module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
                "power/state",
                "",
        };
        struct host host;

        host_init(&host, NULL, NULL, NULL, NULL);
        for (size_t i = 0; i < ARRAY_SIZE(never); i++) {
                assert_false(host_may_write(never[i]));
                assert_int_equal(host_write(&host, never[i], "1"), -EPERM);
        }
}

/* A fifo that nobody reads holds its writer as the kernel holds who unbinds a device in use. */
static void a_write_that_blocks_ends_at_its_deadline(void **state)
{
        char path[160];
        struct tree tree;
        uint64_t start;

        setup_card(&tree);
        tree.host.ops = &host_ops_real;
        tree.host.msec = 100;
        tree_remove(&tree, "sys/bus/pci/drivers_probe");
        snprintf(path, sizeof(path), "%s/bus/pci/drivers_probe", tree.sysfs);
        assert_int_equal(mkfifo(path, 0600), 0);
        start = clock_usec(CLOCK_MONOTONIC);
        assert_int_equal(host_write(&tree.host, "bus/pci/drivers_probe", GPU), -ETIMEDOUT);
        assert_in_range(clock_usec(CLOCK_MONOTONIC) - start, 90000, 5000000);
        assert_int_equal(
                host_write(&tree.host, "bus/pci/devices/" GPU "/driver/unbind", GPU), -ENOENT);
        tree_file(&tree, "", DEV "/driver_override", GPU);
        assert_int_equal(
                host_write(&tree.host, "bus/pci/devices/" GPU "/driver_override", "vfio-pci"), 0);
        assert_string_equal(
                tree_state(&tree, "bus/pci/devices/" GPU "/driver_override"), "vfio-pci");
        tree_done(&tree);
}

static void the_variant_driver_is_taken(void **state)
{
        struct pci_function f;
        char driver[64], modules[96];
        struct tree tree;

        setup_card(&tree);
        snprintf(modules, sizeof(modules), "%s/lib", tree.root);
        tree.host.modules = modules;
        tree_file(&tree,
                "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n"
                "alias vfio_pci:v000010DEd00002342sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci\n",
                "lib/6.1.0-test/modules.alias");
        assert_int_equal(pci_read(&tree.host, GPU, &f), 0);
        passthrough_driver(&tree.host, &f, driver);
        assert_string_equal(driver, "vfio-pci");
        f.device = 0x2342;
        passthrough_driver(&tree.host, &f, driver);
        assert_string_equal(driver, "nvgrace-gpu-vfio-pci");
        tree_done(&tree);
}

static void addresses_are_read(void **state)
{
        char address[PCI_ADDRESS_MAX];

        assert_int_equal(pci_address_parse("01:00.0", address), 0);
        assert_string_equal(address, "0000:01:00.0");
        assert_int_equal(pci_address_parse("00000000:C1:00.1", address), 0);
        assert_string_equal(address, "0000:c1:00.1");
        assert_int_equal(pci_address_parse("0001:01:1f.7", address), 0);
        assert_string_equal(address, "0001:01:1f.7");
        assert_int_equal(pci_address_parse("01:00", address), -EINVAL);
        assert_int_equal(pci_address_parse("01:20.0", address), -EINVAL);
        assert_int_equal(pci_address_parse("01:00.8", address), -EINVAL);
        assert_int_equal(pci_address_parse("../etc", address), -EINVAL);
        assert_int_equal(pci_address_parse("01:00.0x", address), -EINVAL);
}

static char *printed(struct tree *tree, const char *id, enum technique_form form)
{
        _cleanup_change_ struct change change = {0};
        char *text = NULL;
        size_t size;
        FILE *out = open_memstream(&text, &size);

        assert_int_equal(change_load(&tree->host, id, &change, NULL), 0);
        assert_int_equal(
                technique_find(change.technique)->print(out, &tree->host, &change, form, NULL), 0);
        fclose(out);
        return text;
}

static void words_for_hypervisors(void **state)
{
        static const struct {
                enum technique_form form;
                const char *words[5];
        } cases[] = {
                {FORM_QEMU,
                        {"-device pcie-root-port,id=cleave0",
                                "-device vfio-pci,host=0000:01:00.0,bus=cleave0,addr=0.0,"
                                "multifunction=on",
                                "-device vfio-pci,host=0000:01:00.1,bus=cleave0,addr=0.1",
                                "opt/ovmf/X-PciMmio64Mb,string=65536", "host-nodes=1,policy=bind"}},
                {FORM_LIBVIRT,
                        {"<address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>",
                                "<address domain='0x0000' bus='0x01' slot='0x00' function='0x1'/>",
                                "managed='no'", "<memory mode='strict' nodeset='1'/>"}},
                {FORM_KUBEVIRT,
                        {"pciVendorSelector: \"10DE:2204\"", "resourceName: cleave.dev/nvidia-2204",
                                "deviceName: cleave.dev/nvidia-2204"}},
                {FORM_NOVA, {"device_spec = { \"address\": \"0000:01:00.0\" }",
                                    "\"vendor_id\": \"10de\", \"product_id\": \"2204\"",
                                    "\"device_type\": \"type-PCI\"",
                                    "pci_passthrough:alias=nvidia-2204:1"}},
                {FORM_ESXI, {"pcipassthru set -d 0000:01:00.0 -e true",
                                    "pciPassthru.64bitMMIOSizeGB = 64"}},
                {FORM_HYPERV, {"PCI\\VEN_10DE&DEV_2204", "-HighMemoryMappedIoSpace 65536Mb",
                                      "Add-VMAssignableDevice"}},
        };
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_card(&tree);
        tree_file(&tree, "1\n", DEV "/numa_node", GPU);
        tree_file(&tree, "16-31\n", DEV "/local_cpulist", GPU);
        tree_file(&tree, "0x0000008000000000 0x00000085ffffffff 0x000000000014220c\n",
                DEV "/resource", GPU);
        assert_int_equal(apply(&tree, scenarios, id, NULL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_free_ char *text = printed(&tree, id, cases[i].form);

                for (size_t j = 0; j < ARRAY_SIZE(cases[i].words) && cases[i].words[j]; j++)
                        if (!strstr(text, cases[i].words[j]))
                                fail_msg("'%s' is not in:\n%s", cases[i].words[j], text);
        }
        tree_done(&tree);
}

static void words_for_mediated_devices(void **state)
{
        static const struct {
                enum technique_form form;
                const char *words[2];
        } cases[] = {
                {FORM_QEMU, {"-device vfio-pci,sysfsdev=/sys/bus/mdev/devices/" UUID}},
                {FORM_LIBVIRT, {"type='mdev' managed='no' model='vfio-pci'",
                                       "<address uuid='" UUID "'/>"}},
                {FORM_KUBEVIRT, {"mdevNameSelector: \"GRID A30-6C\"",
                                        "resourceName: cleave.dev/nvidia-689"}},
                {FORM_NOVA, {"enabled_mdev_types = nvidia-689", "resources:VGPU=1"}},
        };
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_mediated(&tree);
        assert_int_equal(apply(&tree, MDEV, id, NULL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_free_ char *text = printed(&tree, id, cases[i].form);

                for (size_t j = 0; j < ARRAY_SIZE(cases[i].words) && cases[i].words[j]; j++)
                        if (!strstr(text, cases[i].words[j]))
                                fail_msg("'%s' is not in:\n%s", cases[i].words[j], text);
        }
        tree_done(&tree);
        /* A vGPU's function stays with NVIDIA's driver, so libvirt must not bind it. */
        setup_vgpu(&tree);
        assert_int_equal(apply(&tree, VGPU, id, NULL), 0);
        {
                _cleanup_free_ char *text = printed(&tree, id, FORM_LIBVIRT);

                assert_non_null(strstr(text, "managed='no'"));
                assert_non_null(strstr(
                        text, "<address domain='0x0000' bus='0x01' slot='0x00' function='0x4'/>"));
        }
        tree_done(&tree);
}

static void a_record_of_nonsense_is_refused(void **state)
{
        _cleanup_change_ struct change change = {0};
        struct change *changes;
        size_t n, bad;
        struct tree tree;

        setup_card(&tree);
        tree_file(&tree, "{\"id\":\"x\"", "state/x.json");
        tree_file(&tree, "{\"id\":\"y\",\"phase\":\"done\"}", "state/y.json");
        assert_int_equal(change_load_all(&tree.host, &changes, &n, &bad), 0);
        assert_int_equal(n, 0);
        assert_int_equal(bad, 2);
        change_free_all(changes, n);
        assert_int_equal(change_load(&tree.host, "x", &change, NULL), -EBADMSG);
        assert_int_equal(change_load(&tree.host, "../x", &change, NULL), -ENOENT);
        tree_done(&tree);
}

/* A record that names a file outside the table is not followed. */
static void a_forged_record_writes_nothing_else(void **state)
{
        struct tree tree;

        setup_card(&tree);
        tree_file(&tree, "keep\n", "sys/kernel/secret");
        tree_file(&tree,
                "{\"id\":\"z\",\"technique\":\"passthrough\",\"device\":\"d\",\"phase\":"
                "\"undoing\",\"boot\":\"9a53c7a8-0000-4000-8000-000000000001\",\"geometry\":{},"
                "\"steps\":[{\"what\":\"w\",\"path\":\"kernel/secret\",\"value\":\"1\","
                "\"expect_path\":\"kernel/secret\",\"expect_value\":\"1\",\"before\":\"keep\","
                "\"undo\":[{\"path\":\"kernel/secret\",\"value\":\"2\",\"when_path\":"
                "\"kernel/secret\",\"when_value\":\"keep\"}]}]}",
                "state/z.json");
        chmod(tree.state, 0700);
        assert_int_equal(change_reconcile(&tree.host, NULL, NULL, NULL), -EPERM);
        assert_string_equal(tree_state(&tree, "kernel/secret"), "keep");
        tree_done(&tree);
}

/* --- the survey --- */

/* What the survey says of a technique on the only GPU: "ready: OFFERS" or "not now: OFFERS", then a
 * line for each obstacle; NULL: it is not listed. In new memory. */
static char *surveyed(struct tree *tree, const char *technique)
{
        json_t *gpus, *item, *obstacle;
        char *text = NULL;
        size_t size, i, j;

        assert_int_equal(survey_gpus(&tree->host, &gpus), 0);
        assert_int_equal(json_array_size(gpus), 1);
        json_array_foreach(json_object_get(json_array_get(gpus, 0), "techniques"), i, item)
        {
                FILE *out;

                if (strcmp(json_string_value(json_object_get(item, "name")), technique) != 0)
                        continue;
                out = open_memstream(&text, &size);
                fprintf(out, "%s%s\n",
                        json_is_true(json_object_get(item, "ready")) ? "ready: " : "not now: ",
                        json_string_value(json_object_get(item, "offers")));
                json_array_foreach(json_object_get(item, "obstacles"), j, obstacle)
                {
                        for (unsigned code = 0; code < OBSTACLE_N_CODES; code++)
                                if (strcmp(obstacle_word(code), json_string_value(json_object_get(
                                                                        obstacle, "code"))) == 0)
                                        met[code] = true;
                        fprintf(out, "%s\n",
                                json_string_value(json_object_get(obstacle, "sentence")));
                }
                fclose(out);
        }
        json_decref(gpus);
        return text;
}

static void assert_surveyed(struct tree *tree, const char *technique, const char *expected)
{
        _cleanup_free_ char *text = surveyed(tree, technique);

        assert_string_equal(text ?: "(not listed)", expected);
}

static void the_survey_of_plain_sharing(void **state)
{
        struct tree tree;

        tree_init(&tree);
        tree_function(&tree, GPU, NULL, 0x10de, 0x2204, 0x030000, 12, "nvidia");
        assert_surveyed(
                &tree, "slices", "ready: the whole device by turns, with Cleave's memory quotas\n");
        tree_link(&tree, "../../../bus/pci/drivers/vfio-pci", DEV "/driver", GPU);
        assert_surveyed(&tree, "slices",
                "not now: the whole device by turns, without limits\n" GPU
                " is on vfio-pci, so no program of the host can use it\n");
        tree_link(&tree, "../../../bus/pci/drivers/nouveau", DEV "/driver", GPU);
        assert_surveyed(&tree, "slices",
                "not now: the whole device by turns, without limits\n" GPU
                " is on the driver nouveau, and CUDA needs NVIDIA's own\n");
        tree_done(&tree);
}

/* Programs have the instances of a card that is cut, not the whole. */
/* What a listing says of the card itself. */
static void the_survey_tells_a_cards_facts(void **state)
{
        struct tree tree;
        json_t *gpus, *gpu;

        setup_modes(&tree);
        tree_file(&tree, "206141652992\n", DEV "/mem_info_vram_total", GPU);
        tree_file(&tree, "1\n", DEV "/numa_node", GPU);
        tree_file(&tree, "32.0 GT/s PCIe\n", DEV "/current_link_speed", GPU);
        tree_file(&tree, "16\n", DEV "/current_link_width", GPU);
        assert_int_equal(survey_gpus(&tree.host, &gpus), 0);
        gpu = json_array_get(gpus, 0);
        assert_string_equal(json_string_value(json_object_get(gpu, "vendor")), "AMD");
        assert_int_equal(json_integer_value(json_object_get(gpu, "memory")), 206141652992);
        assert_int_equal(json_integer_value(json_object_get(gpu, "numa_node")), 1);
        assert_int_equal(json_integer_value(json_object_get(gpu, "iommu_group")), 12);
        assert_int_equal(json_integer_value(json_object_get(gpu, "link_width")), 16);
        assert_string_equal(
                json_string_value(json_object_get(gpu, "link_speed")), "32.0 GT/s PCIe");
        json_decref(gpus);
        tree_done(&tree);
}

static void the_survey_of_a_card_in_mig_mode(void **state)
{
        struct tree tree;
        char *text;

        tree_init(&tree);
        tree_mig(&tree, "h100", true);
        tree_file(&tree, "NVRM version: X 615.36.01 Y\n", "proc/driver/nvidia/version");
        assert_surveyed(&tree, "slices",
                "not now: the whole device by turns, with Cleave's memory quotas\n" TREE_MIG_GPU
                " is in MIG mode, so programs have its instances, not the whole\n");
        assert_surveyed(&tree, "dmem",
                "not now: device memory by cgroup, which Cleave sets beside its "
                "quotas\n" TREE_MIG_GPU
                " is in MIG mode, and the driver's limits are not for its instances\n");
        text = surveyed(&tree, "mps");
        assert_non_null(strstr(text,
                TREE_MIG_GPU " is in MIG mode: each of its instances has a server of its own"));
        free(text);
        tree_done(&tree);
}

static void the_survey_of_mps(void **state)
{
        const char *path = getenv("PATH");
        struct tree tree;
        char bin[96];

        tree_init(&tree);
        tree_function(&tree, GPU, NULL, 0x10de, 0x2204, 0x030000, 12, "nvidia");
        snprintf(bin, sizeof(bin), "%s/bin", tree.root);
        setenv("PATH", bin, 1);
        assert_surveyed(&tree, "mps",
                "not now: programs of one owner side by side, at most 48\n"
                "nvidia-cuda-mps-control is not installed\n");
        tree_file(&tree, "", "bin/nvidia-cuda-mps-control");
        snprintf(bin, sizeof(bin), "%s/bin/nvidia-cuda-mps-control", tree.root);
        chmod(bin, 0755);
        assert_surveyed(&tree, "mps", "ready: programs of one owner side by side, at most 48\n");
        setenv("PATH", path ?: "/usr/bin:/bin", 1);
        tree_done(&tree);
}

/* A VM that has a vGPU open has the function's group open, though the driver is NVIDIA's. */
static void a_vgpu_in_use_is_not_cleared(void **state)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_vgpu(&tree);
        assert_int_equal(apply(&tree, VGPU, id, NULL), 0);
        tree_process(&tree, 4714, "qemu", "/dev/vfio/13");
        assert_int_equal(technique_undo(&tree.host, id, &obstacles, NULL), -EBUSY);
        assert_string_equal(seen(&obstacles, OBSTACLE_FUNCTION_HELD)->sentence,
                "0000:01:00.4 is in use: process 4714 (qemu) has /dev/vfio/13 open");
        tree_done(&tree);
}

static void the_survey_of_the_drivers_own_limits(void **state)
{
        static const char version[] = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  "
                                      "%s  Release Build\nGCC version:  gcc version 12.2.0\n";
        static const char offers[] =
                "device memory by cgroup, which Cleave sets beside its quotas\n";
        char text[200], expected[300];
        struct tree tree;

        tree_init(&tree);
        tree_function(&tree, GPU, NULL, 0x10de, 0x2204, 0x030000, 12, "nvidia");
        snprintf(expected, sizeof(expected),
                "not now: %s" GPU
                ": the driver keeps no memory limits by cgroup, as far as its release is known\n",
                offers);
        assert_surveyed(&tree, "dmem", expected);
        snprintf(text, sizeof(text), version, "580.159.04");
        tree_file(&tree, text, "proc/driver/nvidia/version");
        snprintf(expected, sizeof(expected),
                "not now: %s" GPU ": the driver keeps no memory limits by cgroup\n", offers);
        assert_surveyed(&tree, "dmem", expected);
        snprintf(text, sizeof(text), version, "615.36.01");
        tree_file(&tree, text, "proc/driver/nvidia/version");
        snprintf(expected, sizeof(expected), "ready: %s", offers);
        assert_surveyed(&tree, "dmem", expected);
        tree_done(&tree);

        tree_init(&tree);
        tree_function(&tree, GPU, NULL, 0x1002, 0x74a1, 0x120000, 12, "amdgpu");
        assert_surveyed(&tree, "dmem",
                "not now: device memory by cgroup (dmem.max)\nthe kernel has no dmem limits "
                "for " GPU "\n");
        tree_file(&tree, "drm/" GPU "/vram0 206141652992\n", "sys/fs/cgroup/dmem.capacity");
        assert_surveyed(&tree, "dmem", "ready: device memory by cgroup (dmem.max)\n");
        tree_done(&tree);
}

static void the_survey_of_a_vgpu_host(void **state)
{
        static const char missing[] = "nvidia-vgpu-mgr does not run, and without it no VM with a "
                                      "vGPU of " TREE_MIG_GPU " starts\n";
        static const char vm[] = "NVIDIA L40S-8Q in VM 5ec0f4f3-0000-4000-8000-0000000000aa";
        char expected[512];
        struct tree tree;

        tree_init(&tree);
        tree_mig(&tree, "h100", false);
        assert_surveyed(&tree, "vgpu-host", "(not listed)");
        tree_file(&tree, "", "sys/module/nvidia_vgpu_vfio/uevent");
        snprintf(expected, sizeof(expected), "not now: no vGPU runs\n%s", missing);
        assert_surveyed(&tree, "vgpu-host", expected);
        tree_process(&tree, 900, "nvidia-vgpu-mgr", "/dev/null");
        assert_surveyed(&tree, "vgpu-host", "ready: no vGPU runs\n");
        tree_faults(&tree, "vgpu=5");
        snprintf(expected, sizeof(expected), "ready: runs %s, licensed\n", vm);
        assert_surveyed(&tree, "vgpu-host", expected);
        tree_faults(&tree, "vgpu=4");
        snprintf(expected, sizeof(expected),
                "ready: runs %s\nthe %s has no licence, so it slows down\n", vm, vm);
        assert_surveyed(&tree, "vgpu-host", expected);
        tree_faults(&tree, "vgpu=ecc");
        assert_surveyed(&tree, "vgpu-host",
                "not now: no vGPU runs\nNVIDIA's driver makes no vGPU on " TREE_MIG_GPU
                " while its ECC is on\n");
        tree_faults(&tree, "vgpu=1");
        snprintf(expected, sizeof(expected),
                "ready: runs %s\nthe %s has not said whether it has a licence\n", vm, vm);
        assert_surveyed(&tree, "vgpu-host", expected);
        tree_done(&tree);
}

static void the_survey_of_instances(void **state)
{
        char id[CHANGE_ID_MAX];
        struct tree tree;
        char *text;

        setup_mig(&tree);
        assert_int_equal(apply(&tree, CUT, id, NULL), 0);
        text = surveyed(&tree, "mig");
        assert_string_equal(text,
                "ready: has 1g.10gb, 1g.10gb, 1g.10gb, 4g.40gb; of 7 x 1g.10gb, 1 x 1g.10gb+me, "
                "4 x 1g.20gb, 3 x 2g.20gb, 2 x 3g.40gb, 1 x 4g.40gb, 1 x 7g.80gb\n");
        free(text);
        tree_done(&tree);
}

/* vGPUs are made by other means elsewhere, and that is said. */
static void vgpus_of_other_systems(void **state)
{
        static const enum technique_form forms[] = {FORM_ESXI, FORM_HYPERV};

        for (size_t i = 0; i < ARRAY_SIZE(forms); i++)
                for (size_t j = 6; j <= 7; j++) {
                        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                        _cleanup_change_ struct change change = {0};
                        const struct scenario *s = scenarios + j;
                        char id[CHANGE_ID_MAX];
                        struct tree tree;

                        s->setup(&tree);
                        assert_int_equal(apply(&tree, s, id, NULL), 0);
                        assert_int_equal(change_load(&tree.host, id, &change, NULL), 0);
                        assert_int_equal(
                                s->technique->print(stdout, &tree.host, &change, forms[i], &error),
                                -EINVAL);
                        assert_non_null(strstr(error_hint(&error), "On vSphere"));
                        assert_non_null(strstr(error_hint(&error), "on Citrix"));
                        tree_done(&tree);
                }
}

/* --- MIG --- */

/* Ours beside somebody else's: a 3g.40gb and a 1g.10gb, of which the small one is in use. */
static const struct scenario first_layout = {.technique = &technique_mig,
        .address = TREE_MIG_GPU,
        .what = "a layout",
        .ask = {.want = "3g.40gb,1g.10gb"}};
static const struct scenario next_layout = {.technique = &technique_mig,
        .address = TREE_MIG_GPU,
        .what = "another layout",
        .ask = {.want = "2x2g.20gb", .replace = true}};
static const struct scenario too_much = {.technique = &technique_mig,
        .address = TREE_MIG_GPU,
        .what = "too much",
        .ask = {.want = "4g.40gb,3g.40gb", .replace = true}};

static void setup_layout(struct tree *tree, char *ret_id)
{
        setup_mig(tree);
        assert_int_equal(apply(tree, &first_layout, ret_id, NULL), 0);
        assert_string_equal(tree_state(tree, MIG "/0/instance"), "3g.40gb");
        assert_string_equal(tree_state(tree, MIG "/4/instance"), "1g.10gb");
        tree_faults(tree, "user=4");
}

static void a_layout_changes_around_what_is_in_use(void **state)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        _cleanup_free_ char *before = NULL;
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_layout(&tree, id);
        before = tree_snapshot(&tree);
        assert_int_equal(apply(&tree, &too_much, NULL, &error), -ENOSPC);
        assert_string_equal(error_message(&error),
                "there is no layout of 4g.40gb,3g.40gb on " TREE_MIG_GPU
                " beside 1g.10gb at 6 (not made by Cleave), 1g.10gb at 4 (in use)");
        assert_as_before(&tree, before, "a layout that cannot be");
        assert_int_equal(apply(&tree, &next_layout, NULL, NULL), 0);
        assert_string_equal(tree_state(&tree, MIG "/0/instance"), "2g.20gb");
        assert_string_equal(tree_state(&tree, MIG "/2/instance"), "2g.20gb");
        assert_string_equal(tree_state(&tree, MIG "/2/0/compute"), "2c");
        assert_string_equal(tree_state(&tree, MIG "/4/instance"), "1g.10gb");
        assert_string_equal(tree_state(&tree, MIG "/6/instance"), "1g.10gb");
        assert_int_equal(change_reconcile(&tree.host, NULL, NULL, NULL), 0);
        /* What is in use is not taken away, and says by whom. */
        assert_int_equal(technique_undo(&tree.host, id, &obstacles, NULL), -EBUSY);
        assert_string_equal(seen(&obstacles, OBSTACLE_INSTANCE_USED)->sentence,
                "the 1g.10gb at slice 4 of " TREE_MIG_GPU " is in use: process 1");
        tree_faults(&tree, "");
        assert_int_equal(undo(&tree, id, NULL), 0);
        assert_string_equal(tree_state(&tree, MIG "/4/instance"), "");
        assert_string_equal(tree_state(&tree, MIG "/6/instance"), "1g.10gb");
        assert_no_records(&tree);
        tree_done(&tree);
}

static void a_layout_killed_at_every_point_is_the_old_or_the_new(void **state)
{
        char id[CHANGE_ID_MAX];
        unsigned n = 0;
        struct tree tree;
        bool killed;

        do {
                _cleanup_free_ char *before = NULL, *first = NULL;
                _cleanup_change_ struct change change = {0};

                setup_layout(&tree, id);
                before = tree_snapshot(&tree);
                killed = killed_at(&tree, &next_layout, NULL, ++n);
                assert_int_equal(change_reconcile(&tree.host, NULL, NULL, NULL), 0);
                assert_int_equal(change_load(&tree.host, id, &change, NULL), 0);
                assert_int_equal(change.phase, CHANGE_DONE);
                assert_int_equal(change_standing(&tree.host, &change), CHANGE_STANDS);
                assert_string_equal(tree_state(&tree, MIG "/4/instance"), "1g.10gb");
                assert_string_equal(tree_state(&tree, MIG "/6/instance"), "1g.10gb");
                first = strdup(tree_state(&tree, MIG "/0/instance"));
                if (strcmp(first, "3g.40gb") == 0)
                        assert_as_before(&tree, before, "a layout cut short");
                else {
                        assert_string_equal(first, "2g.20gb");
                        assert_string_equal(tree_state(&tree, MIG "/2/0/compute"), "2c");
                }
                tree_faults(&tree, "");
                assert_int_equal(undo(&tree, id, NULL), 0);
                assert_string_equal(tree_state(&tree, MIG "/4/instance"), "");
                assert_string_equal(tree_state(&tree, MIG "/6/instance"), "1g.10gb");
                tree_done(&tree);
        } while (killed);
        assert_true(n > 12);
}

static void a_layout_that_fails_is_as_it_was(void **state)
{
        static const struct {
                const char *leaf;
                int error;
        } faults[] = {{"instance", -EBUSY}, {"instance", -EIO}, {"compute", -EBUSY},
                {"compute", -EPERM}, {"compute", 0}};

        for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
                _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
                _cleanup_free_ char *before = NULL;
                _cleanup_change_ struct change change = {0};
                char id[CHANGE_ID_MAX];
                struct tree tree;

                setup_layout(&tree, id);
                before = tree_snapshot(&tree);
                tree.fault_leaf = faults[i].leaf;
                tree.fault_error = faults[i].error;
                assert_true(apply(&tree, &next_layout, NULL, &error) < 0);
                assert_non_null(error_hint(&error));
                assert_as_before(&tree, before, "a layout that fails");
                assert_int_equal(change_load(&tree.host, id, &change, NULL), 0);
                assert_int_equal(change_standing(&tree.host, &change), CHANGE_STANDS);
                tree_done(&tree);
        }
}

/* More are made beside what is there, and all go together. */
static void instances_are_added(void **state)
{
        static const struct scenario more = {.technique = &technique_mig,
                .address = TREE_MIG_GPU,
                .what = "one more",
                .ask = {.want = "1g.10gb"}};
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_layout(&tree, id);
        assert_int_equal(apply(&tree, &more, NULL, NULL), 0);
        assert_string_equal(tree_state(&tree, MIG "/5/instance"), "1g.10gb");
        assert_string_equal(tree_state(&tree, MIG "/0/instance"), "3g.40gb");
        assert_int_equal(apply(&tree, &more, NULL, NULL), -ENOSPC);
        tree_faults(&tree, "");
        assert_int_equal(undo(&tree, id, NULL), 0);
        assert_string_equal(tree_state(&tree, MIG "/5/instance"), "");
        assert_string_equal(tree_state(&tree, MIG "/0/instance"), "");
        tree_done(&tree);
}

/* A process that has the node of an instance open is found though the driver says nothing of it. */
static void who_has_an_instance_open_is_found(void **state)
{
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        struct mig_driver driver;
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_layout(&tree, id);
        tree_faults(&tree, "");
        assert_int_equal(mig_driver_read(tree.host.mig, 10000, TREE_MIG_GPU, &driver, NULL), 0);
        for (unsigned i = 0; i < driver.n_present; i++)
                if (driver.present[i].start == 0)
                        tree_file(&tree, "DeviceFileMinor: 39\nDeviceFileMode: 292\n",
                                "proc/driver/nvidia/capabilities/gpu0/mig/gi%u/ci0/access",
                                driver.present[i].id);
        tree_process(&tree, 321, "train", "/dev/nvidia-caps/nvidia-cap39");
        assert_int_equal(technique_undo(&tree.host, id, &obstacles, NULL), -EBUSY);
        assert_string_equal(seen(&obstacles, OBSTACLE_INSTANCE_USED)->sentence,
                "the 3g.40gb at slices 0 to 3 of " TREE_MIG_GPU
                " is in use: process 321 (train) has /dev/nvidia-caps/nvidia-cap39 open");
        /* The planner leaves it where it is, too. */
        assert_int_equal(apply(&tree, &next_layout, NULL, NULL), -ENOSPC);
        assert_string_equal(tree_state(&tree, MIG "/0/instance"), "3g.40gb");
        tree_done(&tree);
}

static void others_in_ours_are_not_touched(void **state)
{
        static const struct scenario turn_on = {.technique = &technique_mig,
                .address = TREE_MIG_GPU,
                .what = "with its mode",
                .ask = {.want = "2g.12gb", .turn_on = true}};
        _cleanup_obstacles_ struct obstacles obstacles = {0};
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_mig_off(&tree);
        assert_int_equal(apply(&tree, &turn_on, id, NULL), 0);
        tree_others(&tree, MIG "/0/0/compute", "");
        tree_others(&tree, MIG "/0/1/compute", "1c");
        tree_others(&tree, MIG "/3/instance", "1g.6gb");
        assert_int_equal(technique_undo(&tree.host, id, &obstacles, NULL), -EBUSY);
        assert_int_equal(obstacles.n, 2);
        assert_non_null(seen(&obstacles, OBSTACLE_INSTANCE_OTHERS));
        assert_string_equal(obstacles.list[0].sentence,
                "the 1g.6gb at slice 3 of " TREE_MIG_GPU
                " is not Cleave's, and MIG mode cannot be turned off while it exists");
        assert_string_equal(obstacles.list[1].sentence,
                "the 2g.12gb at slices 0 to 1 of " TREE_MIG_GPU
                " has a compute instance that is not Cleave's");
        tree_others(&tree, MIG "/0/1/compute", "");
        tree_others(&tree, MIG "/3/instance", "");
        /* Nor is the mode turned off below virtual functions. */
        tree_file(&tree, "16\n", DEV "/sriov_totalvfs", TREE_MIG_GPU);
        tree_file(&tree, "4\n", DEV "/sriov_numvfs", TREE_MIG_GPU);
        obstacles_done(&obstacles);
        assert_int_equal(technique_undo(&tree.host, id, &obstacles, NULL), -EBUSY);
        assert_string_equal(seen(&obstacles, OBSTACLE_HAS_FUNCTIONS)->sentence,
                TREE_MIG_GPU " has 4 virtual functions enabled, and MIG mode cannot be turned off "
                             "while it has");
        tree_file(&tree, "0\n", DEV "/sriov_numvfs", TREE_MIG_GPU);
        assert_int_equal(undo(&tree, id, NULL), 0);
        assert_string_equal(tree_state(&tree, MIG "/mode"), "off");
        tree_done(&tree);
}

/* Where the driver cannot be asked, a record is not taken for gone. */
static void a_driver_that_is_away_loses_no_record(void **state)
{
        char id[CHANGE_ID_MAX];
        struct tree tree;

        setup_layout(&tree, id);
        tree_faults(&tree, "fail=9@nvmlInit_v2:1+");
        assert_int_equal(change_reconcile(&tree.host, NULL, NULL, NULL), 0);
        assert_true(undo(&tree, id, NULL) < 0);
        tree_faults(&tree, "");
        assert_int_equal(undo(&tree, id, NULL), 0);
        tree_done(&tree);
}

/* The last of all: every obstacle was produced and recognised by one of these tests. */
static void no_obstacle_is_left_out(void **state)
{
        for (unsigned code = 0; code < OBSTACLE_N_CODES; code++)
                if (!met[code])
                        fail_msg("no test meets the obstacle '%s'", obstacle_word(code));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_technique_is_applied_and_taken_back),
                cmocka_unit_test(a_plan_writes_nothing),
                cmocka_unit_test(killed_at_every_point_of_making_it),
                cmocka_unit_test(killed_at_every_point_of_taking_it_back),
                cmocka_unit_test(a_write_that_fails_is_rolled_back),
                cmocka_unit_test(errors_of_the_kernel_have_their_sentences),
                cmocka_unit_test(values_that_cannot_be_read_are_not_overwritten),
                cmocka_unit_test(a_write_that_does_not_return_is_left_to_reconcile),
                cmocka_unit_test(an_undo_that_does_not_return_is_left_to_reconcile),
                cmocka_unit_test(a_restart_wipes_all_away),
                cmocka_unit_test(a_mode_that_outlives_a_restart_is_still_ours),
                cmocka_unit_test(what_others_changed_is_left_alone),
                cmocka_unit_test(every_obstacle_has_its_sentence),
                cmocka_unit_test(little_memory_to_lock_is_noted),
                cmocka_unit_test(apparmor_is_noted_only_where_it_confines_qemu),
                cmocka_unit_test(capability_files_are_missed),
                cmocka_unit_test(a_machine_without_obstacles_shows_none),
                cmocka_unit_test(functions_in_use_are_not_taken_away),
                cmocka_unit_test(who_has_a_vfio_device_is_found),
                cmocka_unit_test(what_vfio_cannot_reset_is_noted),
                cmocka_unit_test(only_listed_files_are_written),
                cmocka_unit_test(a_write_that_blocks_ends_at_its_deadline),
                cmocka_unit_test(the_variant_driver_is_taken),
                cmocka_unit_test(addresses_are_read),
                cmocka_unit_test(words_for_hypervisors),
                cmocka_unit_test(words_for_mediated_devices),
                cmocka_unit_test(a_record_of_nonsense_is_refused),
                cmocka_unit_test(a_forged_record_writes_nothing_else),
                cmocka_unit_test(the_survey_of_plain_sharing),
                cmocka_unit_test(the_survey_of_the_drivers_own_limits),
                cmocka_unit_test(the_survey_of_a_vgpu_host),
                cmocka_unit_test(the_survey_of_instances),
                cmocka_unit_test(vgpus_of_other_systems),
                cmocka_unit_test(a_layout_changes_around_what_is_in_use),
                cmocka_unit_test(a_layout_killed_at_every_point_is_the_old_or_the_new),
                cmocka_unit_test(a_layout_that_fails_is_as_it_was),
                cmocka_unit_test(instances_are_added),
                cmocka_unit_test(who_has_an_instance_open_is_found),
                cmocka_unit_test(others_in_ours_are_not_touched),
                cmocka_unit_test(a_driver_that_is_away_loses_no_record),
                cmocka_unit_test(the_survey_tells_a_cards_facts),
                cmocka_unit_test(the_survey_of_a_card_in_mig_mode),
                cmocka_unit_test(the_survey_of_mps),
                cmocka_unit_test(a_vgpu_in_use_is_not_cleared),
                cmocka_unit_test(no_obstacle_is_left_out),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
