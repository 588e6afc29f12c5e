/* SPDX-License-Identifier: Apache-2.0 */
#include "mps.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "driver.h"
#include "runlist.h"

static struct {
        pthread_mutex_t mutex;
        bool asked;
        int fd; /* to the server, open as long as this process and the server live */
        int instance;
        uint32_t group;
        _Atomic bool gone;
} server = {.mutex = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

static int connect_to(const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd;

        if (strlen(path) >= sizeof(address.sun_path))
                return -1;
        memcpy(address.sun_path, path, strlen(path) + 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
                close(fd);
                return -1;
        }
        return fd;
}

/* A line, without its end. */
static bool read_line(int fd, char *line, size_t size)
{
        for (size_t n = 0; n + 1 < size; n++) {
                ssize_t got;

                do
                        got = read(fd, line + n, 1);
                while (got < 0 && errno == EINTR);
                if (got != 1)
                        return false;
                if (line[n] == '\n') {
                        line[n] = '\0';
                        return true;
                }
        }
        return false;
}

/* "PATH": where the server listens. */
static bool ask_control(const char *directory, char *path, size_t size)
{
        static const char question[] = "server\n";
        char control[108];
        bool known;
        int fd;

        if (snprintf(control, sizeof(control), "%s/" MPS_CONTROL_SOCKET, directory) >=
                (int)sizeof(control))
                return false;
        fd = connect_to(control);
        if (fd < 0)
                return false;
        known = write(fd, question, sizeof(question) - 1) == (ssize_t)sizeof(question) - 1 &&
                shutdown(fd, SHUT_WR) == 0 && read_line(fd, path, size);
        close(fd);
        return known;
}

static void ask(void)
{
        const char *directory = getenv(MPS_DIRECTORY);
        char path[108], line[64];

        if (!directory || !*directory || !ask_control(directory, path, sizeof(path)))
                return;
        server.fd = connect_to(path);
        /* "DEVICE GROUP" */
        if (server.fd < 0 || !read_line(server.fd, line, sizeof(line)) ||
                sscanf(line, "%d %u", &server.instance, &server.group) != 2) {
                if (server.fd >= 0)
                        close(server.fd);
                server.fd = -1;
        }
}

bool mps_serves(const struct sim_device *device)
{
        bool serves;

        pthread_mutex_lock(&server.mutex);
        if (!server.asked)
                ask();
        server.asked = true;
        serves = server.fd >= 0 && server.instance == device->instance;
        pthread_mutex_unlock(&server.mutex);
        return serves;
}

uint32_t mps_group(void)
{
        return mps_alive() ? server.group : RUNLIST_NONE;
}

bool mps_alive(void)
{
        char byte;

        if (atomic_load_explicit(&server.gone, memory_order_relaxed))
                return false;
        if (recv(server.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
                (errno == EAGAIN || errno == EINTR))
                return true;
        atomic_store(&server.gone, true);
        return false;
}
