/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: which there are, and what is known of them. */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "identity.h"
#include "kernel.h"
#include "models.h"
#include "mps.h"

static struct sim_device devices[SIM_MAX_DEVICES];
static int n_devices;

int sim_device_count(void)
{
        return n_devices;
}

CUresult sim_device_of(CUdevice device, struct sim_device **ret)
{
        if (device < 0 || device >= n_devices)
                return CUDA_ERROR_INVALID_DEVICE;
        *ret = devices + device;
        return CUDA_SUCCESS;
}

/* ---- which there are ---- */

/* The MIG devices of a GPU, or of all: their places among devices, at most KERNEL_MAX_DEVICES. */
static unsigned mig_devices(int gpu, int ret[static KERNEL_MAX_DEVICES])
{
        const struct kernel_state *state = kernel_state();
        unsigned n = 0;

        kernel_lock();
        for (uint32_t d = 0; d < state->devices; d++)
                for (unsigned i = 0; i < KERNEL_MIG_SLICES; i++)
                        for (unsigned j = 0; j < KERNEL_MIG_SLICES; j++) {
                                const struct kernel_mig_instance *instance =
                                        state->mig[d].instance + i;

                                if ((gpu < 0 || d == (uint32_t)gpu) && instance->live &&
                                        instance->compute[j].live &&
                                        instance->compute[j].device != KERNEL_NONE &&
                                        n < KERNEL_MAX_DEVICES)
                                        ret[n++] = (int)instance->compute[j].device;
                        }
        kernel_unlock();
        return n;
}

/* The one device whose UUID begins so, -1 if there is none or more. */
static int find_uuid(const char *text, size_t length, bool mig)
{
        const struct kernel_state *state = kernel_state();
        int places[KERNEL_MAX_DEVICES], found = -1;
        unsigned n = mig ? mig_devices(-1, places) : state->devices;

        for (unsigned i = 0; i < n; i++) {
                int place = mig ? places[i] : (int)i;
                char uuid[SIM_UUID_TEXT];

                sim_uuid_text(state->device[place].uuid, uuid);
                if (mig)
                        memcpy(uuid, "MIG-", strlen("MIG-"));
                if (length >= sizeof(uuid) || strncasecmp(text, uuid, length))
                        continue;
                if (found >= 0)
                        return -1;
                found = place;
        }
        return found;
}

/* The device that an element of CUDA_VISIBLE_DEVICES names, or -1: an index, or the beginning of a
 * UUID that no other device shares. */
static int find_instance(const char *text, size_t length)
{
        char *end;
        long index;

        if (length > 4 && !strncasecmp(text, "GPU-", 4))
                return find_uuid(text, length, false);
        if (length > 4 && !strncasecmp(text, "MIG-", 4))
                return find_uuid(text, length, true);
        if (length == 0 || length > 4 || *text < '0' || *text > '9')
                return -1;
        index = strtol(text, &end, 10);
        return end == text + length && index < (long)kernel_state()->devices ? (int)index : -1;
}

/* What of its GPU a MIG device is. */
static const struct sim_model *cut_model(
        const struct sim_model *whole, const struct kernel_device *known)
{
        static struct sim_model models[SIM_MAX_DEVICES];
        static char names[SIM_MAX_DEVICES][128];
        struct sim_model *model = models + n_devices;

        if (!whole)
                return NULL;
        *model = *whole;
        snprintf(names[n_devices], sizeof(names[0]), "%s MIG %s", whole->name, known->profile);
        model->name = names[n_devices];
        model->memory_mib = (uint32_t)(known->total >> 20);
        model->reserved_mib = 0;
        model->sms = (int)known->sms;
        return model;
}

static CUresult add_device(int instance)
{
        struct sim_device *device = devices + n_devices;
        const struct kernel_device *known = kernel_state()->device + instance;
        const struct sim_model *model = sim_model_find(known->model, strlen(known->model));
        bool cut = known->gpu != (uint32_t)instance;

        *device = (struct sim_device){
                .model = cut ? cut_model(model, known) : model,
                .index = n_devices,
                .instance = instance,
                .gpu = (int)known->gpu,
        };
        memcpy(device->uuid, known->uuid, sizeof(device->uuid));
        if (!device->model)
                return CUDA_ERROR_NO_DEVICE;
        n_devices++;
        return contexts_add_primary(device);
}

/* A GPU in MIG mode is none that CUDA could use as a whole: its first MIG device stands for it. A
 * process has one MIG device at most, and no GPU beside it. (NVIDIA's MIG guide says so of one
 * process; which of them it takes is inferred.) False: the list ends here. */
static bool take_device(int place, CUresult *r)
{
        int places[KERNEL_MAX_DEVICES];
        bool cut;

        if (place < (int)kernel_state()->devices && atomic_load(&kernel_state()->mig[place].on)) {
                if (mig_devices(place, places) == 0)
                        return true;
                place = places[0];
        }
        cut = place >= (int)kernel_state()->devices;
        if (cut && n_devices > 0)
                return true;
        *r = add_device(place);
        return !cut && *r == CUDA_SUCCESS;
}

static CUresult open_all(void)
{
        CUresult r = CUDA_SUCCESS;

        /* GPUs that are whole first: where there is one, no MIG device is taken. */
        for (int cut = 0; cut < 2; cut++)
                for (uint32_t i = 0; i < kernel_state()->devices && !r; i++)
                        if ((int)atomic_load(&kernel_state()->mig[i].on) == cut &&
                                !take_device((int)i, &r) && !r)
                                return r;
        return r;
}

CUresult devices_open(void)
{
        const char *visible = getenv("CUDA_VISIBLE_DEVICES");
        bool seen[KERNEL_MAX_DEVICES] = {false};
        CUresult r = CUDA_SUCCESS;

        if (!visible)
                r = open_all();
        /* the list ends at the first element that names nothing; one named twice empties it */
        while (visible && *visible && !r) {
                size_t length;
                int instance;

                visible += strspn(visible, " ");
                length = strcspn(visible, ", ");
                instance = find_instance(visible, length);
                if (instance < 0)
                        break;
                if (seen[instance]) {
                        n_devices = 0;
                        break;
                }
                seen[instance] = true;
                if (!take_device(instance, &r))
                        break;
                visible += length;
                visible += strspn(visible, " ");
                visible += *visible == ',';
        }
        if (r)
                n_devices = 0;
        return !r && n_devices == 0 ? CUDA_ERROR_NO_DEVICE : r;
}

/* ---- names ---- */

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
        struct sim_device *known;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(ordinal, &known);
        if (r)
                return r;
        if (!device)
                return CUDA_ERROR_INVALID_VALUE;
        *device = ordinal;
        return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count)
{
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!count)
                return CUDA_ERROR_INVALID_VALUE;
        *count = n_devices;
        return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int len, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!name || len <= 0)
                return CUDA_ERROR_INVALID_VALUE;
        snprintf(name, (size_t)len, "%s", device->model->name);
        return CUDA_SUCCESS;
}

/* own: of a MIG device its own; else that of its GPU. */
static CUresult get_uuid(CUuuid *uuid, CUdevice dev, bool own)
{
        struct sim_device *device;
        CUresult r = sim_device_of(dev, &device);

        if (r)
                return r;
        if (!uuid)
                return CUDA_ERROR_INVALID_VALUE;
        memcpy(uuid->bytes, own ? device->uuid : kernel_state()->device[device->gpu].uuid,
                sizeof(uuid->bytes));
        return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        return r ? r : get_uuid(uuid, dev, false);
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev)
{
        CUresult r = sim_enter(__func__);

        return r ? r : get_uuid(uuid, dev, true);
}

CUresult cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)
{
        struct sim_device *device;
        char text[SIM_PCI_TEXT];
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!pciBusId || len <= 0)
                return CUDA_ERROR_INVALID_VALUE;
        sim_pci_text(device->gpu, 4, text);
        if ((size_t)len <= strlen(text))
                return CUDA_ERROR_INVALID_VALUE;
        strcpy(pciBusId, text);
        return CUDA_SUCCESS;
}

CUresult cuDeviceGetByPCIBusId(CUdevice *dev, const char *pciBusId)
{
        unsigned int domain = 0, bus, slot, function = 0;
        CUresult r = sim_enter(__func__);

        if (r)
                return r;
        if (!dev || !pciBusId)
                return CUDA_ERROR_INVALID_VALUE;
        if (sscanf(pciBusId, "%x:%x:%x.%x", &domain, &bus, &slot, &function) < 3) {
                domain = function = 0;
                if (sscanf(pciBusId, "%x:%x.%x", &bus, &slot, &function) < 2)
                        return CUDA_ERROR_INVALID_VALUE;
        }
        for (int i = 0; i < n_devices; i++)
                if (domain == 0 && bus == sim_pci_bus(devices[i].gpu) && slot == 0 &&
                        function == 0) {
                        *dev = i;
                        return CUDA_SUCCESS;
                }
        return CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!bytes)
                return CUDA_ERROR_INVALID_VALUE;
        *bytes = (size_t)(device->model->memory_mib - device->model->reserved_mib) << 20;
        return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!major || !minor)
                return CUDA_ERROR_INVALID_VALUE;
        *major = device->model->major;
        *minor = device->model->minor;
        return CUDA_SUCCESS;
}

/* ---- attributes ---- */

#define TABLE_END 148 /* one more than the last attribute of CUDA 13.0 */

/* What all devices answer alike; what is not here and not below is 0. */
static const int common[TABLE_END] = {
        [CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK] = 1024,
        [CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X] = 1024,
        [CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y] = 1024,
        [CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z] = 64,
        [CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X] = 2147483647,
        [CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y] = 65535,
        [CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z] = 65535,
        [CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK] = 49152,
        [CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY] = 65536,
        [CU_DEVICE_ATTRIBUTE_WARP_SIZE] = 32,
        [CU_DEVICE_ATTRIBUTE_MAX_PITCH] = 2147483647,
        [CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK] = 65536,
        [CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT] = 512,
        [CU_DEVICE_ATTRIBUTE_GPU_OVERLAP] = 1,
        [CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY] = 1,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH] = 131072,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_WIDTH] = 131072,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_HEIGHT] = 65536,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH] = 16384,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT] = 16384,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH] = 16384,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_HEIGHT] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LAYERED_LAYERS] = 2048,
        [CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT] = 512,
        [CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS] = 1,
        [CU_DEVICE_ATTRIBUTE_ECC_ENABLED] = 1,
        [CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING] = 1,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LAYERED_LAYERS] = 2048,
        [CU_DEVICE_ATTRIBUTE_CAN_TEX2D_GATHER] = 1,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_GATHER_HEIGHT] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE] = 8192,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE] = 8192,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE] = 32768,
        [CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT] = 32,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS] = 2046,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_WIDTH] = 131072,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_HEIGHT] = 65536,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_WIDTH] = 16384,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_HEIGHT] = 16384,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE3D_DEPTH] = 16384,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE1D_LAYERED_LAYERS] = 2048,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_HEIGHT] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACE2D_LAYERED_LAYERS] = 2048,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS] = 2046,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH] = 268435456,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_WIDTH] = 131072,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_HEIGHT] = 65000,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_LINEAR_PITCH] = 2097120,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT] = 32768,
        [CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH] = 32768,
        [CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR] = 65536,
        [CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY] = 1,
        [CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS] = 1,
        [CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM] = 1,
        [CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH] = 1,
        [CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES] =
                CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        [CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS] = 1,
        [CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR] = 1,
        [CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_NUMA_ID] = -1,
        [CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE] = 134213632,
        [CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED] = 1,
        [CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS] = 1,
};

static int attribute(const struct sim_device *device, CUdevice_attribute attrib)
{
        const struct sim_model *m = device->model;

        switch (attrib) {
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
                return m->clock_khz;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
                return m->sms;
        case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
                return (int)sim_pci_bus(device->gpu);
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
                return m->memory_clock_khz;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
                return m->bus_width;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
                return m->l2_bytes;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
                return m->threads_per_sm;
        case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
                return m->copy_engines;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
                return m->major;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
                return m->minor;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
                return m->shared_per_sm;
        case CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID:
                return device->index;
        case CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO:
                return m->fp32_to_fp64;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
                return m->shared_per_block_optin;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
                return m->blocks_per_sm;
        case CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE:
                return m->persisting_l2_bytes;
        case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
                return m->reserved_shared;
        case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH:
        case CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED:
                return m->major >= 9;
        case CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT:
                return m->major >= 9 ? 4 : 1;
        case CU_DEVICE_ATTRIBUTE_GPU_PCI_DEVICE_ID:
                return (int)m->pci_device_id;
        case CU_DEVICE_ATTRIBUTE_GPU_PCI_SUBSYSTEM_ID:
                return (int)m->pci_subsystem_id;
        case CU_DEVICE_ATTRIBUTE_MPS_ENABLED:
                return mps_serves(device);
        default:
                return common[attrib];
        }
}

CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!pi || (int)attrib < 1 || (int)attrib >= TABLE_END)
                return CUDA_ERROR_INVALID_VALUE;
        *pi = attribute(device, attrib);
        return CUDA_SUCCESS;
}

CUresult cuDeviceGetProperties(CUdevprop *prop, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!prop)
                return CUDA_ERROR_INVALID_VALUE;
        *prop = (CUdevprop){
                .maxThreadsPerBlock = common[CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK],
                .maxThreadsDim = {common[CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X],
                        common[CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y],
                        common[CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z]},
                .maxGridSize = {common[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X],
                        common[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y],
                        common[CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z]},
                .sharedMemPerBlock = common[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK],
                .totalConstantMemory = common[CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY],
                .SIMDWidth = common[CU_DEVICE_ATTRIBUTE_WARP_SIZE],
                .memPitch = common[CU_DEVICE_ATTRIBUTE_MAX_PITCH],
                .regsPerBlock = common[CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK],
                .clockRate = device->model->clock_khz,
                .textureAlign = common[CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT],
        };
        return CUDA_SUCCESS;
}

CUresult cuDeviceGetTexture1DLinearMaxWidth(
        size_t *maxWidthInElements, CUarray_format format, unsigned numChannels, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!maxWidthInElements || (numChannels != 1 && numChannels != 2 && numChannels != 4))
                return CUDA_ERROR_INVALID_VALUE;
        *maxWidthInElements = common[CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_LINEAR_WIDTH];
        return CUDA_SUCCESS;
}

CUresult cuDeviceGetExecAffinitySupport(int *pi, CUexecAffinityType type, CUdevice dev)
{
        struct sim_device *device;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(dev, &device);
        if (r)
                return r;
        if (!pi || type != CU_EXEC_AFFINITY_TYPE_SM_COUNT)
                return CUDA_ERROR_INVALID_VALUE;
        *pi = 0; /* a thing of MPS */
        return CUDA_SUCCESS;
}

CUresult cuDeviceGetP2PAttribute(
        int *value, CUdevice_P2PAttribute attrib, CUdevice srcDevice, CUdevice dstDevice)
{
        struct sim_device *source, *destination;
        CUresult r = sim_enter(__func__);

        if (!r)
                r = sim_device_of(srcDevice, &source);
        if (!r)
                r = sim_device_of(dstDevice, &destination);
        if (r)
                return r;
        if (!value)
                return CUDA_ERROR_INVALID_VALUE;
        if (source == destination)
                return CUDA_ERROR_INVALID_DEVICE;
        switch (attrib) {
        case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK:
                *value = 0;
                return CUDA_SUCCESS;
        case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
        case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
        case CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED:
                *value = 1;
                return CUDA_SUCCESS;
        default:
                return CUDA_ERROR_INVALID_VALUE;
        }
}
