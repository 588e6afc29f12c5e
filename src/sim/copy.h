/* SPDX-License-Identifier: Apache-2.0 */
/* Copies, between copy.c, memcpy.c and the graphs. */
#pragma once

#include "exec.h"

/* Descriptors of the other shapes in the one that all copies are made of. */
CUDA_MEMCPY3D copy_linear(
        CUmemorytype to, CUdeviceptr dst, CUmemorytype from, CUdeviceptr src, size_t bytes);
CUDA_MEMCPY3D copy_from_2d(const CUDA_MEMCPY2D *params);
CUDA_MEMCPY3D copy_from_peer(const CUDA_MEMCPY3D_PEER *params);

/* Hands a copy to the stream and waits as long as CUDA's rules say. Takes work over. */
CUresult copy_submit(struct stream *stream, struct work *work, bool asynchronous);
/* A whole entry: enter, resolve, submit. handle counts only if asynchronous. */
CUresult copy_call(
        const char *entry, const CUDA_MEMCPY3D *params, bool asynchronous, CUstream handle);
