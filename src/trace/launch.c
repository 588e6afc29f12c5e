/* SPDX-License-Identifier: Apache-2.0 */
#include "launch.h"

#include <elf.h>
#include <string.h>

/* The three versions of the structure have these fields alike, and so has a graph node's part. */
#define FROM_NODE(p, kernel)                                                                       \
        (struct call_launch)                                                                       \
        {                                                                                          \
                .function = (p)->func ? (p)->func : (CUfunction)(kernel),                          \
                .parameters = &(p)->kernelParams, .extra = &(p)->extra                             \
        }

#define ARGS(symbol) ((struct cuda_call_##symbol *)args)

static bool from_v1(const CUDA_KERNEL_NODE_PARAMS_v1 *given, struct call_launch *ret)
{
        CUDA_KERNEL_NODE_PARAMS_v1 *p = (CUDA_KERNEL_NODE_PARAMS_v1 *)given;

        if (!p)
                return false;
        *ret = FROM_NODE(p, NULL);
        return true;
}

static bool from_v2(const CUDA_KERNEL_NODE_PARAMS_v2 *given, struct call_launch *ret)
{
        CUDA_KERNEL_NODE_PARAMS_v2 *p = (CUDA_KERNEL_NODE_PARAMS_v2 *)given;

        if (!p)
                return false;
        *ret = FROM_NODE(p, p->kern);
        return true;
}

static bool from_node(CUgraphNodeParams *p, struct call_launch *ret)
{
        if (!p || p->type != CU_GRAPH_NODE_TYPE_KERNEL)
                return false;
        *ret = FROM_NODE(&p->kernel, p->kernel.kern);
        return true;
}

bool call_launch(unsigned entry, void *args, struct call_launch *ret)
{
        switch (entry) {
        case CUDA_ENTRY_cuLaunchKernel:
        case CUDA_ENTRY_cuLaunchKernel_ptsz:
                *ret = (struct call_launch){ARGS(cuLaunchKernel)->f,
                        &ARGS(cuLaunchKernel)->kernelParams, &ARGS(cuLaunchKernel)->extra};
                return true;
        case CUDA_ENTRY_cuLaunchKernelEx:
        case CUDA_ENTRY_cuLaunchKernelEx_ptsz:
                *ret = (struct call_launch){ARGS(cuLaunchKernelEx)->f,
                        &ARGS(cuLaunchKernelEx)->kernelParams, &ARGS(cuLaunchKernelEx)->extra};
                return true;
        case CUDA_ENTRY_cuLaunchCooperativeKernel:
        case CUDA_ENTRY_cuLaunchCooperativeKernel_ptsz:
                *ret = (struct call_launch){ARGS(cuLaunchCooperativeKernel)->f,
                        &ARGS(cuLaunchCooperativeKernel)->kernelParams, NULL};
                return true;
        case CUDA_ENTRY_cuGraphAddKernelNode:
                return from_v1(ARGS(cuGraphAddKernelNode)->nodeParams, ret);
        case CUDA_ENTRY_cuGraphKernelNodeSetParams:
                return from_v1(ARGS(cuGraphKernelNodeSetParams)->nodeParams, ret);
        case CUDA_ENTRY_cuGraphExecKernelNodeSetParams:
                return from_v1(ARGS(cuGraphExecKernelNodeSetParams)->nodeParams, ret);
        case CUDA_ENTRY_cuGraphAddKernelNode_v2:
                return from_v2(ARGS(cuGraphAddKernelNode_v2)->nodeParams, ret);
        case CUDA_ENTRY_cuGraphKernelNodeSetParams_v2:
                return from_v2(ARGS(cuGraphKernelNodeSetParams_v2)->nodeParams, ret);
        case CUDA_ENTRY_cuGraphExecKernelNodeSetParams_v2:
                return from_v2(ARGS(cuGraphExecKernelNodeSetParams_v2)->nodeParams, ret);
        case CUDA_ENTRY_cuGraphAddNode:
                return from_node(ARGS(cuGraphAddNode)->nodeParams, ret);
        case CUDA_ENTRY_cuGraphAddNode_v2:
                return from_node(ARGS(cuGraphAddNode_v2)->nodeParams, ret);
        case CUDA_ENTRY_cuGraphNodeSetParams:
                return from_node(ARGS(cuGraphNodeSetParams)->nodeParams, ret);
        case CUDA_ENTRY_cuGraphExecNodeSetParams:
                return from_node(ARGS(cuGraphExecNodeSetParams)->nodeParams, ret);
        default:
                return false;
        }
}

int call_code_parameter(unsigned entry)
{
        switch (entry) {
        case CUDA_ENTRY_cuModuleLoadData:
        case CUDA_ENTRY_cuModuleLoadDataEx:
        case CUDA_ENTRY_cuModuleLoadFatBinary:
        case CUDA_ENTRY_cuLibraryLoadData:
                return 1;
        default:
                return -1;
        }
}

/* As nvcc writes them into programs and tools on the format have found them; the driver's own
 * description is not public. */
#define FATBIN_MAGIC  0xba55ed50u
#define WRAPPER_MAGIC 0x466243b1u

struct fatbin {
        uint32_t magic;
        uint16_t version;
        uint16_t header;
        uint64_t size; /* of what follows the header */
};

struct wrapper {
        uint32_t magic, version;
        const void *data;
        void *rest;
};

static size_t elf_size(const unsigned char *image)
{
        Elf64_Ehdr eh;
        uint64_t end;

        memcpy(&eh, image, sizeof(eh));
        if (eh.e_ident[EI_CLASS] != ELFCLASS64)
                return 0;
        end = sizeof(eh);
        for (unsigned i = 0; i < eh.e_shnum && eh.e_shentsize == sizeof(Elf64_Shdr); i++) {
                Elf64_Shdr sh;

                memcpy(&sh, image + eh.e_shoff + i * sizeof(sh), sizeof(sh));
                if (sh.sh_type != SHT_NOBITS && sh.sh_offset + sh.sh_size > end)
                        end = sh.sh_offset + sh.sh_size;
        }
        if (eh.e_shoff + (uint64_t)eh.e_shnum * eh.e_shentsize > end)
                end = eh.e_shoff + (uint64_t)eh.e_shnum * eh.e_shentsize;
        if (eh.e_phoff + (uint64_t)eh.e_phnum * eh.e_phentsize > end)
                end = eh.e_phoff + (uint64_t)eh.e_phnum * eh.e_phentsize;
        return end;
}

size_t call_code_size(const void *code, const void **ret_start)
{
        uint32_t magic;

        *ret_start = code;
        /* byte by byte: the text of a program may be shorter than a number */
        if (!memchr(code, 0, sizeof(magic))) {
                memcpy(&magic, code, sizeof(magic));
                if (magic == WRAPPER_MAGIC) {
                        struct wrapper wrapper;

                        memcpy(&wrapper, code, sizeof(wrapper));
                        *ret_start = code = wrapper.data;
                        if (!code)
                                return 0;
                        memcpy(&magic, code, sizeof(magic));
                }
                if (magic == FATBIN_MAGIC) {
                        struct fatbin head;

                        memcpy(&head, code, sizeof(head));
                        return head.header + head.size;
                }
                if (memcmp(code, ELFMAG, SELFMAG) == 0)
                        return elf_size(code);
        }
        return strlen(code) + 1;
}

int call_value_parameter(unsigned entry, const void *args, size_t *ret_size)
{
        switch (entry) {
        case CUDA_ENTRY_cuMemPoolSetAttribute:
                switch (ARGS(cuMemPoolSetAttribute)->attr) {
                case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
                case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
                case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
                        *ret_size = sizeof(int);
                        return 2;
                default:
                        *ret_size = sizeof(cuuint64_t);
                        return 2;
                }
        case CUDA_ENTRY_cuDeviceSetGraphMemAttribute:
                *ret_size = sizeof(cuuint64_t);
                return 2;
        case CUDA_ENTRY_cuPointerSetAttribute:
                *ret_size = sizeof(unsigned int);
                return 0;
        default:
                return -1;
        }
}
