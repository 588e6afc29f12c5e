/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAVE_NVML_TYPES_H
#define CLEAVE_NVML_TYPES_H

#include <stdint.h>

typedef enum nvmlReturn_enum {
        NVML_SUCCESS = 0,
        NVML_ERROR_NOT_SUPPORTED = 3,
} nvmlReturn_t;

#endif
