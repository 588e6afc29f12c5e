/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/driver.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"

#define KERNEL_VERSION_FILE "/proc/driver/nvidia/version"
#define KERNEL_VERSION_MAX  4096

/* The file's first line: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  date". The
 * version is the first word that begins with a digit and has a dot. */
void driver_kernel_version(char *buffer, size_t size)
{
        _cleanup_free_ char *text = NULL;
        char *state = NULL;

        buffer[0] = 0;
        if (read_file(KERNEL_VERSION_FILE, KERNEL_VERSION_MAX, &text, NULL) < 0)
                return;
        for (char *word = strtok_r(text, " \t\n", &state); word;
                word = strtok_r(NULL, " \t\n", &state))
                if (word[0] >= '0' && word[0] <= '9' && strchr(word, '.')) {
                        snprintf(buffer, size, "%s", word);
                        return;
                }
}

static void copy_error(char *buffer, size_t size)
{
        const char *error = dlerror();

        snprintf(buffer, size, "%s", error ?: "unknown");
}

static void find_cuda(struct driver_facts *facts)
{
        void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        int (*version)(int *);
        Dl_info info;

        if (!library) {
                copy_error(facts->libcuda_error, sizeof(facts->libcuda_error));
                return;
        }
        version = (int (*)(int *))dlsym(library, "cuDriverGetVersion");
        if (!version || version(&facts->cuda) != 0)
                facts->cuda = 0;
        if (version && dladdr((void *)version, &info) && info.dli_fname) {
                char *real = realpath(info.dli_fname, NULL);

                snprintf(facts->libcuda, sizeof(facts->libcuda), "%s", real ?: info.dli_fname);
                free(real);
        }
}

int driver_cuda_version(void)
{
        struct driver_facts facts = {0};

        find_cuda(&facts);
        return facts.cuda;
}

static void find_nvml(struct driver_facts *facts)
{
        void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
        int (*init)(void), (*shutdown)(void), (*count)(unsigned *), (*version)(char *, unsigned);
        const char *(*text)(int);
        int r;

        if (!library) {
                copy_error(facts->nvml_error, sizeof(facts->nvml_error));
                return;
        }
        init = (int (*)(void))dlsym(library, "nvmlInit_v2");
        shutdown = (int (*)(void))dlsym(library, "nvmlShutdown");
        count = (int (*)(unsigned *))dlsym(library, "nvmlDeviceGetCount_v2");
        version = (int (*)(char *, unsigned))dlsym(library, "nvmlSystemGetDriverVersion");
        text = (const char *(*)(int))dlsym(library, "nvmlErrorString");
        if (!init || !shutdown || !count || !version) {
                snprintf(facts->nvml_error, sizeof(facts->nvml_error),
                        "libnvidia-ml.so.1 lacks functions");
                return;
        }
        r = init();
        if (r != 0) {
                snprintf(facts->nvml_error, sizeof(facts->nvml_error), "%s",
                        text ? text(r) : "nvmlInit failed");
                return;
        }
        if (version(facts->nvml, sizeof(facts->nvml)) != 0)
                facts->nvml[0] = 0;
        if (count(&facts->devices) != 0)
                facts->devices = 0;
        shutdown();
}

void driver_facts(struct driver_facts *ret)
{
        *ret = (struct driver_facts){0};
        driver_kernel_version(ret->kernel, sizeof(ret->kernel));
        find_cuda(ret);
        find_nvml(ret);
}
