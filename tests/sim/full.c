/* SPDX-License-Identifier: Apache-2.0 */
/* A host file system without room: an error of the call that would need it, never SIGBUS. */
#include "check.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

#define SKIP 77

static void write_text(const char *path, const char *text)
{
        int fd = open(path, O_WRONLY);

        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                exit(SKIP);
        close(fd);
}

/* A small tmpfs of our own at /tmp, in a mount namespace. */
static void small_host(void)
{
        unsigned int uid = geteuid(), gid = getegid();
        char map[64];

        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
                exit(SKIP);
        write_text("/proc/self/setgroups", "deny");
        snprintf(map, sizeof(map), "%u %u 1", uid, uid);
        write_text("/proc/self/uid_map", map);
        snprintf(map, sizeof(map), "%u %u 1", gid, gid);
        write_text("/proc/self/gid_map", map);
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
                mount("small", "/tmp", "tmpfs", 0, "size=16m,mode=0700") < 0)
                exit(SKIP);
}

int main(void)
{
        CUcontext context;
        CUdeviceptr p;
        CUresult r;
        char *line;

        small_host();
        setenv("CLEAVE_SIM_DIR", "/tmp/sim", 1);
        setenv("CLEAVE_SIM", "h100", 1);
        OK(cuInit(0));
        OK(cuCtxCreate_v2(&context, 0, 0));
        /* what is not touched takes no room */
        OK(cuMemAlloc_v2(&p, 8ull << 30));
        OK(cuMemsetD8_v2(p, 0x5a, 4 * MIB));
        line = malloc(4 * MIB);
        CHECK(line);
        OK(cuMemcpyDtoH_v2(line, p, 4 * MIB));
        CHECK_EQ(line[4 * MIB - 1], 0x5a);
        r = cuMemsetD8_v2(p, 1, 64 * MIB);
        if (!r)
                r = cuCtxSynchronize();
        CHECK_EQ(r, CUDA_ERROR_OUT_OF_MEMORY);
        /* work that failed half-way breaks its context, and the room is back with it */
        OK(cuCtxDestroy_v2(context));
        OK(cuCtxCreate_v2(&context, 0, 0));
        OK(cuMemAlloc_v2(&p, 4 * MIB));
        OK(cuMemcpyHtoD_v2(p, line, 4 * MIB));
        OK(cuMemFree_v2(p));
        OK(cuCtxDestroy_v2(context));
        free(line);
        return 0;
}
