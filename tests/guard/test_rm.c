/* SPDX-License-Identifier: Apache-2.0 */
/* What the guard makes of the driver library's RM calls: the kernel, the account and the session
 * are played by this file, the tree of objects is the guard's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "driver.h"
#include "message.h"
#include "objects.h"
#include "rm.h"

#define MIB          (1ull << 20)
#define UNITS(bytes) ((bytes) / CLEAVE_UNIT)

/* -- the others -------------------------------------------------------------------------------- */

static uint64_t charged[CLEAVE_MAX_DEVICES], limit = UINT64_MAX;
static unsigned kernel_calls, kernel_frees, notices;
static uint32_t kernel_status; /* what the kernel answers to allocations */
static uint64_t kernel_round = 2 * MIB;
static bool forked;
static struct cleave_slot slot;
static struct cleave_grant_page grant = {.devices = 2};
static struct guard_session session = {.grant = &grant, .slot = &slot, .index = 1};
static int passed; /* the descriptor that came with the last notice */
static const uint8_t uuids[2][16] = {"first device...", "second device.."};
int guard_debug_fd = -1;

void guard_debug(const char *format, ...)
{
}

const struct guard_session *guard_session(void)
{
        return &session;
}

bool guard_forked(void)
{
        return forked;
}

void guard_notice(uint32_t kind, uint64_t a, uint64_t b)
{
        notices++;
}

void guard_notice_fd(uint32_t kind, uint64_t a, uint64_t b, int fd)
{
        passed = fd;
        guard_notice(kind, a, b);
}

int guard_device_by_uuid(const uint8_t uuid[16])
{
        for (int i = 0; i < 2; i++)
                if (memcmp(uuid, uuids[i], 16) == 0)
                        return i;
        return -ENODEV;
}

int guard_charge(uint32_t device, uint64_t units)
{
        if (charged[device] + units > limit)
                return -ENOMEM;
        charged[device] += units;
        return 0;
}

void guard_discharge(uint32_t device, uint64_t units)
{
        assert_true(charged[device] >= units);
        charged[device] -= units;
}

/* Subdevice handles of the kernel here: 0xd0 is of device 0, 0xd1 of device 1, 0xd9 of a third. */
int guard_real_ioctl(int fd, unsigned long request, void *arg)
{
        uint32_t *word = arg;

        kernel_calls++;
        if (_IOC_NR(request) == RM_ESC_CONTROL) {
                struct rm_control *control = arg;
                struct rm_gid_info *info = (struct rm_gid_info *)(uintptr_t)control->params;

                assert_int_equal(control->cmd, RM_CTRL_GPU_GET_GID_INFO);
                assert_int_equal(info->flags, RM_GID_BINARY);
                info->length = 16;
                memcpy(info->data,
                        control->object == 0xd9 ? (const uint8_t *)"unknown to grant"
                                                : uuids[control->object & 1],
                        16);
                control->status = RM_OK;
        } else if (_IOC_NR(request) == RM_ESC_FREE)
                kernel_frees++;
        else if (_IOC_NR(request) == RM_ESC_ALLOC) {
                unsigned size = _IOC_SIZE(request);
                struct rm_alloc *alloc = arg;

                word[size / 4 - (size == 48 ? 2 : 1)] = kernel_status;
                if (kernel_status == RM_OK && alloc->class_id == RM_CLASS_MEMORY_LOCAL) {
                        struct rm_memory_params *params =
                                (struct rm_memory_params *)(uintptr_t)alloc->params;

                        params->size =
                                (params->size + kernel_round - 1) / kernel_round * kernel_round;
                }
        } else if (_IOC_NR(request) == RM_ESC_VID_HEAP_CONTROL) {
                struct rm_vid_heap *heap = arg;

                heap->status = kernel_status;
                heap->size = (heap->size + kernel_round - 1) / kernel_round * kernel_round;
        }
        return 0;
}

/* -- what the driver's library does ------------------------------------------------------------ */

static uint32_t alloc(
        uint32_t client, uint32_t parent, uint32_t handle, uint32_t class_id, void *params)
{
        struct rm_alloc call = {.client = client,
                .parent = parent,
                .handle = handle,
                .class_id = class_id,
                .params = (uint64_t)(uintptr_t)params};

        assert_int_equal(
                guard_ioctl(3, _IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, struct rm_alloc), &call), 0);
        return call.status;
}

static uint32_t memory(uint32_t device, uint32_t handle, uint64_t bytes)
{
        struct rm_memory_params params = {.size = bytes};

        return alloc(1, device, handle, RM_CLASS_MEMORY_LOCAL, &params);
}

static void release(uint32_t handle)
{
        struct rm_free call = {.client = 1, .handle = handle};

        guard_ioctl(3, _IOWR(RM_IOCTL_TYPE, RM_ESC_FREE, struct rm_free), &call);
        assert_int_equal(call.status, RM_OK);
}

static int begin(void **state)
{
        struct rm_channel_group_params group = {.engine_type = RM_ENGINE_GRAPHICS};

        memset(charged, 0, sizeof(charged));
        memset(&slot, 0, sizeof(slot));
        limit = UINT64_MAX;
        kernel_status = RM_OK;
        kernel_round = 2 * MIB;
        kernel_calls = kernel_frees = notices = 0;
        alloc(1, 1, 1, RM_CLASS_ROOT_CLIENT, NULL);
        alloc(1, 1, 0x80, RM_CLASS_DEVICE, NULL);
        alloc(1, 0x80, 0xd0, RM_CLASS_SUBDEVICE, NULL);
        alloc(1, 1, 0x81, RM_CLASS_DEVICE, NULL);
        alloc(1, 0x81, 0xd1, RM_CLASS_SUBDEVICE, NULL);
        alloc(1, 1, 0x89, RM_CLASS_DEVICE, NULL);
        alloc(1, 0x89, 0xd9, RM_CLASS_SUBDEVICE, NULL);
        alloc(1, 0x80, 0xa0, RM_CLASS_CHANNEL_GROUP, &group);
        kernel_calls = notices = 0;
        return 0;
}

static int end(void **state)
{
        release(1);
        for (unsigned i = 0; i < CLEAVE_MAX_DEVICES; i++)
                assert_int_equal(charged[i], 0);
        return 0;
}

/* -- what is to hold --------------------------------------------------------------------------- */

static void charges_what_rm_takes(void **state)
{
        assert_int_equal(memory(0x80, 0x100, 3 * MIB), RM_OK);
        assert_int_equal(charged[0], UNITS(4 * MIB));
        assert_int_equal(memory(0x81, 0x101, 1), RM_OK);
        assert_int_equal(charged[1], UNITS(2 * MIB));
        kernel_round = 65536;
        assert_int_equal(memory(0x80, 0x102, 5), RM_OK);
        assert_int_equal(charged[0], UNITS(4 * MIB + 65536));
        release(0x100);
        assert_int_equal(charged[0], UNITS(65536));
        release(0x102);
        release(0x101);
        assert_int_equal(charged[0], 0);
        assert_int_equal(charged[1], 0);
}

static void refuses_without_asking(void **state)
{
        limit = UNITS(8 * MIB);
        assert_int_equal(memory(0x80, 0x100, 8 * MIB), RM_OK);
        kernel_calls = 0;
        assert_int_equal(memory(0x80, 0x101, 1), RM_ERR_NO_MEMORY);
        assert_int_equal(kernel_calls, 0);
        assert_int_equal(charged[0], UNITS(8 * MIB));
        release(0x100);
        assert_int_equal(memory(0x80, 0x101, 1), RM_OK);
        assert_int_equal(memory(0x80, 0x102, UINT64_MAX), RM_ERR_NO_MEMORY);
}

static void gives_back_what_passes_the_limit_after_all(void **state)
{
        limit = UNITS(4 * MIB);
        kernel_round = 512 * MIB; /* a block larger than what was reserved */
        assert_int_equal(memory(0x80, 0x100, MIB), RM_ERR_NO_MEMORY);
        assert_int_equal(kernel_frees, 1);
        assert_int_equal(charged[0], 0);
}

static void a_failed_call_charges_nothing(void **state)
{
        kernel_status = RM_ERR_NO_MEMORY;
        assert_int_equal(memory(0x80, 0x100, MIB), RM_ERR_NO_MEMORY);
        assert_int_equal(charged[0], 0);
}

static void a_device_not_granted_has_no_memory(void **state)
{
        kernel_calls = 0;
        assert_int_equal(memory(0x89, 0x100, MIB), RM_ERR_NO_MEMORY);
        assert_int_equal(notices, 1);
        /* nor has an object that was never seen */
        assert_int_equal(memory(0x5555, 0x101, MIB), RM_ERR_NO_MEMORY);
}

static void freeing_a_device_frees_what_is_below(void **state)
{
        for (uint32_t i = 0; i < 100; i++)
                assert_int_equal(memory(0x80 + (i & 1), 0x100 + i, 2 * MIB), RM_OK);
        assert_int_equal(charged[0], UNITS(100 * MIB));
        release(0x80);
        assert_int_equal(charged[0], 0);
        assert_int_equal(charged[1], UNITS(100 * MIB));
        assert_null(objects_find(1, 0x100));
        assert_non_null(objects_find(1, 0x101));
}

static void a_handle_that_comes_again_is_charged_once(void **state)
{
        assert_int_equal(memory(0x80, 0x100, 6 * MIB), RM_OK);
        assert_int_equal(memory(0x80, 0x100, 2 * MIB), RM_OK);
        assert_int_equal(charged[0], UNITS(2 * MIB));
}

static void older_forms_of_the_call(void **state)
{
        uint32_t words[12] = {1, 0x80, 0x100, RM_CLASS_MEMORY_LOCAL};
        struct rm_memory_params params = {.size = MIB};
        struct rm_vid_heap heap = {.client = 1,
                .parent = 0x80,
                .function = RM_VID_HEAP_ALLOC_SIZE,
                .handle = 0x101,
                .size = MIB};
        static const unsigned sizes[] = {RM_ALLOC_SIZE_NVOS64_SHORT, RM_ALLOC_SIZE_NVOS21};

        *(uint64_t *)&words[4] = (uint64_t)(uintptr_t)&params;
        for (unsigned i = 0; i < 2; i++) {
                params.size = MIB;
                guard_ioctl(3, _IOC(_IOC_READ | _IOC_WRITE, RM_IOCTL_TYPE, RM_ESC_ALLOC, sizes[i]),
                        words);
                assert_int_equal(charged[0], UNITS(2 * MIB));
                limit = charged[0];
                params.size = MIB;
                words[2] = 0x300;
                guard_ioctl(3, _IOC(_IOC_READ | _IOC_WRITE, RM_IOCTL_TYPE, RM_ESC_ALLOC, sizes[i]),
                        words);
                assert_int_equal(words[sizes[i] / 4 - 1], RM_ERR_NO_MEMORY);
                words[2] = 0x100;
                words[sizes[i] / 4 - 1] = 0;
                limit = UINT64_MAX;
                release(0x100);
        }
        guard_ioctl(3, _IOWR(RM_IOCTL_TYPE, RM_ESC_VID_HEAP_CONTROL, struct rm_vid_heap), &heap);
        assert_int_equal(charged[0], UNITS(2 * MIB));
        heap.attr = 1u << 25; /* system memory */
        heap.handle = 0x102;
        guard_ioctl(3, _IOWR(RM_IOCTL_TYPE, RM_ESC_VID_HEAP_CONTROL, struct rm_vid_heap), &heap);
        assert_int_equal(charged[0], UNITS(2 * MIB));
}

static void the_wrapped_call_counts_too(void **state)
{
        struct rm_memory_params params = {.size = MIB};
        struct rm_alloc call = {.client = 1,
                .parent = 0x80,
                .handle = 0x100,
                .class_id = RM_CLASS_MEMORY_LOCAL,
                .params = (uint64_t)(uintptr_t)&params};
        struct rm_xfer xfer = {RM_ESC_ALLOC, sizeof(call), (uint64_t)(uintptr_t)&call};

        guard_ioctl(3, _IOWR(RM_IOCTL_TYPE, RM_ESC_XFER, struct rm_xfer), &xfer);
        assert_int_equal(call.status, RM_OK);
        assert_int_equal(charged[0], UNITS(2 * MIB));
}

static void a_forked_child_gets_none_and_returns_none(void **state)
{
        assert_int_equal(memory(0x80, 0x100, MIB), RM_OK);
        forked = true;
        assert_int_equal(memory(0x80, 0x101, MIB), RM_ERR_NO_MEMORY);
        release(0x100);
        forked = false;
        assert_int_equal(charged[0], UNITS(2 * MIB));
}

static void groups_and_channels_are_reported(void **state)
{
        struct rm_channel_group_params graphics = {.engine_type = RM_ENGINE_GRAPHICS};
        const struct cleave_channel_group *group = &slot.group[0];

        assert_int_equal(group->handle, 0xa0);
        assert_int_equal(group->device, 0);
        assert_int_equal(group->subdevice, 0xd0);
        assert_int_equal(group->engine, RM_ENGINE_GRAPHICS);
        for (uint32_t i = 0; i < 8; i++)
                alloc(1, 0xa0, 0xc0 + i, 0xc86f, NULL);
        assert_int_equal(group->channels, 8);
        release(0xc3);
        assert_int_equal(group->channels, 7);
        for (uint32_t i = 0; i < 7; i++)
                assert_int_not_equal(group->channel[i], 0xc3);
        for (uint32_t i = 0; i < CLEAVE_MAX_CHANNELS; i++)
                alloc(1, 0xa0, 0xe0 + i, 0xc86f, NULL);
        assert_int_equal(group->channels, CLEAVE_MAX_CHANNELS);
        assert_int_equal(slot.lost_groups, 7);
        release(0xa0);
        assert_int_equal(group->handle, 0);
        /* those of other engines, too, but only as long as nobody else needs the place */
        for (uint32_t i = 0; i < CLEAVE_MAX_GROUPS + 3; i++)
                alloc(1, 0x80, 0x1000 + i, RM_CLASS_CHANNEL_GROUP, NULL);
        assert_int_equal(slot.lost_groups, 7);
        assert_int_equal(slot.groups, CLEAVE_MAX_GROUPS);
        for (uint32_t i = 0; i < CLEAVE_MAX_GROUPS + 3; i++)
                alloc(1, 0x80, 0x2000 + i, RM_CLASS_CHANNEL_GROUP, &graphics);
        assert_int_equal(slot.lost_groups, 7 + 3);
        for (uint32_t i = 0; i < CLEAVE_MAX_GROUPS; i++) {
                assert_in_range(slot.group[i].handle, 0x2000, 0x2000 + CLEAVE_MAX_GROUPS - 1);
                assert_int_equal(slot.group[i].channels, 0);
        }
}

static void only_what_is_steered_passes_its_descriptor(void **state)
{
        struct rm_channel_group_params group = {.engine_type = RM_ENGINE_GRAPHICS};

        passed = 99;
        alloc(1, 0x80, 0xa1, RM_CLASS_CHANNEL_GROUP, &group);
        assert_int_equal(passed, -1);
        grant.device[1].compute_max = 30;
        alloc(1, 0x80, 0xa2, RM_CLASS_CHANNEL_GROUP, &group);
        assert_int_equal(passed, 3);
        grant.device[1].compute_max = 0;
}

static void other_ioctls_pass(void **state)
{
        struct rm_alloc value = {0}; /* our kernel reads it whole, whatever size it was told */

        kernel_calls = 0;
        guard_ioctl(3, 49, &value);
        guard_ioctl(3, _IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, int), &value); /* a size we do not know */
        assert_int_equal(kernel_calls, 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
        const struct CMUnitTest tests[] = {
                TEST(charges_what_rm_takes),
                TEST(refuses_without_asking),
                TEST(gives_back_what_passes_the_limit_after_all),
                TEST(a_failed_call_charges_nothing),
                TEST(a_device_not_granted_has_no_memory),
                TEST(freeing_a_device_frees_what_is_below),
                TEST(a_handle_that_comes_again_is_charged_once),
                TEST(older_forms_of_the_call),
                TEST(the_wrapped_call_counts_too),
                TEST(a_forked_child_gets_none_and_returns_none),
                TEST(groups_and_channels_are_reported),
                TEST(only_what_is_steered_passes_its_descriptor),
                TEST(other_ioctls_pass),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
