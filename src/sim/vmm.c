/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm.h"

void vmm_unref(struct vmm_handle *handle)
{
}
