/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "proto/rm.h"
#include "steer/steer.h"

const struct steer_backend *steer_backend_find(const char *name)
{
        static const struct steer_backend *const backends[] = {
                &steer_backend_nvidia, &steer_backend_sim};

        for (size_t i = 0; i < ARRAY_SIZE(backends); i++)
                if (strcmp(backends[i]->name, name) == 0)
                        return backends[i];
        return NULL;
}

int steer_status_error(uint32_t status)
{
        switch (status) {
        case RM_OK:
                return 0;
        case RM_ERR_OBJECT_ABSENT:
        case RM_ERR_INVALID_CHANNEL:
        case RM_ERR_INVALID_CLIENT:
        case RM_ERR_INVALID_OBJECT:
        case RM_ERR_INVALID_OBJECT_HANDLE:
                return -ENOENT;
        case RM_ERR_DENIED:
                return -EPERM;
        case RM_ERR_NOT_SUPPORTED:
                return -EOPNOTSUPP;
        case RM_ERR_GPU_LOST:
                return -ENODEV;
        default:
                return -EIO;
        }
}
