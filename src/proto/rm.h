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
/* there is no such, or no longer */
#define RM_ERR_INVALID_CHANNEL       0x00000021u
#define RM_ERR_INVALID_CLIENT        0x00000023u
#define RM_ERR_INVALID_OBJECT        0x00000031u
#define RM_ERR_INVALID_OBJECT_HANDLE 0x00000033u

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
#define RM_CLASS_GPU_INSTANCE  0xC637u /* a client's use of a MIG instance, below a subdevice */
#define RM_CLASS_COMPUTE       0xC638u /* and of a compute instance in it, below that */
#define RM_CLASS_CHANNEL_LOW   0x6Fu   /* low byte of every channel class (Hopper 0xC86F) */

/* engine type of a channel group */
#define RM_ENGINE_GRAPHICS 1u

/* controls */
#define RM_CTRL_GPU_GET_GID_INFO     0x2080014Au /* on a subdevice: the GPU's, in MIG mode too */
#define RM_CTRL_COMPUTE_GET_UUID     0xC6380101u /* on a compute instance: the MIG device's */
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

/* Parameters of both classes of MIG (NVC637 and NVC638_ALLOCATION_PARAMETERS). */
struct rm_instance_params {
        uint64_t capability; /* descriptor of its capability file */
        uint32_t id;         /* of the GPU instance; of the compute instance in it */
        uint32_t pad;
};
static_assert(sizeof(struct rm_instance_params) == 16, "NVC637_ALLOCATION_PARAMETERS");

/* RM_CTRL_COMPUTE_GET_UUID */
struct rm_compute_uuid {
        uint8_t uuid[16];
        char text[41]; /* "MIG-…" */
};
static_assert(sizeof(struct rm_compute_uuid) == 57, "NVC638_CTRL_GET_UUID_PARAMS");

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

/* -- context-switch records: docs/probes.md ---------------------------------------------------- */

/* both below a client; the first is system memory that belongs to no device */
#define RM_CLASS_MEMORY_DEVICELESS 0x90CEu
#define RM_CLASS_EVENT_BUFFER      0x90CDu

#define RM_CTRL_GPU_GET_ATTACHED_IDS 0x201u /* on a client: uint32_t[32] */
#define RM_CTRL_GPU_GET_ID_INFO      0x205u /* on a client: uint32_t[8]; id first, device third */
#define RM_CTRL_TIMER_GET_TIME       0x20800403u /* uint64_t ns, the clock of the records */
#define RM_CTRL_GR_FECS_BIND         0x20801238u
#define RM_CTRL_EVENT_BUFFER_ENABLE  0x90CD0101u
#define RM_CTRL_EVENT_BUFFER_FLUSH   0x90CD0104u /* no parameters */

/* attr, attr2 of rm_memory_params and flags of rm_map for memory that RM writes and we read */
#define RM_ATTR_COHERENCY_WRITE_BACK (5u << 29)
#define RM_ATTR2_USER_READ_ONLY      (1u << 22)
#define RM_MAP_READ_ONLY             1u

/* parameters of RM_CLASS_EVENT_BUFFER: NV_EVENT_BUFFER_ALLOC_PARAMETERS */
struct rm_event_buffer_params {
        uint64_t header_address; /* out, not used here */
        uint64_t record_address;
        uint32_t record_size;
        uint32_t record_count;
        uint64_t vardata_address;
        uint32_t vardata_size;
        uint32_t records_free_threshold;
        uint64_t notification;
        uint32_t vardata_free_threshold;
        uint32_t subdevice; /* never 0: RM 580 follows it unchecked */
        uint32_t flags;
        uint32_t header_memory; /* RM_CLASS_MEMORY_DEVICELESS, read-only for the user */
        uint32_t record_memory;
        uint32_t vardata_memory; /* 0 */
};
static_assert(sizeof(struct rm_event_buffer_params) == 72, "NV_EVENT_BUFFER_ALLOC_PARAMETERS");

/* RM_CTRL_EVENT_BUFFER_ENABLE */
struct rm_event_buffer_enable {
        uint8_t enable;
        uint8_t pad[3];
        uint32_t flags;
};
#define RM_EVENT_BUFFER_KEEP_NEWEST 2u

/* RM_CTRL_GR_FECS_BIND, NV2080_CTRL_GR_FECS_BIND_EVTBUF_FOR_UID_V2_PARAMS, on the subdevice */
struct rm_fecs_bind {
        uint32_t event_buffer;
        uint32_t record_size;
        uint32_t detail; /* a user gets starts and ends, whatever it says */
        uint32_t filter;
        uint8_t all_users; /* without CAP_SYS_ADMIN the others' pids read 0 */
        uint8_t pad[3];
        uint32_t reason; /* out: why not */
};
static_assert(sizeof(struct rm_fecs_bind) == 24, "FECS_BIND_EVTBUF_FOR_UID_V2");

/* The header of an event buffer, written by RM. */
struct rm_event_header {
        uint32_t get;
        uint32_t put; /* index of the next record to be written */
        uint64_t count;
        uint64_t dropped;
        uint64_t vardata_dropped;
};
static_assert(sizeof(struct rm_event_header) == 32, "NV_EVENT_BUFFER_HEADER");

/* NV_EVENT_BUFFER_RECORD holding NV_EVENT_BUFFER_FECS_RECORD_V2 */
struct rm_fecs_record {
        uint16_t type; /* 2 */
        uint16_t subtype;
        uint32_t vardata;
        uint8_t tag;
        uint8_t vmid;
        uint16_t seqno;   /* of this buffer, wraps; a gap is a loss */
        uint32_t context; /* one for each channel group on the engine */
        uint32_t pid;
        uint16_t reserved;
        uint8_t gpu_instance;
        uint8_t compute_instance;
        uint64_t ns;
};
static_assert(sizeof(struct rm_fecs_record) == 32, "NV_EVENT_BUFFER_FECS_RECORD_V2");
#define RM_FECS_TAG_START 6u /* the context has the engine */
#define RM_FECS_TAG_END   7u /* it has not, and its state is saved */

/* -- how busy the engines were, in samples of about 0.2 s, the source of NVML's figures ---------
 */

#define RM_CTRL_PERF_UTIL_SAMPLES 0x20802096u

struct rm_engine_sample {
        uint32_t busy; /* in 0.01 % */
        uint32_t scale;
        uint32_t pid; /* who had the engine when the sample ended */
        uint32_t subpid;
        char name[100];
        uint64_t os_pid;
};
struct rm_util_sample {
        uint64_t ns; /* the clock of RM_CTRL_TIMER_GET_TIME */
        struct rm_engine_sample memory;
        struct rm_engine_sample graphics;
        struct rm_engine_sample other[4];
};
#define RM_UTIL_SAMPLES 72
struct rm_util_samples {
        uint8_t type; /* 2 */
        uint8_t pad[3];
        uint32_t size; /* of sample[] */
        uint32_t count;
        uint32_t tracker;
        struct rm_util_sample sample[RM_UTIL_SAMPLES]; /* a ring; go by the times */
};
static_assert(sizeof(struct rm_util_sample) == 776, "GPUMON_PERFMON_UTIL_SAMPLE");
static_assert(offsetof(struct rm_util_samples, sample) == 16, "PERFMON_UTIL_SAMPLES_V2");

/* -- steering ---------------------------------------------------------------------------------- */

/* On a channel. Needs CAP_SYS_NICE of the caller, whoever opened the descriptor. */
#define RM_CTRL_CHANNEL_RESTART_RUNLIST 0xA06F0111u
struct rm_restart_runlist {
        uint8_t force;       /* also when the channel's group has the engine already */
        uint8_t bypass_wait; /* return before the switch is done */
};

/* On the subdevice of the group's own client. */
#define RM_CTRL_GR_SET_PREEMPTION_MODE 0x20801210u
struct rm_preemption_mode {
        uint32_t flags;
        uint32_t object; /* channel or group */
        uint32_t graphics;
        uint32_t compute;
        uint64_t route[2];
};
#define RM_PREEMPTION_SET_COMPUTE  1u /* flags */
#define RM_PREEMPTION_THREAD_BLOCK 1u
#define RM_PREEMPTION_INSTRUCTION  2u
static_assert(sizeof(struct rm_preemption_mode) == 32, "SET_CTXSW_PREEMPTION_MODE");
