/* SPDX-License-Identifier: Apache-2.0 */
#include "faults.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "environment.h"

#define OUT_OF_MEMORY 2   /* CUDA_ERROR_OUT_OF_MEMORY */
#define NOT_SUPPORTED 801 /* CUDA_ERROR_NOT_SUPPORTED */

#define DEFAULT_RELEASE_NS 20000000ull

enum kind {
        REFUSE_MEMORY,
        FAIL,
        SLOW,
        MISSING,
        LOST,
        FOREIGN,
        USER,
        VGPU,
        RESET,
        GRAPHICS,
        RELEASE,
        CONTROL,
        REFUSE,
        CONTEXT,
};

struct fault {
        enum kind kind;
        char entry[64]; /* empty: none; "*": all */
        uint64_t value; /* code, time or size */
        int device;     /* -1: all */
        uint64_t nth;
        bool onward;
        _Atomic uint64_t count;
};

static struct fault faults[SIM_MAX_FAULTS];
static int n_faults;
static int load_result;
static pthread_once_t load_once = PTHREAD_ONCE_INIT;

/* A number with one of the suffixes; -EINVAL if there is anything else. */
static int parse_scaled(
        const char *text, const char *const *suffix, const uint64_t *factor, uint64_t *ret)
{
        char *end;
        uint64_t value;

        if (*text < '0' || *text > '9')
                return -EINVAL;
        errno = 0;
        value = strtoull(text, &end, 10);
        if (errno)
                return -EINVAL;
        for (; *suffix; suffix++, factor++)
                if (!strcmp(end, *suffix)) {
                        if (value > UINT64_MAX / *factor)
                                return -EINVAL;
                        *ret = value * *factor;
                        return 0;
                }
        return -EINVAL;
}

static int parse_time(const char *text, uint64_t *ret)
{
        static const char *const suffix[] = {"ns", "us", "ms", "s", NULL};
        static const uint64_t factor[] = {1, 1000, 1000000, 1000000000};

        return parse_scaled(text, suffix, factor, ret);
}

static int parse_size(const char *text, uint64_t *ret)
{
        static const char *const suffix[] = {"", "K", "M", "G", NULL};
        static const uint64_t factor[] = {1, 1ull << 10, 1ull << 20, 1ull << 30};

        return parse_scaled(text, suffix, factor, ret);
}

static int parse_number(const char *text, uint64_t *ret)
{
        static const char *const suffix[] = {"", NULL};
        static const uint64_t factor[] = {1};

        return parse_scaled(text, suffix, factor, ret);
}

/* ":N[+]" at the end of text is cut off and read. */
static int parse_count(char *text, struct fault *fault)
{
        char *colon = strrchr(text, ':');
        size_t length;

        fault->nth = 1;
        if (!colon)
                return 0;
        *colon++ = '\0';
        length = strlen(colon);
        if (length > 0 && colon[length - 1] == '+') {
                fault->onward = true;
                colon[length - 1] = '\0';
        }
        if (parse_number(colon, &fault->nth) < 0 || fault->nth == 0)
                return -EINVAL;
        return 0;
}

static int parse_fault(char *text, struct fault *fault)
{
        char *at, *value;
        uint64_t device;

        fault->device = -1;
        if (parse_count(text, fault) < 0)
                return -EINVAL;
        at = strchr(text, '@');
        if (at)
                *at++ = '\0';
        value = strchr(text, '=');
        if (value)
                *value++ = '\0';
        if (at && strcmp(text, "foreign") && strncmp(text, "user=", 5) &&
                strncmp(text, "vgpu=", 5)) {
                if (!*at || strlen(at) >= sizeof(fault->entry))
                        return -EINVAL;
                strcpy(fault->entry, at);
        }

        if (!strcmp(text, "oom") && !value) {
                fault->kind = at ? FAIL : REFUSE_MEMORY;
                fault->value = OUT_OF_MEMORY;
                return 0;
        }
        if (!strcmp(text, "fail") && value && at) {
                fault->kind = FAIL;
                return parse_number(value, &fault->value);
        }
        if (!strcmp(text, "context") && value && !at) {
                fault->kind = CONTEXT;
                return parse_number(value, &fault->value);
        }
        if (!strcmp(text, "slow") && value && at) {
                fault->kind = SLOW;
                return parse_time(value, &fault->value);
        }
        if (!strcmp(text, "missing") && !value && at) {
                fault->kind = MISSING;
                return 0;
        }
        if (!strcmp(text, "lost") && value && !at) {
                fault->kind = LOST;
                if (parse_number(value, &device) < 0 || device >= 64)
                        return -EINVAL;
                fault->device = (int)device;
                return 0;
        }
        if (!strcmp(text, "foreign") && value) {
                fault->kind = FOREIGN;
                if (at) {
                        if (parse_number(at, &device) < 0 || device >= 64)
                                return -EINVAL;
                        fault->device = (int)device;
                }
                return parse_size(value, &fault->value);
        }
        if ((!strcmp(text, "user") || !strcmp(text, "vgpu")) && value) {
                fault->kind = !strcmp(text, "user") ? USER : VGPU;
                if (at) {
                        if (parse_number(at, &device) < 0 || device >= 64)
                                return -EINVAL;
                        fault->device = (int)device;
                }
                if (fault->kind == VGPU && !strcmp(value, "ecc")) {
                        fault->value = SIM_VGPU_ECC;
                        return 0;
                }
                return parse_number(value, &fault->value);
        }
        if (!strcmp(text, "reset") && !value && at && !strcmp(at, "MIG")) {
                fault->kind = RESET;
                return 0;
        }
        if (!strcmp(text, "graphics") && !value && !at) {
                fault->kind = GRAPHICS;
                return 0;
        }
        if (!strcmp(text, "release") && value && !at) {
                fault->kind = RELEASE;
                return parse_time(value, &fault->value);
        }
        if (!strcmp(text, "refuse") && !value && !at) {
                fault->kind = REFUSE;
                return 0;
        }
        if (!strcmp(text, "control") && value && !at) {
                fault->kind = CONTROL;
                return parse_time(value, &fault->value);
        }
        return -EINVAL;
}

static int load(const char *text)
{
        char copy[2048];
        char *next = copy;

        if (!text || !*text)
                return 0;
        if (strlen(text) >= sizeof(copy))
                return -EINVAL;
        strcpy(copy, text);
        while (next) {
                char *one = strsep(&next, ",");

                if (n_faults == SIM_MAX_FAULTS || parse_fault(one, faults + n_faults) < 0) {
                        n_faults = 0;
                        return -EINVAL;
                }
                n_faults++;
        }
        return 0;
}

static void load_from_environment(void)
{
        load_result = load(getenv(CLEAVE_ENV_SIM_FAULTS));
}

int sim_faults_load(void)
{
        pthread_once(&load_once, load_from_environment);
        return load_result;
}

static bool counts(struct fault *fault)
{
        uint64_t n = atomic_fetch_add(&fault->count, 1) + 1;

        return n == fault->nth || (fault->onward && n > fault->nth);
}

static bool concerns(const struct fault *fault, const char *entry)
{
        return !strcmp(fault->entry, "*") || !strcmp(fault->entry, entry);
}

uint64_t sim_faults_foreign(int device)
{
        uint64_t sum = 0;

        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == FOREIGN &&
                        (faults[i].device < 0 || faults[i].device == device))
                        sum += faults[i].value;
        return sum;
}

bool sim_faults_user(int device, unsigned slice)
{
        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == USER && faults[i].value == slice &&
                        (faults[i].device < 0 || faults[i].device == device))
                        return true;
        return false;
}

int sim_faults_vgpu(int device)
{
        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == VGPU && (faults[i].device < 0 || faults[i].device == device))
                        return (int)(faults[i].value & 0x1ff);
        return -1;
}

bool sim_faults_reset(void)
{
        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == RESET)
                        return true;
        return false;
}

int sim_faults_context(int result)
{
        for (int i = 0; i < n_faults && result == OUT_OF_MEMORY; i++)
                if (faults[i].kind == CONTEXT)
                        return (int)faults[i].value;
        return result;
}

bool sim_faults_graphics(void)
{
        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == GRAPHICS)
                        return true;
        return false;
}

uint64_t sim_faults_release(void)
{
        uint64_t delay = DEFAULT_RELEASE_NS;

        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == RELEASE)
                        delay = faults[i].value;
        return delay;
}

uint64_t sim_faults_control(uint64_t measured)
{
        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == CONTROL)
                        return faults[i].value;
        return measured;
}

bool sim_faults_refuse_steering(void)
{
        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == REFUSE)
                        return true;
        return false;
}

bool sim_faults_refuse_memory(void)
{
        bool refuse = false;

        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == REFUSE_MEMORY && counts(faults + i))
                        refuse = true;
        return refuse;
}

bool sim_faults_missing(const char *entry)
{
        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == MISSING && !strcmp(faults[i].entry, entry))
                        return true;
        return false;
}

bool sim_faults_any_call(void)
{
        for (int i = 0; i < n_faults; i++)
                if (faults[i].kind == FAIL || faults[i].kind == SLOW || faults[i].kind == MISSING ||
                        faults[i].kind == LOST)
                        return true;
        return false;
}

int sim_faults_call(const char *entry, int *ret_lost)
{
        int code = 0;

        *ret_lost = -1;
        for (int i = 0; i < n_faults; i++) {
                struct fault *fault = faults + i;

                if (fault->kind == SLOW && concerns(fault, entry))
                        sim_faults_delay(fault->value);
                else if (fault->kind == MISSING && !strcmp(fault->entry, entry))
                        code = NOT_SUPPORTED;
                else if (fault->kind == FAIL && concerns(fault, entry) && counts(fault))
                        code = (int)fault->value;
                else if (fault->kind == LOST && counts(fault))
                        *ret_lost = fault->device;
        }
        return code;
}

void sim_faults_delay(uint64_t nanoseconds)
{
        struct timespec begin, now,
                rest = {
                        .tv_sec = (time_t)(nanoseconds / 1000000000),
                        .tv_nsec = (long)(nanoseconds % 1000000000),
                };
        uint64_t passed;

        if (nanoseconds >= 50000) {
                while (clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, &rest) == EINTR)
                        ;
                return;
        }
        clock_gettime(CLOCK_MONOTONIC, &begin);
        do {
                clock_gettime(CLOCK_MONOTONIC, &now);
                passed = (uint64_t)(now.tv_sec - begin.tv_sec) * 1000000000ull +
                         (uint64_t)now.tv_nsec - (uint64_t)begin.tv_nsec;
        } while (passed < nanoseconds);
}
