/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's state and loop. What is decided lies in src/policy; what is known and done, here.
 *
 *   manager.c   devices, claims, admission, journal
 *   tenant.c    tenants, and the sessions of their processes
 *   guards.c    guard.sock
 *   control.c   control.sock: connections and lines; methods.c: what can be asked
 *   compute.c   time on the graphics/compute engine, through the steering process
 *   gate.c      the same where the driver refuses: launches wait for their turn in the guards
 *   space.c     multiprocessors of their own, and the MPS server (space_keeper.c)
 *   audit.c     the driver's count against ours; memory that returns
 *   recover.c   what an earlier daemon left
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include <uthash.h>
#include <utlist.h>

#include "base/error.h"
#include "daemon/claims.h"
#include "daemon/config.h"
#include "daemon/events.h"
#include "daemon/journal.h"
#include "daemon/pages.h"
#include "daemon/store.h"
#include "device/device.h"
#include "policy/arbiter.h"
#include "policy/ledger.h"
#include "policy/space.h"
#include "policy/switches.h"

DEFINE_CLEANUP(sd_event_source *, sd_event_source_unref);

struct manager;
struct tenant;
struct connection;
struct compute;
struct gate_state;
struct gates;
struct space;

enum tenant_state {
        TENANT_WAITING,
        TENANT_STARTING,
        TENANT_RUNNING,
        TENANT_ENDING,
};

/* A process that is watched until it ends. */
struct watched_process {
        pid_t pid; /* 0: none */
        uint64_t start_time;
        int pidfd;
        sd_event_source *source;
        bool gone;
};
#define WATCHED_NONE ((struct watched_process){.pidfd = -EBADF})

#define SESSION_RM_FDS 8u

/* A process that uses a tenant's pages, from its HELLO until its memory is back. */
/* What the view said last of a process on a device. */
struct session_use {
        bool known;
        struct switches_sight sight;
};

struct session {
        struct session *next, *prev;
        UT_hash_handle hh; /* in manager.sessions, by process.pid, unless returning */
        struct tenant *tenant;
        uint32_t slot;
        struct watched_process process;
        bool returning; /* settled; waits for the driver's count */
        int fd;         /* connection of the guard, -EBADF: hung up, or before a restart of ours */
        sd_event_source *io;
        char guard_version[24];
        char driver_version[24];
        uint64_t returning_since;          /* monotonic, usec */
        uint64_t next_look, look_interval; /* at what a detached process maps; usec */
        int rm_fd[SESSION_RM_FDS];         /* its descriptors of /dev/nvidiactl */
        unsigned rm_fds;
        bool groups_told;  /* that it has more channel groups than can be steered */
        bool rm_missed;    /* a group was there, and none of them */
        bool rm_searched;  /* they were looked for, as the guard did not pass the right one */
        uint32_t holder;   /* in the steering process, UINT32_MAX: none */
        unsigned rm_known; /* of rm_fd, how many the steering process holds */
        struct session_use use[CLEAVE_MAX_DEVICES]; /* by the tenant's devices */
};

struct tenant_device {
        unsigned index;        /* in manager.device and in the ledger */
        uint64_t driver_bytes; /* the driver's count of its processes; DEVICE_UNKNOWN_BYTES */
        uint64_t peak;         /* bytes */
        uint64_t refusals;     /* told by notices */
        uint64_t before;       /* bytes counted when the audit began */
        unsigned over;         /* audits in a row with the driver above the ledger */
        bool over_told;
        uint64_t allowed; /* bytes that its limits can have let it come to hold */
        unsigned beyond;  /* audits in a row with more than that counted */
        /* as the arbiter was told last */
        unsigned groups, channels;
        uint32_t epoch;
        uint64_t groups_hash;
        uint64_t groups_since; /* monotonic, ns: groups are or are not there since then */
        bool refused_told;
        bool off;      /* its channels are disabled, or it keeps off */
        bool disabled; /* of its channels some may be, by a call */
        struct {
                bool on;  /* it keeps its turns by the clock */
                bool off; /* and it is another's: its channels are not disabled for that */
                struct cleave_turns told;
                /* in a window since that time, counted up to another, what it was given; what it
                 * had used before; and what it had too much in those before */
                uint64_t since, counted, given_ns, used_ns;
                double over_ns;
                uint64_t again_at; /* before that it is not left to */
        } keeps;
        /* its programs say when they launch, since then */
        struct {
                bool said;
                uint64_t since;
        } launches;
        uint64_t on_ns, on_until; /* time with groups and enabled, up to on_until (monotonic) */
        /* of its processes, summed up over those that have ended; as policy/switches.h has them */
        bool use_known;
        uint64_t used_ns, counted_ns, starts, wanted_ns, doubt_ns;
        int64_t corrected_ns;
        uint64_t second_at, second_used_ns; /* when the present second of the share began */
        bool share_known;
        uint32_t share_ppm; /* of the device's time, over the last whole second */
        /* at the gate: what its processes say was used, last, and the sum of what was believed and
         * of what of that was shown */
        bool gate_known;
        uint64_t gate_said, gate_ns, gate_shown_ns;
        uint64_t gate_at, gate_room; /* when, and time passed that was not used */
};

struct stranger {
        pid_t pid;
        uint64_t start_time;
        unsigned seen; /* audits */
        bool current, told;
};
#define STRANGERS_MAX 32u /* of one tenant that are told apart */

/* How a tenant shares its device in space. */
struct tenant_space {
        bool on;
        bool best_effort; /* it has what is left over */
        unsigned units;   /* guaranteed: units of policy/space.h */
        unsigned part;    /* hundredths of its one unit, 0: its units are its own */
        unsigned group;   /* of those that have that unit in common; 0: nobody else has it now */
        unsigned percent; /* as asked, 0: best effort */
};

struct tenant {
        UT_hash_handle hh; /* in manager.tenants, by id */
        struct manager *manager;
        uint64_t id;
        char secret[33];
        char *name;
        uid_t uid;
        json_t *command; /* array of strings */
        enum tenant_state state;
        uint64_t created; /* realtime, usec */
        char *cgroup;
        struct watched_process run; /* the process that made it and leads its tree */
        struct watched_process command_process;
        bool container;         /* command_process is a container's first, cgroup its own */
        uint64_t pid_namespace; /* of a container, 0: it has none of its own */
        bool exited;            /* told by tenant.exit */
        int exit_status;
        struct connection *lifeline;
        bool abandoned; /* its maker has closed the lifeline */
        struct pages pages;
        bool pages_lost; /* recovered without them: no process can join, the driver's count holds */
        bool damaged;    /* the usage page is not believed until all its processes are gone */
        unsigned devices;
        struct tenant_device device[CLEAVE_MAX_DEVICES];
        bool compute; /* terms say something */
        struct arbiter_terms terms;
        bool untrusted;          /* never in one fault domain with others */
        const char *sharing_why; /* static; NULL: nothing was asked */
        struct tenant_space space;
        bool steered;           /* the arbiter knows it */
        uint64_t past_refusals; /* of slots that are free again */
        struct session *sessions;
        unsigned session_count;
        struct session **slot; /* CLEAVE_MAX_SLOTS */
        struct stranger stranger[STRANGERS_MAX];
};

struct manager_device {
        struct device info;
        enum device_state state;
        bool lost_told;
        bool sampled;
        uint64_t sampled_at;    /* when it was asked for; usec of CLOCK_MONOTONIC */
        uint64_t sampling_took; /* usec */
        struct device_memory memory;
        struct device_process *process;
        size_t processes;
        int processes_known;   /* 0 or negative errno */
        uint64_t tenants_used; /* by the driver's count */
        uint64_t others_used; /* processes of no tenant, and what the driver names no process for */
        uint64_t unattributed;   /* of the sample before */
        uint64_t claimed_others; /* other daemons' claims, and what these use */
        uint64_t claimed_used;
        uint64_t own_claimed, own_claimed_used; /* as last written */
        int claims_error;
        struct space *space; /* NULL: it is not shared in space */
};

/* Whether the driver is held: its library's session, and with it all of its device files. */
enum rest {
        REST_AWAKE,
        REST_RESTING,  /* nothing is granted: opened again when anybody asks for a device */
        REST_RELEASED, /* let go of on request: not opened until that is asked for */
};

struct manager {
        struct config config;
        bool system; /* scope */
        char *directory;
        char *guard_library; /* NULL: not found */
        char *guard_nvml_library;
        char *sim_directory;
        uint64_t started; /* realtime, usec */
        uint64_t tag;     /* tells this runtime directory from others of the same user */
        sd_event *event;

        const struct device_backend *backend;
        void *backend_handle;
        struct sampler *sampler; /* NULL: nothing that could not wait was asked yet */
        int driver_limits;       /* what became of the last one that was set: 0 or negative errno */
        bool driver_limits_tried;
        char *sim; /* CLEAVE_SIM that it was opened with */
        enum rest rest;
        const struct device_backend *rested; /* while RESTING: what it was */
        char *rested_detail;
        unsigned devices;
        struct manager_device device[DEVICE_MAX];

        struct ledger ledger;
        struct tenant *tenants;
        struct session *sessions; /* by pid */
        unsigned returning;       /* sessions */
        struct events events;
        struct journal journal;
        struct store store;
        struct compute *compute;         /* NULL: no tenant has terms for compute */
        struct gates *gates;             /* NULL: no device has one */
        const char *refused[DEVICE_MAX]; /* why it could not be steered, NULL: it was not tried */
        int steer_board;                 /* -EBADF: none yet */
        json_t *warnings;

        int control_fd, guard_fd;
        sd_event_source *control_source, *guard_source;
        struct connection *connections;
        unsigned connection_count;
        struct guard *guards; /* connections that have not said HELLO yet */
        unsigned guard_count;
        struct stop *stops; /* tenant.stop in progress */

        sd_event_source *audit_timer, *returning_timer, *idle_timer, *keeper_timer, *rest_timer,
                *serve_source;
        struct {                      /* times: usec of CLOCK_MONOTONIC */
                bool waits;           /* for somebody's turn to begin, at most for a moment */
                uint64_t since;       /* what was asked from then on counts, 0: nothing is asked */
                uint64_t asked;       /* what was there when it was, by hash_own() */
                uint64_t own, driver; /* found the last time, by hash_own(), hash_driver() */
                uint64_t due, pause;  /* when the driver is asked next though nothing has changed */
        } audit;
        uint64_t next_search; /* for devices; monotonic, usec */
        bool stopping;
};

/* manager.c */
int manager_new(
        const struct config *config, bool system, const char *directory, struct manager **ret);
struct manager *manager_free(struct manager *manager);
DEFINE_CLEANUP(struct manager *, manager_free);
/* Opens the backend: "nvidia", "sim" (sim: the value of CLEAVE_SIM) or, where that fails, null. */
int manager_open_devices(struct manager *manager, const char *sim);
/* Takes over what an earlier daemon left, and opens the devices: those it had while its tenants
 * live, else what sim says. */
int manager_recover(struct manager *manager, const char *sim);
/* Lets go of the driver, which no tenant may need then; REST_RELEASED is told as an event. */
void manager_let_go(struct manager *manager, enum rest rest);
/* When nothing is granted: lets go of it in a while. */
void manager_look_rest(struct manager *manager);
/* Of the backend that is, or was before it rested. */
const char *manager_backend_name(const struct manager *manager);
const char *manager_backend_detail(const struct manager *manager);
int manager_listen(struct manager *manager);
int manager_run(struct manager *manager);
/* Where there were none: looks again, now and then; where they rest: at once. */
void manager_look_for_devices(struct manager *manager);
/* Text for daemon.info and doctor, kept. */
void manager_warn(struct manager *manager, const char *format, ...)
        __attribute__((format(printf, 2, 3)));

/* Fits device text (index, uuid, unique start of one) to an index. */
int manager_find_device(
        struct manager *manager, const char *text, unsigned *ret, struct cleave_error *error);
/* Index of the device with that uuid, or -ENODEV. */
int manager_device_by_uuid(struct manager *manager, const char *uuid);

/* Reads what the driver says of a device; processes are what this costs time for. The answer to
 * what was asked at since or later, usec of CLOCK_MONOTONIC, will do. False: all is as it was read
 * last, as the driver has not answered soon and somebody's slices, turn or cap do not wait: it can
 * be had by asking again with the same since. */
#define SAMPLE_EXACT UINT64_MAX /* it is waited for */
bool manager_sample(struct manager *manager, unsigned device, uint64_t since);

/* While an admission is open, the claims of its devices are locked, and the ledger knows what the
 * driver and the neighbours say, and what tenants use. */
struct admission {
        unsigned count;
        unsigned device[LEDGER_MAX_GRANTS];
        struct claims *claims; /* one a device */
};
int admission_open(struct manager *manager, const struct ledger_want *wants, unsigned count,
        struct admission *ret);
/* Writes our claims as the ledger now has them, and the limits into the tenants' pages. */
void admission_close(struct manager *manager, struct admission *admission);
/* Brings claims and others up to date outside of an admission. */
void manager_refresh_claims(struct manager *manager, unsigned device);

/* Writes the ledger's limits into the pages. */
void manager_write_limits(struct manager *manager);
/* Serves the queue soon, from the loop. */
void manager_serve_soon(struct manager *manager);
void manager_arm_audit(struct manager *manager);
/* A turn has begun: what waited for it is done, as nothing is due for a while. */
void manager_audit_between(struct manager *manager);
void manager_arm_returning(struct manager *manager);
/* Looks whether the daemon has nothing to do, and ends it a while after. */
void manager_look_idle(struct manager *manager);
/* The keeper stays for a while after the last tenant: the next one may come soon, and starting a
 * process for it would cost a fifth of what starting a tenant costs. */
void manager_look_keeper(struct manager *manager);
/* All of the state as journal records. */
int manager_rewrite_journal(struct manager *manager);
/* Appends; on failure tells it once. */
int manager_record(struct manager *manager, json_t *record);

/* The sentence for a verdict. */
int verdict_error(
        struct manager *manager, const struct ledger_verdict *verdict, struct cleave_error *error);

/* tenant.c */
struct tenant_request {
        uint64_t id; /* 0: a new one */
        const char *name;
        uid_t uid;
        json_t *command;
        pid_t run_pid; /* 0: no `cleave run` leads it */
        unsigned devices;
        struct ledger_want want[LEDGER_MAX_GRANTS];
        bool compute;
        struct arbiter_terms terms;
        bool untrusted;
        const char *sharing_why;
        struct tenant_space space;
};
/* Enters a tenant that the ledger knows already. State: waiting. */
int tenant_new(struct manager *manager, const struct tenant_request *request, struct tenant **ret);
/* Makes its pages, cgroup and journal record: it has been granted. State: starting. */
int tenant_grant(struct tenant *tenant, struct cleave_error *error);
/* Takes everything back. */
void tenant_free(struct tenant *tenant);
/* Ends it if it is over and nobody is left. May free it. */
void tenant_consider(struct tenant *tenant);
/* Over: its command has ended, and nobody can report that any more or has. */
bool tenant_is_over(const struct tenant *tenant);
struct tenant *tenant_by_id(struct manager *manager, uint64_t id);
bool tenant_name_taken(struct manager *manager, uid_t uid, const char *name);
/* id, unique start of one, or name, among those uid may see. */
int tenant_find(struct manager *manager, const char *text, uid_t uid, bool all, struct tenant **ret,
        struct cleave_error *error);
/* Whose process that is, by cgroup, container or ancestry, or NULL. */
struct tenant *tenant_of_process(struct manager *manager, pid_t pid);
json_t *tenant_json(struct tenant *tenant);
json_t *tenant_record(struct tenant *tenant);
json_t *session_record(struct session *session);
/* Where a tenant's ledger grant for its device i is. */
struct ledger_grant *tenant_grant_of(struct tenant *tenant, unsigned i);
/* What the ledger is to believe it uses, bytes. */
uint64_t tenant_used(struct tenant *tenant, unsigned i);
uint64_t tenant_returning(struct tenant *tenant, unsigned i);
void tenant_update_used(struct tenant *tenant);
/* Writes its grants into its page. */
void tenant_write_grant(struct tenant *tenant, bool changed);
/* Sets the driver's own limits of the tenant's cgroup beside ours, where it has such: they also
 * hold for what gets past the guard. Nothing depends on them. */
void tenant_limit_driver(struct tenant *tenant);
int tenant_watch_process(
        struct tenant *tenant, struct watched_process *process, pid_t pid, uint64_t start_time);
void tenant_set_damaged(struct tenant *tenant, const char *what);

/* slot 0: the lowest free one. Takes fd over on success. */
int session_new(struct tenant *tenant, uint32_t slot, pid_t pid, uint64_t start_time, int fd,
        struct session **ret);
/* The process is gone, or has become another program: its slot is settled, its memory returns. */
void session_leave(struct session *session);
/* Its memory is back. */
void session_release(struct session *session);
void session_free(struct session *session);
void session_hang_up(struct session *session);

/* guards.c */
int guards_listen(struct manager *manager);
void guards_done(struct manager *manager);
int session_watch_io(struct session *session);

/* control.c */
int control_listen(struct manager *manager);
void control_done(struct manager *manager);

/* compute.c */
/* Whether compute can be granted at all here: 0, or the error that says why not. */
int compute_available(struct manager *manager, struct cleave_error *error);
/* Enters a tenant with its terms; one without terms while others have some. */
int compute_admit(struct tenant *tenant, struct cleave_error *error);
/* compute: whether the tenant has terms from now on. On failure the old ones hold. */
int compute_change(struct tenant *tenant, bool compute, const struct arbiter_terms *terms,
        struct cleave_error *error);
/* It ends; the last one with terms ends all steering. */
void compute_leave(struct tenant *tenant);
/* A descriptor of /dev/nvidiactl that a process has passed, taken over. */
void compute_take_descriptor(struct session *session, int fd);
/* The process has gone, or runs another program: what was disabled of it is enabled, and its
 * descriptors are let go, which RM waits for before it takes its memory back. */
void compute_session_gone(struct session *session);
/* Takes over the board of an earlier daemon. After all tenants are recovered. */
void compute_recover(struct manager *manager);
/* Stops; the steering process enables everything and ends. */
void compute_done(struct manager *manager);
/* Members for a tenant's JSON, and for one of its devices. */
void compute_add_tenant_json(struct tenant *tenant, json_t *object);
void compute_add_device_json(struct tenant *tenant, unsigned i, json_t *object);
/* mechanism and detail, for daemon.info. */
json_t *compute_info_json(struct manager *manager);
const char *priority_word(enum arbiter_priority priority);

/* audit.c */
int audit_tick(sd_event_source *source, uint64_t usec, void *userdata);
int returning_tick(sd_event_source *source, uint64_t usec, void *userdata);
/* Reads of all devices in use what the driver says, and what the tenants' pages do. As
 * manager_sample(); of some it may be as it was. */
void audit_now(struct manager *manager, uint64_t since);

/* Whether the engine's records of a device are read, so that use is known from them. */
bool compute_is_watched(struct manager *manager, unsigned index, uint64_t now);
/* What the steering process sees to, the most urgent of it: what takes long is not done meanwhile.
 */
enum compute_haste {
        COMPUTE_NONE,
        COMPUTE_SLICES,
        COMPUTE_CAPS, /* somebody's channels are, or will be, disabled and enabled in time */
        COMPUTE_TURNS,
};
enum compute_haste compute_haste(struct manager *manager);
/* Once a second: the share of the last one. now: of used_ns. */
void compute_count_second(struct tenant_device *device, uint64_t now);

/* gate.c */
/* Puts a device behind a gate: all tenants that are steered, and those that come. 0 or negative
 * errno; 0 if it has one already. why: a clause. */
int gates_begin(struct manager *manager, unsigned index, const char *why);
/* Why a device has a gate, or NULL: it has none. */
const char *gates_why(const struct manager *manager, unsigned index);
/* No device has one any more; sets may. */
void gates_stop(struct manager *manager);
/* Has a gate before each set of SMs that several tenants have in common, after the plan of a device
 * has changed. NULL: there is none any more. */
void gates_share_sets(struct manager *manager, unsigned device, const struct space_plan *plan);
/* Opens the gates that a tenant's pages have of an earlier daemon, of devices that have none now.
 */
void gates_clear(struct tenant *tenant);
void gates_enter(struct tenant *tenant);
void gates_change(struct tenant *tenant);
void gates_leave(struct tenant *tenant);
/* False: its device i has no gate. */
bool gates_inspect(struct tenant *tenant, unsigned i, struct gate_state *ret);
/* Whether all of a tenant's processes keep to turns that they are told. */
bool gates_can_keep(const struct tenant *tenant);
/* Tells it its turns; period 0: that there are none. When it last launched, or waited to
 * (CLOCK_MONOTONIC ns, its own word). */
void gates_keep(struct tenant *tenant, unsigned i, const struct cleave_turns *turns);
/* Has its programs say when they launch, or no longer; where they have no lease and no turns. */
void gates_hear(struct tenant *tenant, unsigned i, bool said);
uint64_t gates_wanted_at(const struct tenant *tenant, unsigned i);

/* space.c */
struct space_wish {
        enum sharing asked;
        bool said; /* by the request, not by default */
        bool untrusted;
        bool fine; /* in steps of 2 */
};
/* Whether a tenant is to share its device in time or in space; then request->space says so. 0;
 * 1: that is known when the device's MPS server has started, see space_defer(). */
int space_decide(struct manager *manager, const struct space_wish *wish,
        struct tenant_request *request, struct cleave_error *error);
/* Calls tenant.create again then. 1; -ENOMEM. */
int space_defer(struct manager *manager, unsigned device, struct connection *connection,
        json_t *params, json_int_t id);
void space_connection_ended(struct connection *connection);
/* Gives a tenant of that mode its SMs, and takes them back. */
int space_admit_tenant(struct tenant *tenant, struct cleave_error *error);
void space_leave_tenant(struct tenant *tenant);
/* Its process has gone, with its contexts. */
void space_session_gone(struct session *session);
/* Takes over what an earlier daemon has given it: record is what space_record() made. */
void space_restore_tenant(struct tenant *tenant, const json_t *record);
/* Whether a device is shared in space, or somebody waits until it can be. */
bool space_is_used(const struct manager *manager);
/* The directory of the devices' MPS servers, CLEAVE_SPACE_DIRECTORY in the runtime directory: made
 * at the daemon's start, so that containers can have it mounted before there is a server. */
int space_make_place(const char *runtime_directory, bool system);
/* Stops; the servers go on if tenants do. */
void space_done(struct manager *manager);
/* Into the tenant's grant page. */
void space_write_page(struct tenant *tenant);
/* For the journal; NULL: it does not share in space. */
json_t *space_record(struct tenant *tenant);
/* For the tenant's command; defaults: unless they are set there. */
void space_add_environment(struct tenant *tenant, json_t *environment, json_t *defaults);
void space_add_tenant_json(struct tenant *tenant, json_t *object);
