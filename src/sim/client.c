/* SPDX-License-Identifier: Apache-2.0 */
#include "client.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel.h"
#include "rm.h"

#define CLASS_CHANNEL 0xc86fu /* Hopper's */
#define FIRST_HANDLE  0x5c000001u

static struct {
        pthread_mutex_t mutex;
        int fd;
        uint32_t client;
        struct client_device device[SIM_MAX_DEVICES];
        _Atomic uint32_t next_handle;
} client = {.mutex = PTHREAD_MUTEX_INITIALIZER, .fd = -1, .next_handle = FIRST_HANDLE};

/* ---- the way to the kernel ---- */

extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));
extern ElfW(Dyn) _DYNAMIC[] __attribute__((visibility("hidden")));

static const void *dynamic_pointer(const ElfW(Dyn) * entry)
{
        uintptr_t base = (uintptr_t)&__ehdr_start, value = entry->d_un.d_ptr;

        /* most loaders relocate these in place */
        return (const void *)(value < base ? value + base : value);
}

static void redirect_slot(uintptr_t slot)
{
        uintptr_t page = slot & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
        size_t length = slot + sizeof(void *) - page;

        /* the slot is read-only once the loader is done (full RELRO) */
        if (mprotect((void *)page, length, PROT_READ | PROT_WRITE) < 0)
                return;
        *(void **)slot = (void *)sim_ioctl;
        mprotect((void *)page, length, PROT_READ);
}

static void redirect_table(
        const ElfW(Rela) * table, size_t bytes, const ElfW(Sym) * symbols, const char *strings)
{
        for (size_t i = 0; table && i < bytes / sizeof(*table); i++) {
                const ElfW(Sym) *symbol = symbols + ELF64_R_SYM(table[i].r_info);

                if (ELF64_R_SYM(table[i].r_info) && !strcmp(strings + symbol->st_name, "ioctl"))
                        redirect_slot((uintptr_t)&__ehdr_start + table[i].r_offset);
        }
}

/* Has this library's calls of ioctl() answered by the simulated kernel. Whoever looks at the slot
 * later finds that as what was there before, as with the real library libc's. */
__attribute__((constructor)) static void redirect_ioctl(void)
{
        const ElfW(Rela) *plt = NULL, *rela = NULL;
        const ElfW(Sym) *symbols = NULL;
        const char *strings = NULL;
        size_t plt_bytes = 0, rela_bytes = 0;

        for (const ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag != DT_NULL; entry++) {
                if (entry->d_tag == DT_JMPREL)
                        plt = dynamic_pointer(entry);
                else if (entry->d_tag == DT_PLTRELSZ)
                        plt_bytes = entry->d_un.d_val;
                else if (entry->d_tag == DT_RELA)
                        rela = dynamic_pointer(entry);
                else if (entry->d_tag == DT_RELASZ)
                        rela_bytes = entry->d_un.d_val;
                else if (entry->d_tag == DT_SYMTAB)
                        symbols = dynamic_pointer(entry);
                else if (entry->d_tag == DT_STRTAB)
                        strings = dynamic_pointer(entry);
        }
        if (!symbols || !strings)
                return;
        redirect_table(plt, plt_bytes, symbols, strings);
        redirect_table(rela, rela_bytes, symbols, strings);
}

/* False: the call did not reach the kernel, status is not set. */
static bool call_kernel(unsigned long request, void *arg)
{
        int r;

        do
                r = ioctl(client.fd, request, arg);
        while (r < 0 && (errno == EINTR || errno == EAGAIN));
        return r == 0;
}

/* ---- objects ---- */

CUresult client_error(uint32_t status)
{
        switch (status) {
        case RM_OK:
                return CUDA_SUCCESS;
        case RM_ERR_NO_MEMORY:
                return CUDA_ERROR_OUT_OF_MEMORY;
        case RM_ERR_GPU_LOST:
                return CUDA_ERROR_DEVICE_UNAVAILABLE;
        case RM_ERR_DENIED:
                return CUDA_ERROR_NOT_PERMITTED;
        default:
                return CUDA_ERROR_UNKNOWN;
        }
}

uint32_t client_handle(void)
{
        return client.client;
}

static uint32_t alloc_with_handle(
        uint32_t parent, uint32_t class_id, void *params, uint32_t params_size, uint32_t *handle)
{
        struct rm_alloc call = {
                .client = client.client,
                .parent = parent,
                .handle = *handle,
                .class_id = class_id,
                .params = (uintptr_t)params,
                .params_size = params_size,
                .status = RM_ERR_NOT_SUPPORTED,
        };

        if (!call_kernel(_IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, struct rm_alloc), &call))
                return RM_ERR_NOT_SUPPORTED;
        *handle = call.handle;
        return call.status;
}

uint32_t client_alloc(
        uint32_t parent, uint32_t class_id, void *params, uint32_t params_size, uint32_t *ret)
{
        uint32_t handle = atomic_fetch_add(&client.next_handle, 1), status;

        status = alloc_with_handle(parent, class_id, params, params_size, &handle);
        if (status == RM_OK)
                *ret = handle;
        return status;
}

void client_free(uint32_t parent, uint32_t handle)
{
        struct rm_free call = {.client = client.client, .parent = parent, .handle = handle};

        if (handle)
                call_kernel(_IOWR(RM_IOCTL_TYPE, RM_ESC_FREE, struct rm_free), &call);
}

CUresult client_open(void)
{
        uint32_t handle = 0, status = RM_OK;

        pthread_mutex_lock(&client.mutex);
        if (!client.client) {
                client.fd = kernel_control_fd();
                status = alloc_with_handle(0, RM_CLASS_ROOT_CLIENT, NULL, 0, &handle);
                if (status == RM_OK)
                        client.client = handle;
        }
        pthread_mutex_unlock(&client.mutex);
        return status == RM_OK ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

/* What is made below the device from then on is the MIG device's. */
static uint32_t use_instance(const struct sim_device *device, uint32_t subdevice)
{
        const struct kernel_device *known = kernel_state()->device + device->instance;
        struct rm_instance_params whole = {.id = known->gpu_instance},
                                  part = {.id = known->compute_instance};
        uint32_t instance, compute, status;

        status = client_alloc(subdevice, RM_CLASS_GPU_INSTANCE, &whole, sizeof(whole), &instance);
        return status == RM_OK
                       ? client_alloc(instance, RM_CLASS_COMPUTE, &part, sizeof(part), &compute)
                       : status;
}

CUresult client_device(struct sim_device *device, struct client_device *ret)
{
        struct client_device *known = client.device + device->instance;
        struct rm_device_params params = {.instance = (uint32_t)device->gpu};
        struct client_device made = {0};
        uint32_t status = RM_OK;

        pthread_mutex_lock(&client.mutex);
        if (!known->device) {
                status = client_alloc(
                        client.client, RM_CLASS_DEVICE, &params, sizeof(params), &made.device);
                if (status == RM_OK)
                        status = client_alloc(
                                made.device, RM_CLASS_SUBDEVICE, NULL, 0, &made.subdevice);
                if (status == RM_OK && device->gpu != device->instance)
                        status = use_instance(device, made.subdevice);
                if (status == RM_OK)
                        *known = made;
                else
                        client_free(client.client, made.device);
        }
        if (status == RM_OK)
                *ret = *known;
        pthread_mutex_unlock(&client.mutex);
        return client_error(status);
}

uint32_t client_alloc_memory(struct sim_device *device, uint32_t class_id, uint64_t bytes,
        uint32_t *ret_handle, uint64_t *ret_size, uint64_t *ret_offset)
{
        struct rm_memory_params params = {.size = bytes, .alignment = 2 << 20};
        uint32_t status;

        status = client_alloc(client.device[device->instance].device, class_id, &params,
                sizeof(params), ret_handle);
        if (status != RM_OK)
                return status;
        *ret_size = params.size;
        *ret_offset = params.offset;
        return RM_OK;
}

uint32_t client_dup_memory(struct sim_device *device, uint32_t source, uint32_t handle,
        uint32_t *ret_handle, uint64_t *ret_size, uint64_t *ret_offset)
{
        uint32_t parent = client.device[device->instance].device;
        struct rm_dup dup = {
                .client = client.client,
                .parent = parent,
                .handle = atomic_fetch_add(&client.next_handle, 1),
                .client_source = source,
                .handle_source = handle,
                .status = RM_ERR_NOT_SUPPORTED,
        };
        struct rm_map map = {
                .client = client.client,
                .device = parent,
                .status = RM_ERR_NOT_SUPPORTED,
                .fd = -1,
        };

        call_kernel(_IOWR(RM_IOCTL_TYPE, RM_ESC_DUP_OBJECT, struct rm_dup), &dup);
        if (dup.status != RM_OK)
                return dup.status;
        map.memory = dup.handle;
        call_kernel(_IOWR(RM_IOCTL_TYPE, RM_ESC_MAP_MEMORY, struct rm_map), &map);
        if (map.status != RM_OK) {
                client_free(parent, dup.handle);
                return map.status;
        }
        *ret_handle = dup.handle;
        *ret_size = map.length;
        *ret_offset = map.address;
        return RM_OK;
}

uint32_t client_alloc_groups(struct sim_device *device, struct sim_rm_objects *ret)
{
        /* as the real driver makes them: one group for graphics and compute, three for copies */
        static const struct {
                uint32_t engine;
                int channels;
        } groups[4] = {{RM_ENGINE_GRAPHICS, 8}, {9, 4}, {10, 4}, {11, 4}};
        struct client_device *known = client.device + device->instance;
        uint32_t status = RM_OK;

        *ret = (struct sim_rm_objects){
                .client = client.client,
                .device = known->device,
                .subdevice = known->subdevice,
        };
        for (int i = 0; i < 4 && status == RM_OK; i++) {
                struct rm_channel_group_params params = {.engine_type = groups[i].engine};

                status = client_alloc(known->device, RM_CLASS_CHANNEL_GROUP, &params,
                        sizeof(params), &ret->group[i]);
                for (int k = 0; k < groups[i].channels && status == RM_OK; k++)
                        status = client_alloc(
                                ret->group[i], CLASS_CHANNEL, NULL, 0, &ret->channel[i][k]);
        }
        if (status != RM_OK) {
                for (int i = 0; i < 4; i++)
                        client_free(known->device, ret->group[i]);
                *ret = (struct sim_rm_objects){0};
        }
        return status;
}

uint32_t client_group(const struct sim_rm_objects *objects)
{
        uint32_t index, group = RUNLIST_NONE;

        kernel_lock();
        index = kernel_find(objects->client, objects->group[0]);
        if (index != KERNEL_NONE)
                group = kernel_state()->object[index].group;
        kernel_unlock();
        return group;
}
