/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvidia-cuda-mps-control of the simulated GPU: with -d it becomes the control daemon, else it
 * hands standard input to the daemon and prints what it answers. The daemon starts a server when a
 * client comes and there is none, as the real one does. Without -multiuser-server it serves its own
 * user only. Of the real commands it knows those that Cleave uses.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "mps.h"
#include "rm.h"

#define PID_FILE      "nvidia-cuda-mps-control.pid"
#define CLIENTS_MAX   1024
#define SERVER_MEMORY (66ull << 20) /* what a server holds on an H100 */
#define CHANNELS      8
#define CLASS_CHANNEL 0xc86fu

static const char *directory;
static double threads = 100;
static pid_t server;
static pid_t clients[CLIENTS_MAX];
static unsigned n_clients;
static bool shared; /* other users may be clients of the one server */

static int address_of(const char *name, struct sockaddr_un *ret)
{
        *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
        return snprintf(ret->sun_path, sizeof(ret->sun_path), "%s/%s", directory, name) <
                               (int)sizeof(ret->sun_path)
                       ? 0
                       : -1;
}

static int listen_at(const char *name)
{
        struct sockaddr_un address;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || address_of(name, &address) < 0)
                return -1;
        unlink(address.sun_path);
        if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
                chmod(address.sun_path, 0666) < 0 || listen(fd, 64) < 0)
                return -1;
        return fd;
}

/* ---- the server ---- */

static uint32_t rm_client, next_handle = 0x5c000001u;

static uint32_t allocate(uint32_t parent, uint32_t class_id, void *params)
{
        struct rm_alloc call = {
                .client = rm_client,
                .parent = parent,
                .handle = parent ? next_handle++ : 0,
                .class_id = class_id,
                .params = (uintptr_t)params,
                .status = RM_ERR_NOT_SUPPORTED,
        };

        if (sim_ioctl(kernel_control_fd(), _IOWR(RM_IOCTL_TYPE, RM_ESC_ALLOC, struct rm_alloc),
                    &call) < 0 ||
                call.status != RM_OK)
                _exit(1);
        return call.handle;
}

/* The device that CUDA_VISIBLE_DEVICES names by its UUID, or the first. */
static uint32_t visible_device(void)
{
        const char *wanted = getenv("CUDA_VISIBLE_DEVICES");
        const struct kernel_state *state = kernel_state();
        char digits[33] = "";
        unsigned n = 0;

        for (; wanted && *wanted && n < 32; wanted++) {
                if (n == 0 && strncmp(wanted, "GPU-", 4) == 0)
                        wanted += 4;
                if (isxdigit((unsigned char)*wanted))
                        digits[n++] = (char)tolower((unsigned char)*wanted);
        }
        for (uint32_t i = 0; n == 32 && i < state->devices; i++) {
                char text[33];

                for (unsigned k = 0; k < 16; k++)
                        snprintf(text + 2 * k, 3, "%02x", state->device[i].uuid[k]);
                if (memcmp(text, digits, 32) == 0)
                        return i;
        }
        return 0;
}

static uint32_t make_objects(uint32_t instance)
{
        struct rm_device_params device_params = {.instance = instance};
        struct rm_memory_params memory = {.size = SERVER_MEMORY};
        struct rm_channel_group_params group_params = {.engine_type = RM_ENGINE_GRAPHICS};
        uint32_t device, group, index, place = RUNLIST_NONE;

        rm_client = allocate(0, RM_CLASS_ROOT_CLIENT, NULL);
        device = allocate(rm_client, RM_CLASS_DEVICE, &device_params);
        allocate(device, RM_CLASS_SUBDEVICE, NULL);
        allocate(device, RM_CLASS_MEMORY_LOCAL, &memory);
        group = allocate(device, RM_CLASS_CHANNEL_GROUP, &group_params);
        for (int i = 0; i < CHANNELS; i++)
                allocate(group, CLASS_CHANNEL, NULL);
        kernel_lock();
        index = kernel_find(rm_client, group);
        if (index != KERNEL_NONE)
                place = kernel_state()->object[index].group;
        kernel_unlock();
        return place;
}

static void serve_clients(int ready)
{
        char line[64], name[64];
        uint32_t instance;
        int fd, n;

        /* nobody's conversation with the daemon stays open with us */
        for (int i = 3; i < 1024; i++)
                if (i != ready)
                        close(i);
        prctl(PR_SET_NAME, "mps-server");
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (kernel_open() < 0 || kernel_attach() < 0)
                _exit(1);
        instance = visible_device();
        n = snprintf(line, sizeof(line), "%u %u\n", instance, make_objects(instance));
        snprintf(name, sizeof(name), "server-%d", getpid());
        fd = listen_at(name);
        if (fd < 0 || write(ready, "", 1) != 1)
                _exit(1);
        close(ready);
        for (;;) {
                /* kept open: its end is how a client learns of ours */
                int connection = accept(fd, NULL, NULL);

                if (connection >= 0 && write(connection, line, (size_t)n) != n)
                        close(connection);
        }
}

static bool server_lives(void)
{
        if (server > 0 && waitpid(server, NULL, WNOHANG) == server)
                server = 0;
        return server > 0;
}

static void start_server(void)
{
        int ready[2];
        char byte;

        if (pipe2(ready, O_CLOEXEC) < 0)
                return;
        n_clients = 0;
        server = fork();
        if (server == 0) {
                serve_clients(ready[1]);
        }
        close(ready[1]);
        if (server > 0 && read(ready[0], &byte, 1) != 1) {
                kill(server, SIGKILL);
                waitpid(server, NULL, 0);
                server = 0;
        }
        close(ready[0]);
}

/* ---- the control daemon ---- */

static void answer_server(int connection, FILE *out)
{
        struct ucred peer;
        socklen_t size = sizeof(peer);

        if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
                (!shared && peer.uid != geteuid()))
                return;
        if (!server_lives())
                start_server();
        if (!server_lives())
                return;
        fprintf(out, "%s/server-%d\n", directory, server);
        if (n_clients < CLIENTS_MAX)
                clients[n_clients++] = peer.pid;
}

static void list_clients(FILE *out)
{
        unsigned kept = 0;

        for (unsigned i = 0; i < n_clients; i++)
                if (kill(clients[i], 0) == 0)
                        clients[kept++] = clients[i];
        n_clients = kept;
        for (unsigned i = 0; i < n_clients; i++)
                fprintf(out, "%d\n", clients[i]);
}

static void quit(void)
{
        struct sockaddr_un address;
        char name[64];

        snprintf(name, sizeof(name), "server-%d", server);
        if (server_lives()) {
                kill(server, SIGKILL);
                waitpid(server, NULL, 0);
        }
        if (address_of(name, &address) == 0)
                unlink(address.sun_path);
        if (address_of(MPS_CONTROL_SOCKET, &address) == 0)
                unlink(address.sun_path);
        if (address_of(PID_FILE, &address) == 0)
                unlink(address.sun_path);
        _exit(0);
}

static void answer(int connection, char *line, FILE *out)
{
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "server") == 0)
                answer_server(connection, out);
        else if (strncmp(line, "start_server", 12) == 0) {
                if (!server_lives())
                        start_server();
        } else if (strcmp(line, "get_server_list") == 0 && server_lives())
                fprintf(out, "%d\n", server);
        else if (strcmp(line, "get_server_list") == 0)
                ;
        else if (strncmp(line, "get_server_status", 17) == 0 && server_lives())
                fprintf(out, "ACTIVE\n");
        else if (strncmp(line, "get_client_list", 15) == 0)
                list_clients(out);
        else if (sscanf(line, "set_default_active_thread_percentage %lf", &threads) == 1)
                ;
        else if (strcmp(line, "get_default_active_thread_percentage") == 0)
                fprintf(out, "%.1f\n", threads);
        else if (strcmp(line, "quit") == 0)
                quit();
        else if (*line)
                fprintf(out, "invalid command %s\n", line);
}

static void converse(int connection)
{
        FILE *in = fdopen(connection, "r"), *out = fdopen(dup(connection), "w");
        char line[256];

        while (in && out && fgets(line, sizeof(line), in))
                answer(connection, line, out);
        if (out)
                fclose(out);
        if (in)
                fclose(in);
}

static void write_pid(void)
{
        struct sockaddr_un address;
        FILE *file;

        if (address_of(PID_FILE, &address) < 0)
                return;
        file = fopen(address.sun_path, "we");
        if (file) {
                fprintf(file, "%d\n", getpid());
                fclose(file);
        }
}

static int become_daemon(void)
{
        struct sockaddr_un address;
        int fd, null;
        pid_t pid;

        if (address_of(PID_FILE, &address) == 0 && access(address.sun_path, F_OK) == 0) {
                fprintf(stderr, "An instance of this daemon is already running\n");
                return 1;
        }
        fd = listen_at(MPS_CONTROL_SOCKET);
        if (fd < 0) {
                fprintf(stderr, "Cannot listen in %s: %s\n", directory, strerror(errno));
                return 1;
        }
        pid = fork();
        if (pid != 0)
                return pid < 0;
        setsid();
        signal(SIGPIPE, SIG_IGN);
        signal(SIGTERM, SIG_DFL);
        write_pid();
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int i = 0; i < 3; i++)
                dup2(null, i);
        for (;;) {
                struct pollfd wait = {.fd = fd, .events = POLLIN};
                int connection;

                (void)server_lives();
                if (poll(&wait, 1, 200) <= 0)
                        continue;
                connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
                if (connection >= 0)
                        converse(connection);
        }
}

static int ask_daemon(void)
{
        struct sockaddr_un address;
        char buffer[4096];
        ssize_t n;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || address_of(MPS_CONTROL_SOCKET, &address) < 0 ||
                connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
                printf("Cannot find MPS control daemon process\n");
                return 1;
        }
        while ((n = read(STDIN_FILENO, buffer, sizeof(buffer))) > 0)
                if (write(fd, buffer, (size_t)n) != n)
                        return 1;
        shutdown(fd, SHUT_WR);
        while ((n = read(fd, buffer, sizeof(buffer))) > 0)
                fwrite(buffer, 1, (size_t)n, stdout);
        return 0;
}

int main(int argc, char **argv)
{
        bool begin = false;

        directory = getenv(MPS_DIRECTORY);
        if (!directory || !*directory) {
                fprintf(stderr, "%s is not set\n", MPS_DIRECTORY);
                return 1;
        }
        for (int i = 1; i < argc; i++) {
                begin = begin || strcmp(argv[i], "-d") == 0;
                shared = shared || strcmp(argv[i], "-multiuser-server") == 0;
        }
        return begin ? become_daemon() : ask_daemon();
}
