/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands in the way of a technique on a device: a code and a sentence each, in one list.
 *
 * X(identifier, word in JSON, blocks, hint)
 * One that does not block is a warning. The sentence has the values seen and is written where they
 * are known.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define OBSTACLES(X)                                                                               \
        X(NOT_A_GPU, "not-a-gpu", true, NULL)                                                      \
        X(NO_IOMMU, "no-iommu", true,                                                              \
                "Enable VT-d or AMD-Vi in the firmware; where that is done, add intel_iommu=on "   \
                "iommu=pt to the kernel's command line.")                                          \
        X(NO_GROUP, "no-iommu-group", true,                                                        \
                "Integrated graphics may be left out: add intel_iommu=on to the kernel's command " \
                "line.")                                                                           \
        X(NO_REMAPPING, "no-interrupt-remapping", true,                                            \
                "Enable interrupt remapping (VT-d, AMD-Vi) in the firmware.")                      \
        X(UNSAFE_INTERRUPTS, "unsafe-interrupts", false,                                           \
                "Unload vfio_iommu_type1 and load it without allow_unsafe_interrupts.")            \
        X(GROUP_SHARED, "group-shared", true,                                                      \
                "Move the card to another slot, or take that device from its driver as well.")     \
        X(NO_ACS, "no-acs", false, "Another slot may have a port with ACS.")                       \
        X(ACS_OVERRIDE, "acs-override", false, "Do not pass devices to VMs that are not trusted.") \
        X(HELD, "held", true, "End what holds it.")                                                \
        X(HAS_FUNCTIONS, "has-functions", true, "Remove its virtual functions first.")             \
        X(HAS_MEDIATED, "has-mediated-devices", true, "Remove its mediated devices first.")        \
        X(HAS_INSTANCES, "has-instances", true,                                                    \
                "Remove them first (cleave partition remove, for those of Cleave's).")             \
        X(CONSOLE, "console", true,                                                                \
                "With --allow-console-loss the console goes dark until the device is released.")   \
        X(FIRMWARE_DISPLAY, "firmware-display", true,                                              \
                "With --allow-console-loss it is taken away first.")                               \
        X(BOOT_DISPLAY, "boot-display", false,                                                     \
                "The VM may need the card's ROM in a file (romfile= of QEMU).")                    \
        X(NO_RESET, "no-reset", false,                                                             \
                "Restart the machine between VMs, or expect the second start to fail.")            \
        X(NO_VFIO, "no-vfio", true, "Install the kernel's modules, or one built with VFIO_PCI.")   \
        X(NO_ADDRESSES, "no-addresses", true, "Enable Above 4G Decoding in the firmware.")         \
        X(SLOW_LINK, "slow-link", false,                                                           \
                "A link may slow down while idle; under load it should not. Reseat the card.")     \
        X(ASLEEP, "asleep", false, "It wakes when it is used.")                                    \
        X(NO_MEMLOCK, "memory-lock", false,                                                        \
                "Raise it (LimitMEMLOCK=, ulimit -l) to the VM's memory and 1 GiB.")               \
        X(APPARMOR, "apparmor", false,                                                             \
                "For a <hostdev> libvirt adds these rules by itself; for a QEMU started by hand "  \
                "add them to its profile and load that anew (apparmor_parser -r FILE).")           \
        X(OTHERS_VFIO, "vfio-by-others", true,                                                     \
                "Whoever bound it should give it back; Cleave touches only what it made.")         \
        X(ATTACHED, "attached", true, "cleave passthrough release gives it back.")                 \
        X(NO_SRIOV, "no-sriov", true, NULL)                                                        \
        X(NO_DRIVER, "no-driver", true, "Give the device back to its driver.")                     \
        X(ON_VFIO, "on-vfio", true, "Release the device first.")                                   \
        X(TOO_MANY, "too-many-functions", true, NULL)                                              \
        X(FUNCTIONS_ON, "functions-enabled", true,                                                 \
                "They have to be removed before their number can change.")                         \
        X(FUNCTION_HELD, "function-held", true, "Stop the VM that has it.")                        \
        X(FUNCTION_ATTACHED, "function-attached", true, "Release it first.")                       \
        X(NO_MEDIATED, "no-mediated-devices", true, NULL)                                          \
        X(NO_TYPE, "no-such-type", true, NULL)                                                     \
        X(TYPE_EXHAUSTED, "type-exhausted", true,                                                  \
                "Types share the card: remove another device, or take a smaller type.")            \
        X(NO_VGPU, "no-vgpu", true, "Install NVIDIA's vGPU host driver.")                          \
        X(VGPU_TAKEN, "vgpu-taken", true, "Clear it, or take another function.")                   \
        X(VGPU_ECC, "vgpu-ecc", true,                                                              \
                "Turn ECC off: nvidia-smi -i ADDRESS -e 0, then reset the GPU or restart.")        \
        X(VGPU_FUNCTION, "vgpu-function", true,                                                    \
                "cleave partition create vgpu makes a vGPU of it, which a VM takes.")              \
        X(NO_VGPU_MANAGER, "no-vgpu-manager", true,                                                \
                "systemctl start nvidia-vgpud nvidia-vgpu-mgr")                                    \
        X(VGPU_UNLICENSED, "vgpu-unlicensed", false,                                               \
                "Give the driver in the VM a licence: a client token, and nvidia-gridd running.")  \
        X(NO_PARTITIONS, "no-partition-modes", true, NULL)                                         \
        X(NOT_MIG, "not-mig", true, NULL)                                                          \
        X(MIG_OFF, "mig-off", true,                                                                \
                "With --turn-on-mig it is turned on for it; that needs root and a GPU that "       \
                "nobody "                                                                          \
                "has open, and before Hopper perhaps a reset of the GPU.")                         \
        X(MIG_ON, "mig-on", true, "Use its instances, or turn MIG mode off.")                      \
        X(MIG_PENDING, "mig-pending", true,                                                        \
                "Reset the GPU (nvidia-smi -i ADDRESS --gpu-reset) or restart the machine.")       \
        X(MIG_HIDDEN, "mig-hidden", true, "Run it as root.")                                       \
        X(NO_CAPABILITIES, "no-capability-files", false,                                           \
                "nvidia-modprobe -f FILE makes the node of each of them.")                         \
        X(INSTANCE_USED, "instance-used", true, "End the programs that use it.")                   \
        X(INSTANCE_OTHERS, "instance-of-others", true,                                             \
                "Whoever made it should take it away; Cleave touches only what it made.")          \
        X(NO_NVIDIA, "no-nvidia-driver", true, "Load NVIDIA's driver.")                            \
        X(NO_MPS, "no-mps", true, "Install nvidia-cuda-mps-control, a part of the driver.")        \
        X(NO_DMEM, "no-dmem", true, "It needs Linux 6.14 and amdgpu or xe, or NVIDIA driver 615.")

enum obstacle_code {
#define X(identifier, word, blocks, hint) OBSTACLE_##identifier,
        OBSTACLES(X)
#undef X
                OBSTACLE_N_CODES
};

struct obstacle {
        enum obstacle_code code;
        char *sentence; /* without full stop */
};

struct obstacles {
        struct obstacle *list;
        size_t n;
        bool failed; /* a sentence is missing for lack of memory */
};

const char *obstacle_word(enum obstacle_code code);
bool obstacle_blocks(enum obstacle_code code);
const char *obstacle_hint(enum obstacle_code code); /* or NULL */

void obstacles_add(struct obstacles *obstacles, enum obstacle_code code, const char *format, ...)
        __attribute__((format(printf, 3, 4)));
void obstacles_done(struct obstacles *obstacles);
#define _cleanup_obstacles_ _cleanup_(obstacles_done)

/* The first that blocks, or NULL. */
const struct obstacle *obstacles_blocking(const struct obstacles *obstacles);
/* NULL: not there. */
const struct obstacle *obstacles_find(const struct obstacles *obstacles, enum obstacle_code code);

/* 0 where nothing blocks, else an error made of what does: the first, and how many more. */
int obstacles_error(
        const struct obstacles *obstacles, const char *what, struct cleave_error *error);
