/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs that a trace must survive. usage: calls WHAT [NUMBER...]
 *
 *   copy        carries the bytes "MARKED CONTENT" to the device and back
 *   storm T N   N calls of cuDeviceGetCount in each of T threads
 *   fill N      takes N MiB at a time until it is refused
 *   crash       segmentation fault after some calls
 *   stuck       a call that does not return: says "stuck" before
 *   lost        makes a context and uses it
 *   fork        a child before CUDA begins, which uses it; one afterwards, which may not
 *   close N     closes every descriptor, takes all numbers up to 800 for a file of its own, and
 *               makes N calls; fails if anybody else has written to that file
 *   exec N      N calls, then itself again with `storm 1 N`
 *   unseen FILE D   uses the primary context of device D in three threads, which is made, and
 *               made current, by the driver in FILE: by calls that are not traced, as the CUDA
 *               runtime's are. So is a stream, which it asks for its flags.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_api.h"

static void *driver;

#define CALL(symbol) ((__typeof__(&symbol))entry(#symbol))

static void *entry(const char *symbol)
{
        void *address = dlsym(driver, symbol);

        if (!address) {
                fprintf(stderr, "no %s\n", symbol);
                exit(1);
        }
        return address;
}

static void must(CUresult result, const char *what)
{
        if (result != CUDA_SUCCESS) {
                fprintf(stderr, "%s: %d\n", what, (int)result);
                exit(1);
        }
}

static CUcontext begin(void)
{
        CUcontext context;
        CUdevice device;

        must(CALL(cuInit)(0), "cuInit");
        must(CALL(cuDeviceGet)(&device, 0), "cuDeviceGet");
        must(CALL(cuDevicePrimaryCtxRetain)(&context, device), "cuDevicePrimaryCtxRetain");
        must(CALL(cuCtxSetCurrent)(context), "cuCtxSetCurrent");
        return context;
}

static int copy(void)
{
        static const char text[] = "MARKED CONTENT";
        char back[sizeof(text)] = "";
        CUdeviceptr memory;

        begin();
        must(CALL(cuMemAlloc_v2)(&memory, 4096), "cuMemAlloc");
        must(CALL(cuMemcpyHtoD_v2)(memory, text, sizeof(text)), "cuMemcpyHtoD");
        must(CALL(cuMemcpyDtoH_v2)(back, memory, sizeof(back)), "cuMemcpyDtoH");
        must(CALL(cuMemFree_v2)(memory), "cuMemFree");
        return strcmp(back, text) != 0;
}

static int fill(long mib)
{
        CUdeviceptr memory;
        CUresult result;

        begin();
        do
                result = CALL(cuMemAlloc_v2)(&memory, (size_t)mib << 20);
        while (result == CUDA_SUCCESS);
        return result != CUDA_ERROR_OUT_OF_MEMORY;
}

static void *storm_thread(void *context)
{
        __typeof__(&cuDeviceGetCount) get = CALL(cuDeviceGetCount);
        long n = *(long *)context;
        int count;

        for (long i = 0; i < n; i++)
                must(get(&count), "cuDeviceGetCount");
        return NULL;
}

static int storm(long threads, long n)
{
        pthread_t *handles = calloc((size_t)threads, sizeof(*handles));

        must(CALL(cuInit)(0), "cuInit");
        for (long i = 0; i < threads; i++)
                pthread_create(&handles[i], NULL, storm_thread, &n);
        for (long i = 0; i < threads; i++)
                pthread_join(handles[i], NULL);
        free(handles);
        return 0;
}

static int lost(void)
{
        CUdeviceptr memory;
        CUcontext context;

        must(CALL(cuInit)(0), "cuInit");
        must(CALL(cuCtxCreate_v4)(&context, NULL, 0, 0), "cuCtxCreate");
        must(CALL(cuCtxSetCurrent)(context), "cuCtxSetCurrent");
        must(CALL(cuMemAlloc_v2)(&memory, 4096), "cuMemAlloc");
        must(CALL(cuMemFree_v2)(memory), "cuMemFree");
        return 0;
}

static int stuck(void)
{
        CUstream stream;
        CUdeviceptr memory;

        begin();
        must(CALL(cuMemAlloc_v2)(&memory, 4096), "cuMemAlloc");
        must(CALL(cuMemsetD8_v2)(memory, 0, 4096), "cuMemsetD8");
        must(CALL(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
        must(CALL(cuStreamWaitValue32_v2)(stream, memory, 1, CU_STREAM_WAIT_VALUE_EQ),
                "cuStreamWaitValue32");
        puts("stuck");
        fflush(stdout);
        return CALL(cuStreamSynchronize)(stream);
}

static int await(pid_t pid)
{
        int status;

        if (pid < 0 || waitpid(pid, &status, 0) < 0)
                return 1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int forks(void)
{
        CUdeviceptr memory;
        pid_t pid = fork();

        if (pid == 0)
                _exit(copy());
        if (await(pid) != 0)
                return 1;
        begin();
        pid = fork();
        if (pid == 0)
                _exit(CALL(cuMemAlloc_v2)(&memory, 4096) != CUDA_ERROR_NOT_INITIALIZED);
        if (await(pid) != 0)
                return 1;
        must(CALL(cuMemAlloc_v2)(&memory, 4096), "cuMemAlloc");
        return 0;
}

static int closes(long n)
{
        char path[] = "/tmp/cleave-calls-XXXXXX";
        struct stat st;
        int fd;

        must(CALL(cuInit)(0), "cuInit");
        for (fd = 3; fd < 1024; fd++)
                close(fd);
        fd = mkstemp(path);
        unlink(path);
        while (fd < 800)
                if (dup(fd) < 0 || (fd = dup(fd)) < 0)
                        return 1;
        storm(1, n);
        return fstat(fd, &st) < 0 || st.st_size != 0;
}

static int execs(char *self, char *n)
{
        char *words[] = {self, "storm", "1", n, NULL};

        storm(1, atol(n));
        execv("/proc/self/exe", words);
        return 1;
}

static struct {
        void *library;
        CUdevice device;
        CUcontext context;
} unseen;

#define UNSEEN(symbol) ((__typeof__(&symbol))dlsym(unseen.library, #symbol))

static int use_memory(void)
{
        CUdeviceptr memory;
        CUstream stream;
        CUdevice device;

        must(CALL(cuMemAlloc_v2)(&memory, 4096), "cuMemAlloc");
        must(CALL(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
        must(CALL(cuMemsetD8Async)(memory, 1, 4096, stream), "cuMemsetD8Async");
        must(CALL(cuStreamSynchronize)(stream), "cuStreamSynchronize");
        must(CALL(cuStreamDestroy_v2)(stream), "cuStreamDestroy");
        must(CALL(cuMemFree_v2)(memory), "cuMemFree");
        must(CALL(cuCtxGetDevice)(&device), "cuCtxGetDevice");
        return device != unseen.device;
}

/* What is first asked for is whether there is a context. */
static int use_current(void)
{
        CUcontext context;

        must(CALL(cuCtxGetCurrent)(&context), "cuCtxGetCurrent");
        return context != unseen.context || use_memory();
}

static void *unseen_thread(void *context)
{
        int (*use)(void) = *(int (**)(void))context;

        must(UNSEEN(cuCtxSetCurrent)(unseen.context), "cuCtxSetCurrent, unseen");
        return (void *)(intptr_t)use();
}

static int use_unseen(const char *library, CUdevice device)
{
        int (*uses[])(void) = {use_memory, use_current};
        unsigned flags;
        CUstream stream;

        unseen.library = dlopen(library, RTLD_NOW);
        unseen.device = device;
        if (!unseen.library || UNSEEN(cuCtxSetCurrent) == CALL(cuCtxSetCurrent)) {
                fprintf(stderr, "%s is traced, or not there\n", library);
                return 1;
        }
        must(CALL(cuInit)(0), "cuInit");
        must(UNSEEN(cuDevicePrimaryCtxRetain)(&unseen.context, device), "the context");
        must(CALL(cuCtxSetCurrent)(unseen.context), "cuCtxSetCurrent");
        if (use_memory() != 0)
                return 1;
        for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
                pthread_t thread;
                void *failed;

                pthread_create(&thread, NULL, unseen_thread, &uses[i]);
                pthread_join(thread, &failed);
                if (failed)
                        return 1;
        }
        must(UNSEEN(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING), "the stream");
        must(CALL(cuStreamGetFlags)(stream, &flags), "cuStreamGetFlags");
        return flags != CU_STREAM_NON_BLOCKING;
}

int main(int argc, char **argv)
{
        const char *what = argc > 1 ? argv[1] : "";
        long n = argc > 2 ? atol(argv[2]) : 0;

        driver = dlopen("libcuda.so.1", RTLD_NOW);
        if (!driver) {
                fprintf(stderr, "%s\n", dlerror());
                return 1;
        }
        if (strcmp(what, "copy") == 0)
                return copy();
        if (strcmp(what, "fill") == 0 && n > 0)
                return fill(n);
        if (strcmp(what, "storm") == 0 && argc > 3)
                return storm(n, atol(argv[3]));
        if (strcmp(what, "stuck") == 0)
                return stuck();
        if (strcmp(what, "fork") == 0)
                return forks();
        if (strcmp(what, "close") == 0)
                return closes(n);
        if (strcmp(what, "exec") == 0 && argc > 2)
                return execs(argv[0], argv[2]);
        if (strcmp(what, "unseen") == 0 && argc > 3)
                return use_unseen(argv[2], atoi(argv[3]));
        if (strcmp(what, "lost") == 0)
                return lost();
        if (strcmp(what, "crash") == 0) {
                copy();
                raise(SIGSEGV);
        }
        return 2;
}
