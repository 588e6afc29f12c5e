/* SPDX-License-Identifier: Apache-2.0 */
/* cleaved, the node daemon: options, start and end. */
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/paths.h"
#include "daemon/config.h"
#include "daemon/manager.h"
#include "daemon/store.h"
#include "daemon/space_keeper.h"
#include "steer/steer.h"
#include "proto/environment.h"

#define LOCK_FILE     "cleaved.lock"
#define LOG_FILE      "cleaved.log"
#define LOG_MAX       (1 << 20)
#define LOCK_PATIENCE (5 * USEC_PER_SEC)

struct options {
        bool user;
        bool foreground;
        bool debug;
        const char *config;
        const char *runtime_dir;
        const char *sim;
        const char *idle_exit;
};

/* Short and long options, what they take and say. */
static const struct {
        struct option option;
        const char *argument;
        const char *help;
} option_table[] = {
        {{"user", no_argument, NULL, 'u'}, NULL,
                "Serve this user alone, in the background, and end when nothing is left to do"},
        {{"foreground", no_argument, NULL, 'f'}, NULL, "Stay in the foreground and log there"},
        {{"runtime-dir", required_argument, NULL, 'r'}, "DIR",
                "Directory of the sockets (default: /run/cleave, or that of the user)"},
        {{"config", required_argument, NULL, 'c'}, "FILE",
                "Configuration (default: " CONFIG_SYSTEM_FILE ", if it is there)"},
        {{"sim", required_argument, NULL, 's'}, "MODEL",
                "Serve simulated GPUs, as h100 or h100x2 (default: $CLEAVE_SIM)"},
        {{"idle-exit", required_argument, NULL, 'i'}, "SPAN",
                "End after so long without tenants and connections (default for --user: 60s)"},
        {{"debug", no_argument, NULL, 'd'}, NULL, "Log more"},
        {{"help", no_argument, NULL, 'h'}, NULL, "Show this and exit"},
        {{"version", no_argument, NULL, 'V'}, NULL, "Show the version and exit"},
};

static void show_help(void)
{
        printf("Usage: cleaved [OPTION...]\n\n"
               "Keeps account of the memory of this machine's GPUs and grants it to tenants.\n\n");
        for (size_t i = 0; i < ARRAY_SIZE(option_table); i++) {
                char left[40];

                snprintf(left, sizeof(left), "--%s%s%s", option_table[i].option.name,
                        option_table[i].argument ? "=" : "", option_table[i].argument ?: "");
                printf("  %-20s  %s\n", left, option_table[i].help);
        }
}

static int parse_options(int argc, char **argv, struct options *options)
{
        struct option longs[ARRAY_SIZE(option_table) + 1] = {0};
        int c;

        for (size_t i = 0; i < ARRAY_SIZE(option_table); i++)
                longs[i] = option_table[i].option;
        while ((c = getopt_long(argc, argv, "h", longs, NULL)) >= 0)
                switch (c) {
                case 'u':
                        options->user = true;
                        break;
                case 'f':
                        options->foreground = true;
                        break;
                case 'r':
                        options->runtime_dir = optarg;
                        break;
                case 'c':
                        options->config = optarg;
                        break;
                case 's':
                        options->sim = optarg;
                        break;
                case 'i':
                        options->idle_exit = optarg;
                        break;
                case 'd':
                        options->debug = true;
                        break;
                case 'h':
                        show_help();
                        return 0;
                case 'V':
                        printf("cleaved %s\n", CLEAVE_VERSION);
                        return 0;
                default:
                        fprintf(stderr, "Try 'cleaved --help'.\n");
                        return -EINVAL;
                }
        if (optind < argc) {
                fprintf(stderr, "cleaved: '%s' is one argument too many\nTry 'cleaved --help'.\n",
                        argv[optind]);
                return -EINVAL;
        }
        return 1;
}

static void report_line(void *userdata, const char *text)
{
        (void)userdata;
        log_error("%s", text);
}

static int read_config(const struct options *options, struct config *config)
{
        const char *path = options->config ?: CONFIG_SYSTEM_FILE;
        int r;

        r = config_read(config, path, report_line, NULL);
        if (r == -ENOENT && !options->config)
                r = 0;
        else if (r < 0 && r != -EINVAL)
                log_error("%s: %s", path, strerror(-r));
        if (r == 0 && options->idle_exit) {
                r = parse_duration(options->idle_exit, &config->idle_exit);
                if (r < 0)
                        log_error("--idle-exit=%s is not a span of time such as 60s",
                                options->idle_exit);
                config->idle_exit_set = true;
        }
        /* the system's stays until it is told to go */
        if (r == 0 && !options->user && !config->idle_exit_set)
                config->idle_exit = UINT64_MAX;
        return r;
}

/* Asks whoever listens; what the keeper holds the sockets for takes connections too, but does not
 * answer. A descriptor on which the answer will come, or negative. */
static int ask(const char *directory)
{
        static const char question[] = "{\"id\":1,\"method\":\"tenant.list\"}\n";
        _cleanup_close_ int fd = socket_connect(directory, CLEAVE_CONTROL_SOCKET, SOCK_STREAM);

        if (fd < 0)
                return fd;
        if (send(fd, question, sizeof(question) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                return -errno;
        return TAKE_FD(fd);
}

/* Whether the answer has come within that time. *fd is closed when nobody is there any more. */
static bool answered(int *fd, int wait_ms)
{
        struct pollfd poll_fd = {.fd = *fd, .events = POLLIN};
        char byte;

        /* without a descriptor it only waits */
        if (poll(&poll_fd, 1, wait_ms) <= 0)
                return false;
        if (recv(*fd, &byte, 1, MSG_DONTWAIT) == 1)
                return true;
        *fd = close_safe(*fd);
        return false;
}

/* One daemon a runtime directory. -EALREADY: one runs, and answers. */
static int take_lock(const char *directory, int *ret)
{
        uint64_t until = clock_usec(CLOCK_MONOTONIC) + LOCK_PATIENCE;
        _cleanup_free_ char *path = path_join(directory, LOCK_FILE);
        _cleanup_close_ int fd = -EBADF, question = -EBADF;

        if (!path)
                return -ENOMEM;
        fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return -errno;
                /* it is about to come up, about to end, or serves */
                if (question < 0)
                        question = ask(directory);
                if (answered(&question, 10))
                        return -EALREADY;
                if (clock_usec(CLOCK_MONOTONIC) > until)
                        return -EBUSY;
        }
        *ret = TAKE_FD(fd);
        return 0;
}

static int bind_socket(const char *directory, const char *name, int type, mode_t mode, int *ret)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_close_ int fd = -EBADF, at = -EBADF;

        at = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (at < 0)
                return -errno;
        fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (unlinkat(at, name, 0) < 0 && errno != ENOENT)
                return -errno;
        /* whatever the length of the directory's path */
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", at, name);
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
                fchmodat(at, name, mode, 0) < 0 || listen(fd, 4096) < 0)
                return -errno;
        *ret = TAKE_FD(fd);
        return 0;
}

/* A socket that was kept is of use while its name still leads to it. */
static bool still_there(const char *directory, const char *name)
{
        _cleanup_free_ char *path = path_join(directory, name);
        struct stat st;

        return path && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static int get_socket(struct manager *manager, const char *name, int type, int *ret)
{
        int fd = store_take(&manager->store, name);

        if (fd >= 0 && still_there(manager->directory, name)) {
                *ret = fd;
                return set_nonblocking(fd, true);
        }
        close_safe(fd);
        /* The directory keeps others from a user's own daemon. In a container, where the guard's
         * socket is mounted alone, a user other than root has to reach it. */
        return bind_socket(manager->directory, name, type,
                manager->system || type == SOCK_SEQPACKET ? 0666 : 0600, ret);
}

/* Descriptors that systemd passes: the sockets it listens on, and what it kept for us. */
static int receive_descriptors(struct store *store)
{
        char **names = NULL;
        int n, r = 0;

        n = sd_listen_fds_with_names(1, &names);
        for (int i = 0; i < n; i++) {
                int fd = SD_LISTEN_FDS_START + i;
                const char *name = names[i];

                if (sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) > 0)
                        name = CLEAVE_CONTROL_SOCKET;
                else if (sd_is_socket(fd, AF_UNIX, SOCK_SEQPACKET, 1) > 0)
                        name = CLEAVE_GUARD_SOCKET;
                if (r == 0)
                        r = store_receive(store, name, fd);
                free(names[i]);
        }
        free(names);
        return n < 0 ? n : r;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata)
{
        struct manager *manager = userdata;

        (void)source;
        log_info("ending on signal %u", info->ssi_signo);
        manager->stopping = true;
        store_farewell(&manager->store, !manager->tenants);
        return sd_event_exit(manager->event, 0);
}

static int watch_signals(struct manager *manager)
{
        static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
        sigset_t set;

        sigemptyset(&set);
        for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
                sigaddset(&set, signals[i]);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
                int r = sd_event_add_signal(manager->event, NULL, signals[i], on_signal, manager);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* A process and its pidfd, its connection, and two pages a tenant: more than 1024 come together. */
static void raise_limits(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
                limit.rlim_cur = limit.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        }
}

/* Arguments with which the keeper starts the daemon anew, in options' own memory. */
struct restart {
        char *arguments[12];
        char *owned[12];
};

static int add_argument(struct restart *restart, const char *format, const char *value)
{
        char *text;

        if (!value)
                return 0;
        if (asprintf(&text, format, value) < 0)
                return -ENOMEM;
        for (size_t i = 0; i + 1 < ARRAY_SIZE(restart->arguments); i++)
                if (!restart->arguments[i]) {
                        restart->arguments[i] = restart->owned[i] = text;
                        return 0;
                }
        free(text);
        return -E2BIG;
}

static int run_daemon(const struct options *options, const struct config *config,
        const char *directory, const char *sim, int ready)
{
        _cleanup_(manager_free_ptr) struct manager *manager = NULL;
        bool notify = getenv("NOTIFY_SOCKET") != NULL;
        static struct restart restart;
        int r;

        r = add_argument(&restart, "%s", "cleaved");
        if (r == 0 && options->user)
                r = add_argument(&restart, "%s", "--user");
        if (r == 0)
                r = add_argument(&restart, "--runtime-dir=%s", directory);
        if (r == 0)
                r = add_argument(&restart, "--config=%s", options->config);
        if (r == 0)
                r = add_argument(&restart, "--sim=%s", sim);
        if (r == 0)
                r = add_argument(&restart, "--idle-exit=%s", options->idle_exit);
        if (r < 0)
                return log_errno(r, "cannot start");

        r = manager_new(config, !options->user, directory, &manager);
        if (r < 0)
                return log_errno(r, "cannot start");
        r = watch_signals(manager);
        if (r < 0)
                return log_errno(r, "signals cannot be watched");
        r = store_init(&manager->store, notify ? STORE_SYSTEMD : STORE_KEEPER, directory,
                restart.arguments);
        if (r == 0)
                r = receive_descriptors(&manager->store);
        if (r == 0)
                r = store_connect(&manager->store);
        if (r < 0)
                return log_errno(r, "what an earlier daemon kept cannot be taken over");
        r = get_socket(manager, CLEAVE_CONTROL_SOCKET, SOCK_STREAM, &manager->control_fd);
        if (r == 0)
                r = get_socket(manager, CLEAVE_GUARD_SOCKET, SOCK_SEQPACKET, &manager->guard_fd);
        if (r < 0)
                return log_errno(r, "cannot listen in %s", directory);
        r = space_make_place(directory, !options->user);
        if (r < 0)
                log_warning("containers cannot be tenants in space: %s", strerror(-r));
        r = manager_recover(manager, sim);
        if (r < 0)
                return log_errno(r, "cannot recover");
        r = manager_listen(manager);
        if (r < 0)
                return log_errno(r, "cannot listen");
        (void)sd_event_set_watchdog(manager->event, true);
        (void)sd_notifyf(0, "READY=1\nSTATUS=Serving %u devices (%s)", manager->devices,
                manager->backend->name);
        if (ready >= 0) {
                (void)!write(ready, "", 1);
                close_safe(ready);
        }
        r = manager_run(manager);
        (void)sd_notify(0, "STOPPING=1");
        if (r < 0)
                return log_errno(r, "the loop has failed");
        /* systemd's sockets stay, ours go, so that nobody waits for one who does not come */
        if (!notify) {
                _cleanup_free_ char *control = path_join(directory, CLEAVE_CONTROL_SOCKET);
                _cleanup_free_ char *guard = path_join(directory, CLEAVE_GUARD_SOCKET);

                if (control)
                        unlink(control);
                if (guard)
                        unlink(guard);
        }
        return 0;
}

/* Leaves the caller's session. In the child: 0, and ret_ready is to be written to when the daemon
 * serves. In the parent: does not return, its exit status tells whether the daemon came up. */
static int go_to_background(int *ret_ready)
{
        int ends[2];
        pid_t pid;

        if (pipe2(ends, O_CLOEXEC) < 0)
                return -errno;
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid > 0) {
                char byte;
                ssize_t n;

                close(ends[1]);
                do
                        n = read(ends[0], &byte, 1);
                while (n < 0 && errno == EINTR);
                /* what went wrong, the child has said on standard error */
                _exit(n == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
        }
        close(ends[0]);
        if (setsid() < 0)
                return -errno;
        *ret_ready = ends[1];
        return 0;
}

/* From here on nothing of the caller's is kept open: standard error becomes the log file. */
static int detach(const char *directory)
{
        _cleanup_free_ char *path = path_join(directory, LOG_FILE);
        _cleanup_close_ int null = -EBADF, log = -EBADF;
        struct stat st;

        if (!path)
                return -ENOMEM;
        log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (log < 0)
                return -errno;
        if (fstat(log, &st) == 0 && st.st_size > LOG_MAX && ftruncate(log, 0) < 0)
                return -errno;
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0)
                return -errno;
        if (dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
                dup2(log, STDERR_FILENO) < 0 || chdir("/") < 0)
                return -errno;
        return 0;
}

static int choose_directory(const struct options *options, char **ret)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        char *directory = NULL;
        int r = 0;

        if (options->runtime_dir)
                directory = realpath(options->runtime_dir, NULL) ?: strdup(options->runtime_dir);
        else if (options->user)
                r = user_runtime_dir(&directory, &error);
        else
                directory = strdup(CLEAVE_SYSTEM_RUNTIME_DIR);
        if (r == 0 && !directory)
                r = -ENOMEM;
        if (r == 0 && directory[0] != '/')
                r = error_set(&error, CLEAVE_REASON_USAGE, "%s is not an absolute path", directory);
        if (r == 0)
                r = runtime_dir_prepare(directory, options->user ? 0700 : 0755, &error);
        if (r < 0) {
                log_error("%s", error_message(&error));
                free(directory);
                return r;
        }
        *ret = directory;
        return 0;
}

static int steer(const char *socket, const char *board, const char *view, const char *backend_name)
{
        const struct steer_backend *backend = steer_backend_find(backend_name);
        uint64_t socket_fd, board_fd, view_fd;
        int r;

        if (!backend || parse_unsigned(socket, INT32_MAX, &socket_fd) < 0 ||
                parse_unsigned(board, INT32_MAX, &board_fd) < 0 ||
                parse_unsigned(view, INT32_MAX, &view_fd) < 0)
                return EXIT_FAILURE;
        prctl(PR_SET_NAME, "cleave-steer");
        if (fcntl((int)socket_fd, F_SETFD, FD_CLOEXEC) < 0 ||
                fcntl((int)board_fd, F_SETFD, FD_CLOEXEC) < 0 ||
                fcntl((int)view_fd, F_SETFD, FD_CLOEXEC) < 0)
                return EXIT_FAILURE;
        r = steer_run((int)socket_fd, (int)board_fd, (int)view_fd, backend, NULL);
        if (r < 0)
                log_errno(r, "steering has ended");
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* cleaved --space SOCKET ROOT NAME DEVICE LIBRARY CONTROL shared|own: see space_keeper.h */
static int keep_space(char **words)
{
        struct space_keeper keeper = {
                .mps = {.root = words[1],
                        .name = words[2],
                        .msec = MPS_DEADLINE_MSEC,
                        .program = words[5][0] ? words[5] : NULL,
                        .shared = strcmp(words[6], "shared") == 0},
                .device = words[3],
                .library = words[4][0] ? words[4] : NULL,
        };
        uint64_t fd;

        if (parse_unsigned(words[0], INT32_MAX, &fd) < 0 || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
                return EXIT_FAILURE;
        keeper.fd = (int)fd;
        return space_keeper_run(&keeper) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
        _cleanup_(config_done) struct config config;
        _cleanup_free_ char *directory = NULL;
        _cleanup_close_ int lock = -EBADF;
        struct options options = {0};
        const char *sim;
        int ready = -EBADF, r;

        log_open("cleaved");
        config_init(&config);
        /* cleaved --keeper DIRECTORY DESCRIPTOR -- ARGUMENTS…: see store.h */
        if (argc >= 5 && strcmp(argv[1], "--keeper") == 0 && strcmp(argv[4], "--") == 0) {
                uint64_t fd;

                if (parse_unsigned(argv[3], INT32_MAX, &fd) < 0)
                        return EXIT_FAILURE;
                return keeper_run(argv[2], (int)fd, argv + 5) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
        }
        /* cleaved --steer SOCKET BOARD VIEW BACKEND: see steer/steer.h */
        if (argc == 6 && strcmp(argv[1], "--steer") == 0)
                return steer(argv[2], argv[3], argv[4], argv[5]);
        if (argc == 9 && strcmp(argv[1], "--space") == 0)
                return keep_space(argv + 2);
        r = parse_options(argc, argv, &options);
        if (r <= 0)
                return r < 0 ? 2 : EXIT_SUCCESS;
        if (options.debug)
                log_set_max(LOG_DEBUG);
        if (read_config(&options, &config) < 0)
                return 2;
        umask(0077);
        signal(SIGPIPE, SIG_IGN);
        signal(SIGCHLD, SIG_IGN); /* keepers are not waited for */
        raise_limits();
        if (choose_directory(&options, &directory) < 0)
                return EXIT_FAILURE;
        sim = options.sim ?: getenv(CLEAVE_ENV_SIM);
        if (sim && !*sim)
                sim = NULL;

        /* the lock is of the process that keeps it, so first the fork */
        if (options.user && !options.foreground) {
                r = go_to_background(&ready);
                if (r < 0) {
                        log_error("cannot go to the background: %s", strerror(-r));
                        return EXIT_FAILURE;
                }
        }
        r = take_lock(directory, &lock);
        if (r == -EALREADY) {
                /* as good as started */
                if (ready >= 0)
                        (void)!write(ready, "", 1);
                else
                        log_notice("a daemon serves %s already", directory);
                return EXIT_SUCCESS;
        }
        if (r < 0) {
                log_error("%s cannot be locked: %s", directory,
                        r == -EBUSY ? "another daemon holds it and does not answer" : strerror(-r));
                return EXIT_FAILURE;
        }
        if (ready >= 0) {
                r = detach(directory);
                if (r < 0) {
                        log_error("cannot leave the terminal: %s", strerror(-r));
                        return EXIT_FAILURE;
                }
        }
        return run_daemon(&options, &config, directory, sim, ready) < 0 ? EXIT_FAILURE
                                                                        : EXIT_SUCCESS;
}
