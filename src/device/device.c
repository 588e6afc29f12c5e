/* SPDX-License-Identifier: Apache-2.0 */
#include "device/device.h"

const char *device_state_word(enum device_state state)
{
        switch (state) {
        case DEVICE_OK:
                return "ok";
        case DEVICE_LOST:
                return "lost";
        case DEVICE_UNKNOWN:
                break;
        }
        return "unknown";
}

uint64_t device_process_bytes(const struct device_process *list, size_t count, pid_t pid)
{
        size_t low = 0, high = count;

        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (list[middle].pid == pid)
                        return list[middle].bytes;
                if (list[middle].pid < pid)
                        low = middle + 1;
                else
                        high = middle;
        }
        return 0;
}
