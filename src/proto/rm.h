/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of NVIDIA's resource manager (RM) interface that Cleave reads and writes: the ioctls of
 * /dev/nvidiactl by which the driver library makes its objects.
 *
 * Source: open-gpu-kernel-modules 580.105.08 and 595.45.04 (nv_escape.h, nvos.h, cl*.h,
 * ctrl*.h); layouts and results seen to hold on 580.159.04 (docs/benchmarks.md). Offsets are the
 * same since R525 except where a comment says otherwise. RM is not a stable interface: every
 * length that comes with a call is checked before a field is read.
 *
 * The simulated GPU speaks the same interface, so the guard sees no difference.
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* _IOC_TYPE of RM ioctls. The kernel module looks at the number alone; the type tells them from
 * those of other devices, /dev/nvidia-uvm among them, which have type 0. */
#define RM_IOCTL_TYPE 'F'

/* _IOC_NR */
#define RM_ESC_ALLOC_MEMORY     0x27
#define RM_ESC_FREE             0x29
#define RM_ESC_CONTROL          0x2A
#define RM_ESC_ALLOC            0x2B
#define RM_ESC_DUP_OBJECT       0x34
#define RM_ESC_MAP_MEMORY       0x4E
#define RM_ESC_VID_HEAP_CONTROL 0x4A
#define RM_ESC_XFER             0xD3 /* carries another ioctl whose struct is over 4 KiB */

/* status words */
#define RM_OK                0x00000000u
#define RM_ERR_NO_MEMORY     0x00000051u
#define RM_ERR_OBJECT_ABSENT 0x00000057u
#define RM_ERR_NOT_SUPPORTED 0x00000056u
#define RM_ERR_INVALID       0x0000003Du
#define RM_ERR_GPU_LOST      0x0000000Fu
#define RM_ERR_DENIED        0x0000001Bu

/* classes */
#define RM_CLASS_ROOT          0x0000u /* a client; 0x0001 and 0x0041 are its other names */
#define RM_CLASS_ROOT_NON_PRIV 0x0001u
#define RM_CLASS_ROOT_CLIENT   0x0041u
#define RM_CLASS_DEVICE        0x0080u
#define RM_CLASS_SUBDEVICE     0x2080u
#define RM_CLASS_MEMORY_SYSTEM 0x003Eu
#define RM_CLASS_MEMORY_PRIV   0x003Fu /* device memory, privileged */
#define RM_CLASS_MEMORY_LOCAL  0x0040u /* device memory */
#define RM_CLASS_CHANNEL_GROUP 0xA06Cu
#define RM_CLASS_CHANNEL_LOW   0x6Fu /* low byte of every channel class (Hopper 0xC86F) */

/* engine type of a channel group */
#define RM_ENGINE_GRAPHICS 1u

/* controls */
#define RM_CTRL_GPU_GET_GID_INFO     0x2080014Au /* on a subdevice */
#define RM_CTRL_GROUP_SCHEDULE       0xA06C0101u
#define RM_CTRL_GROUP_SET_TIMESLICE  0xA06C0103u
#define RM_CTRL_GROUP_GET_TIMESLICE  0xA06C0104u
#define RM_CTRL_GROUP_PREEMPT        0xA06C0105u
#define RM_CTRL_FIFO_DISABLE_CHANNEL 0x2080110Bu

/* RM_ESC_ALLOC, NVOS64. params_size came with R535; before it the struct is 40 bytes and flags
 * and status stand 4 bytes earlier: rm_alloc_status() knows. A 32-byte NVOS21 exists too. */
struct rm_alloc {
        uint32_t client;
        uint32_t parent;
        uint32_t handle; /* in: the wanted handle, or 0; out: the handle */
        uint32_t class_id;
        uint64_t params;
        uint64_t rights;
        uint32_t params_size;
        uint32_t flags;
        uint32_t status;
        uint32_t pad;
};
static_assert(sizeof(struct rm_alloc) == 48, "NVOS64");
static_assert(offsetof(struct rm_alloc, status) == 40, "NVOS64");

#define RM_ALLOC_SIZE_NVOS64       48
#define RM_ALLOC_SIZE_NVOS64_SHORT 40
#define RM_ALLOC_SIZE_NVOS21       32

/* RM_ESC_FREE, NVOS00: frees an object and all below it */
struct rm_free {
        uint32_t client;
        uint32_t parent;
        uint32_t handle;
        uint32_t status;
};
static_assert(sizeof(struct rm_free) == 16, "NVOS00");

/* RM_ESC_CONTROL, NVOS54 */
struct rm_control {
        uint32_t client;
        uint32_t object;
        uint32_t cmd;
        uint32_t flags;
        uint64_t params;
        uint32_t params_size;
        uint32_t status;
};
static_assert(sizeof(struct rm_control) == 32, "NVOS54");

/* RM_ESC_DUP_OBJECT, NVOS55: another name, in another client, for the same memory. It takes no
 * memory; the memory lives until its last name is freed. */
struct rm_dup {
        uint32_t client;
        uint32_t parent;
        uint32_t handle; /* in: the wanted handle; out: the handle */
        uint32_t client_source;
        uint32_t handle_source;
        uint32_t flags;
        uint32_t status;
};
static_assert(sizeof(struct rm_dup) == 28, "NVOS55");

/* RM_ESC_MAP_MEMORY, NVOS33 and the descriptor that mmap() is to be called on. */
struct rm_map {
        uint32_t client;
        uint32_t device;
        uint32_t memory;
        uint32_t pad;
        uint64_t offset;
        uint64_t length;
        uint64_t address; /* out. The simulated GPU: where in the device's memory file it begins */
        uint32_t status;
        uint32_t flags;
        int32_t fd;
        uint32_t pad2;
};
static_assert(sizeof(struct rm_map) == 56, "nv_ioctl_nvos33_parameters_with_fd");

/* RM_ESC_XFER */
struct rm_xfer {
        uint32_t nr;
        uint32_t size;
        uint64_t arg;
};
static_assert(sizeof(struct rm_xfer) == 16, "nv_ioctl_xfer_t");

/* parameters of RM_CLASS_MEMORY_*: NV_MEMORY_ALLOCATION_PARAMS. 120 bytes before R545. */
struct rm_memory_params {
        uint32_t owner;
        uint32_t type;
        uint32_t flags;
        uint32_t width;
        uint32_t height;
        int32_t pitch;
        uint32_t attr;
        uint32_t attr2;
        uint32_t format;
        uint32_t compr_covg;
        uint32_t zcull_covg;
        uint32_t pad;
        uint64_t range_lo;
        uint64_t range_hi;
        uint64_t size; /* in: wanted; out: taken */
        uint64_t alignment;
        uint64_t offset;
        uint64_t limit;
        uint64_t address;
        uint32_t ctag_offset;
        uint32_t va_space;
        uint32_t internal_flags;
        uint32_t tag;
};
static_assert(offsetof(struct rm_memory_params, size) == 64, "NV_MEMORY_ALLOCATION_PARAMS");
static_assert(sizeof(struct rm_memory_params) == 120, "NV_MEMORY_ALLOCATION_PARAMS");

/* RM_ESC_ALLOC_MEMORY, NVOS02 with its descriptor: mostly classes of system memory */
struct rm_alloc_memory {
        uint32_t client;
        uint32_t parent;
        uint32_t handle;
        uint32_t class_id;
        uint32_t flags;
        uint32_t pad;
        uint64_t memory;
        uint64_t limit; /* size - 1 */
        uint32_t status;
        uint32_t pad2;
        int32_t fd;
        uint32_t pad3;
};
static_assert(offsetof(struct rm_alloc_memory, status) == 40, "NVOS02");
static_assert(sizeof(struct rm_alloc_memory) == 56, "nv_ioctl_nvos02_parameters_with_fd");

/* RM_ESC_VID_HEAP_CONTROL, NVOS32: the older way to device memory, function ALLOC_SIZE */
struct rm_vid_heap {
        uint32_t client;
        uint32_t parent;
        uint32_t function;
        uint32_t va_space;
        int16_t ivc_heap;
        uint16_t pad;
        uint32_t status;
        uint64_t total;
        uint64_t free;
        /* data.AllocSize */
        uint32_t owner;
        uint32_t handle; /* hMemory, in and out */
        uint32_t type;
        uint32_t flags;
        uint32_t attr;
        uint32_t format;
        uint32_t compr_covg;
        uint32_t zcull_covg;
        uint32_t partition_stride;
        uint32_t width;
        uint32_t height;
        uint32_t pad2;
        uint64_t size; /* in: wanted; out: taken */
};
#define RM_VID_HEAP_ALLOC_SIZE       2u
#define RM_VID_HEAP_ALLOC_SIZE_RANGE 14u
/* NVOS32_ATTR_LOCATION, bits 26:25 of attr; 0 is device memory */
#define RM_ATTR_LOCATION(attr) (((attr) >> 25) & 3u)

/* parameters of RM_CLASS_DEVICE: NV0080_ALLOC_PARAMETERS begins with the device instance */
struct rm_device_params {
        uint32_t instance;
};

/* parameters of RM_CLASS_CHANNEL_GROUP */
struct rm_channel_group_params {
        uint32_t error_object;
        uint32_t ecc_error_object;
        uint32_t va_space;
        uint32_t engine_type;
};

/* RM_CTRL_GROUP_SET_TIMESLICE and _GET_TIMESLICE */
struct rm_timeslice {
        uint64_t microseconds;
};

/* RM_CTRL_GROUP_PREEMPT */
struct rm_preempt {
        uint8_t wait;
        uint8_t manual_timeout;
        uint8_t pad[2];
        uint32_t timeout_us;
};
static_assert(sizeof(struct rm_preempt) == 8, "NVA06C_CTRL_PREEMPT_PARAMS");

/* RM_CTRL_GROUP_SCHEDULE */
struct rm_schedule {
        uint8_t enable;
        uint8_t skip_submit;
        uint8_t skip_enable;
};

/* RM_CTRL_GPU_GET_GID_INFO: flags 2 asks for the 16 bytes of the UUID in binary form */
struct rm_gid_info {
        uint32_t index;
        uint32_t flags;
        uint32_t length;
        uint8_t data[256];
};
#define RM_GID_BINARY 2u

/* RM_CTRL_FIFO_DISABLE_CHANNEL, on a subdevice */
struct rm_disable_channels {
        uint8_t disable;
        uint8_t pad1[3];
        uint32_t channels;
        uint8_t only_disable_scheduling;
        uint8_t rewind;
        uint8_t pad2[6];
        uint64_t runlist_preempt_event; /* must be 0 from user space */
        uint32_t client[64];
        uint32_t channel[64];
};
static_assert(sizeof(struct rm_disable_channels) == 536, "NV2080_CTRL_FIFO_DISABLE_CHANNELS");
