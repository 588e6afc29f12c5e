/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define CHANNELS 8u /* of a group, and most that a call takes: 64 */

uint64_t world_random(struct world *world, uint64_t below)
{
        uint64_t x = world->random;

        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        world->random = x;
        return below ? (x * 0x2545f4914f6cdd1dull >> 11) % below : 0;
}

static uint64_t exponential(struct world *world, double rate)
{
        double u = ((double)world_random(world, 1u << 30) + 1) / (double)((1u << 30) + 1);

        return (uint64_t)(-log(u) / rate * 1e9) + 1;
}

static void begin_watching(struct world *world, unsigned d, uint64_t at)
{
        static const struct switches_costs costs = SCHEDULE_SWITCHES_COSTS;
        struct watcher *watcher = &world->watcher[d];

        *watcher = (struct watcher){.next = at,
                .asked = at,
                .sampled = at,
                .records = world->gpu[d].records,
                .idle_ns = world->gpu[d].idle_ns};
        switches_init(&watcher->switches, &costs, at);
}

void world_init(struct world *world, unsigned devices, uint64_t seed, bool arbitrate)
{
        static const struct schedule_costs costs = SCHEDULE_COSTS_H100;

        memset(world, 0, sizeof(*world));
        world->random = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
        if (!world->random)
                world->random = 1;
        world->now = SEC;
        world->devices = devices;
        for (unsigned d = 0; d < devices; d++) {
                schedule_init(&world->gpu[d], &costs, world->now);
                begin_watching(world, d, world->now);
        }
        for (unsigned i = 0; i < 2; i++)
                world->lane[i].done_at = UINT64_MAX;
        if (arbitrate && arbiter_new(devices, NULL, &world->arbiter) < 0)
                abort();
}

void world_done(struct world *world)
{
        for (unsigned c = 0; c < WORLD_CLIENTS; c++)
                free(world->client[c].latency);
        arbiter_free(world->arbiter);
}

struct client *world_client(struct world *world, uint64_t id, unsigned device)
{
        for (unsigned c = 0; c < world->clients; c++)
                if (world->client[c].live && world->client[c].id == id &&
                        world->client[c].device == device)
                        return &world->client[c];
        return NULL;
}

void world_record(struct client *client)
{
        client->latency_room = 1u << 22;
        client->latency = calloc(client->latency_room, sizeof(*client->latency));
        if (!client->latency)
                abort();
}

static int compare(const void *a, const void *b)
{
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return (x > y) - (x < y);
}

double world_percentile(struct client *client, double p)
{
        if (!client->latencies)
                return 0;
        qsort(client->latency, client->latencies, sizeof(*client->latency), compare);
        return client->latency[(unsigned)(p * (client->latencies - 1))];
}

uint64_t world_used(struct world *world, const struct client *client)
{
        return world->gpu[client->device].group[client->group].resident_ns;
}

uint64_t world_work(struct world *world, const struct client *client)
{
        return world->gpu[client->device].group[client->group].work_ns;
}

/* ---- programs ---- */

static void set_pending(struct client *client, uint64_t now, bool pending)
{
        if (client->pending == pending)
                return;
        client->pending = pending;
        if (pending)
                client->starts++;
        else
                client->wanted_ns += now - client->pending_since;
        client->pending_since = now;
}

static uint64_t block_of(const struct program *program)
{
        return program->block_ns ? program->block_ns : program->kernel_ns;
}

static void submit(struct world *world, struct client *client, uint64_t now, uint64_t work)
{
        set_pending(client, now, true);
        client->submitted = client->keeps.launched = now;
        schedule_submit(
                &world->gpu[client->device], client->group, work, block_of(&client->program));
}

static void sample(struct client *client, uint64_t span)
{
        if (span > client->longest)
                client->longest = span;
        if (client->latency && client->latencies < client->latency_room)
                client->latency[client->latencies++] = (uint32_t)(span / US);
}

/* As src/guard/gate.c: when what is to be launched then may be. */
static uint64_t launch_time(const struct client *client)
{
        uint64_t next;

        return client->keeps.on && cleave_turns_off(&client->keeps.told, client->launch_at, &next)
                       ? next
                       : client->launch_at;
}

static void on_event(struct world *world, struct client *client, uint64_t now)
{
        const struct program *program = &client->program;
        uint64_t wanted;

        if (client->arrival_at <= now) {
                client->arrival_at = now + exponential(world, program->rate);
                if (client->waiting < ARRAY_SIZE(client->arrival)) {
                        client->arrival[client->arrivals++ % ARRAY_SIZE(client->arrival)] = now;
                        if (client->waiting++ == 0)
                                client->launch_at = now;
                }
        }
        if (launch_time(client) > now)
                return;
        wanted = client->launch_at;
        client->launch_at = UINT64_MAX;
        switch (program->kind) {
        case PROGRAM_QUEUE:
                submit(world, client, now, SCHEDULE_ENDLESS);
                break;
        case PROGRAM_LOOP:
        case PROGRAM_SERVICE:
                submit(world, client, now, program->kernel_ns);
                client->submitted = wanted;
                break;
        case PROGRAM_PHASES:
                client->on = !client->on;
                if (client->on)
                        submit(world, client, now, SCHEDULE_ENDLESS);
                else {
                        schedule_cancel(&world->gpu[client->device], client->group);
                        set_pending(client, now, false);
                }
                client->launch_at = now + (client->on ? program->work_ns : program->pause_ns);
                break;
        }
}

static void on_completion(struct client *client, uint64_t now)
{
        client->completed++;
        set_pending(client, now, false);
        if (client->program.kind == PROGRAM_LOOP) {
                sample(client, now - client->submitted);
                client->launch_at = now + client->program.pause_ns;
        } else {
                unsigned oldest = client->arrivals - client->waiting;

                sample(client, now - client->arrival[oldest % ARRAY_SIZE(client->arrival)] +
                                       REQUEST_OVERHEAD);
                if (--client->waiting > 0)
                        client->launch_at = now + HOST_PAUSE;
        }
}

static void run_device(struct world *world, unsigned d, uint64_t until)
{
        struct schedule *gpu = &world->gpu[d];
        struct client *mine[WORLD_TENANTS];
        unsigned count = 0;

        for (unsigned c = 0; c < world->clients; c++)
                if (world->client[c].live && world->client[c].device == d)
                        mine[count++] = &world->client[c];
        for (;;) {
                struct client *due = NULL;
                uint64_t stop = until;
                uint32_t group;

                for (unsigned i = 0; i < count; i++) {
                        uint64_t at = MIN_OF(launch_time(mine[i]), mine[i]->arrival_at);

                        if (at <= stop) {
                                stop = at;
                                due = mine[i];
                        }
                }
                group = schedule_advance(gpu, stop);
                if (group != SCHEDULE_NONE) {
                        for (unsigned i = 0; i < count; i++)
                                if (mine[i]->group == group)
                                        on_completion(mine[i], gpu->now);
                } else if (due)
                        on_event(world, due, stop);
                else
                        return;
        }
}

/* ---- contexts ---- */

void world_make_contexts(struct world *world, struct client *client, double rate)
{
        client->makes = rate;
        client->make_at = rate > 0 ? world->now + exponential(world, rate) : UINT64_MAX;
}

static uint64_t next_making(const struct world *world)
{
        uint64_t next = UINT64_MAX;

        for (unsigned c = 0; c < world->clients; c++)
                if (world->client[c].live)
                        next = MIN_OF(next, world->client[c].make_at);
        return next;
}

static void make_contexts(struct world *world)
{
        for (unsigned c = 0; c < world->clients; c++) {
                struct client *client = &world->client[c];

                if (!client->live || client->make_at > world->now)
                        continue;
                client->epoch++;
                client->make_at = world->now + exponential(world, client->makes);
        }
}

/* ---- tenants ---- */

int world_join(struct world *world, uint64_t id, const unsigned *devices, unsigned count,
        const struct arbiter_terms *terms, const struct program *program)
{
        int r = 0;

        if (world->arbiter)
                r = arbiter_admit(world->arbiter, world->now, id, devices, count, terms);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < count; i++) {
                unsigned c = 0;
                struct client *client;

                while (world->client[c].live)
                        c++;
                if (world->clients <= c)
                        world->clients = c + 1;
                client = &world->client[c];
                free(client->latency);
                memset(client, 0, offsetof(struct client, arrival));
                client->arrivals = 0;
                client->longest = 0;
                client->latency = NULL;
                client->latencies = 0;
                client->disabled_since = 0;
                memset(&client->keeps, 0, sizeof(client->keeps));
                client->live = true;
                client->id = id;
                client->device = devices[i];
                client->program = *program;
                client->joined = client->on_until = world->now;
                client->by_cap = terms && terms->cap > 0 && terms->share == 0;
                client->on_ns = client->used_before = 0;
                client->group = schedule_add(&world->gpu[devices[i]], (uint32_t)id);
                client->launch_at = client->arrival_at = client->make_at = UINT64_MAX;
                if (program->kind == PROGRAM_SERVICE)
                        client->arrival_at = world->now + exponential(world, program->rate);
                else
                        client->launch_at = world->now;
        }
        return 0;
}

void world_leave(struct world *world, uint64_t id)
{
        if (world->arbiter)
                arbiter_leave(world->arbiter, world->now, id);
        for (unsigned c = 0; c < world->clients; c++)
                if (world->client[c].live && world->client[c].id == id) {
                        world->client[c].live = false;
                        schedule_remove(
                                &world->gpu[world->client[c].device], world->client[c].group);
                }
        while (world->clients && !world->client[world->clients - 1].live)
                world->clients--;
}

/* ---- the daemon's and the steering process's part ---- */

static uint64_t cost_of(struct world *world, const struct call *call)
{
        unsigned more = (call->actions - 1) * CHANNELS;
        uint64_t jitter = world->fixed ? 60 : world_random(world, 120);

        switch (call->act) {
        case ARBITER_DISABLE:
                return (240 + jitter + 5 * more) * US;
        case ARBITER_ENABLE:
                return (160 + jitter + 2 * more) * US;
        case ARBITER_SET_MODE:
                return (440 + jitter) * US;
        default:
                return (240 + jitter) * US;
        }
}

static void begin_call(struct world *world, struct lane *lane)
{
        struct call *call = &lane->call[lane->first % WORLD_CALLS];

        call->cost = cost_of(world, call);
        if (world->now >= world->stall_from && world->now < world->stall_to)
                call->cost += world->stall_to - world->now;
        lane->done_at = world->now + call->cost;
        world->calls++;
        world->call_ns += call->cost;
        world->steered_ns[lane - world->lane] += call->cost;
}

/* As src/steer/watch.c: also in place of a look that would come just before. */
static void look_after(struct watcher *watcher, uint64_t at)
{
        if (at < watcher->next || at < watcher->looked + 12 * MS)
                watcher->next = at;
}

static void finish_call(struct world *world, struct lane *lane)
{
        const struct call *call = &lane->call[lane->first % WORLD_CALLS];

        for (unsigned i = 0; i < call->actions; i++) {
                const struct arbiter_action *action = &call->action[i];
                struct client *client = world_client(world, action->tenant, action->device);
                struct schedule *gpu = &world->gpu[action->device];
                struct watcher *watcher = &world->watcher[action->device];
                struct switches *switches = &watcher->switches;

                if (!client)
                        continue;
                switches_call(switches, world->now - call->cost);
                /* as on a GPU, where a call may end the run that is on */
                if (world->rough_ppm)
                        schedule_expire(gpu);
                switch (action->act) {
                case ARBITER_SET_SLICE:
                        schedule_set_slice(gpu, client->group, action->slice_us);
                        switches_slice(
                                switches, (uint32_t)client->id, world->now, action->slice_us);
                        break;
                case ARBITER_SET_MODE:
                        switches_mode(
                                switches, (uint32_t)client->id, world->now, action->thread_block);
                        schedule_set_mode(gpu, client->group,
                                action->thread_block ? SCHEDULE_BLOCK : SCHEDULE_INSTRUCTION);
                        break;
                case ARBITER_DISABLE:
                case ARBITER_ENABLE:
                        /* as src/steer/steer.c: nobody else's slice is ended for one who waits */
                        if (action->act == ARBITER_DISABLE && gpu->current != client->group &&
                                gpu->current != SCHEDULE_NONE)
                                schedule_bar(gpu, client->group);
                        else
                                schedule_set_disabled(
                                        gpu, client->group, action->act == ARBITER_DISABLE);
                        client->disabled_since = action->act == ARBITER_DISABLE ? world->now : 0;
                        switches_off(switches, (uint32_t)client->id, world->now - call->cost,
                                world->now, action->act == ARBITER_DISABLE);
                        if (action->act == ARBITER_ENABLE)
                                look_after(watcher, world->now + 1700 * US);
                        break;
                }
                if (switches->rest.on)
                        watcher->next = world->now;
                arbiter_acted(world->arbiter, world->now, action, 0);
        }
        lane->first++;
        lane->done_at = UINT64_MAX;
        if (--lane->count)
                begin_call(world, lane);
}

/* As src/daemon/compute.c: whose turns are kept by the clock. */
static void tell_turns(struct world *world)
{
        for (unsigned c = 0; c < world->clients; c++) {
                struct client *client = &world->client[c];
                struct cleave_turns *told = &client->keeps.told;
                struct arbiter_turn turn = {0};
                bool was_on = client->keeps.on;

                if (!client->live)
                        continue;
                client->keeps.on =
                        arbiter_turn_of(world->arbiter, client->id, client->device, &turn);
                if (!client->keeps.on && !was_on)
                        continue;
                if (was_on && told->from == turn.from && told->until == turn.until &&
                        told->period == turn.period && told->good_until > world->now + 25 * MS)
                        continue;
                *told = (struct cleave_turns){
                        turn.from, turn.until, turn.period, world->now + 50 * MS};
                switches_keep(&world->watcher[client->device].switches, (uint32_t)client->id,
                        world->now, told);
        }
}

/* Whether it is done without a call. */
static bool is_kept(struct world *world, const struct arbiter_action *action)
{
        struct client *client = world_client(world, action->tenant, action->device);
        bool was_off = client && client->keeps.off;

        if (!client || (action->act != ARBITER_DISABLE && action->act != ARBITER_ENABLE))
                return false;
        client->keeps.off = action->act == ARBITER_DISABLE && client->keeps.on;
        if (!client->keeps.off && (action->act == ARBITER_DISABLE || !was_off))
                return false;
        arbiter_acted(world->arbiter, world->now, action, 0);
        return true;
}

static void queue_actions(struct world *world, const struct arbiter_action *actions, unsigned count)
{
        for (unsigned i = 0; i < count; i++) {
                bool channels =
                        actions[i].act == ARBITER_DISABLE || actions[i].act == ARBITER_ENABLE;
                struct lane *lane = &world->lane[channels];
                struct call *last = NULL;

                /* what is under way takes nobody along any more */
                if (lane->count > 1)
                        last = &lane->call[(lane->first + lane->count - 1) % WORLD_CALLS];
                if (channels && last && last->act == actions[i].act &&
                        last->action[0].batch == actions[i].batch && last->actions < 8) {
                        last->action[last->actions++] = actions[i];
                        continue;
                }
                if (lane->count == WORLD_CALLS)
                        abort();
                last = &lane->call[(lane->first + lane->count++) % WORLD_CALLS];
                last->act = actions[i].act;
                last->action[0] = actions[i];
                last->actions = 1;
                /* the first waits for the rest of its batch */
                if (lane->count == 1 && channels)
                        while (i + 1 < count && actions[i + 1].act == actions[i].act &&
                                actions[i + 1].batch == actions[i].batch && last->actions < 8)
                                last->action[last->actions++] = actions[++i];
                if (lane->count == 1)
                        begin_call(world, lane);
        }
}

static void do_actions(struct world *world, struct arbiter_action *actions, unsigned count)
{
        unsigned calls = 0;

        for (unsigned i = 0; i < count; i++)
                if (!is_kept(world, &actions[i]))
                        actions[calls++] = actions[i];
        queue_actions(world, actions, calls);
}

/* Who kept off and is to stay off is disabled. */
static void disable_rest(struct world *world)
{
        for (unsigned c = 0; c < world->clients; c++) {
                const struct client *client = &world->client[c];
                struct arbiter_action action = {
                        .act = ARBITER_DISABLE, .tenant = client->id, .device = client->device};

                if (client->live && client->keeps.off && !client->keeps.on)
                        do_actions(world, &action, 1);
        }
}

/* The engine's own samples: the first look after 0.2 s. */
static void take_sample(struct world *world, unsigned d)
{
        struct watcher *watcher = &world->watcher[d];
        struct schedule *gpu = &world->gpu[d];
        uint64_t span = world->now - watcher->sampled;
        unsigned k = watcher->samples % WORLD_SAMPLES;

        if (span < 200 * MS)
                return;
        watcher->sample[k].from = watcher->sampled;
        watcher->sample[k].to = world->now;
        watcher->sample[k].busy_ns = span - MIN_OF(span, gpu->idle_ns - watcher->idle_ns);
        if (world->uneven_ppm) {
                uint64_t most = span / 1000 * world->uneven_ppm / 1000;
                uint64_t busy = watcher->sample[k].busy_ns + world_random(world, 2 * most + 1);

                watcher->sample[k].busy_ns = MIN_OF(busy - MIN_OF(busy, most), span);
        }
        watcher->sample[k].owner =
                gpu->current == SCHEDULE_NONE ? 0 : gpu->group[gpu->current].owner;
        watcher->samples++;
        watcher->sampled = world->now;
        watcher->idle_ns = gpu->idle_ns;
}

/* As steer/watch.c. */
static void watch(struct world *world, unsigned d)
{
        struct watcher *watcher = &world->watcher[d];
        struct schedule *gpu = &world->gpu[d];
        uint64_t pause;

        watcher->next = world->now + 10 * MS;
        watcher->looked = world->now;
        if (watcher->switches.rest.on) {
                /* there are no records of that time */
                while (watcher->records < gpu->records &&
                        gpu->record[watcher->records % SCHEDULE_RECORDS].at <= world->now)
                        watcher->records++;
                if (switches_must_wake(&watcher->switches, world->now))
                        switches_wake(&watcher->switches, world->now);
        }
        while (watcher->records < gpu->records) {
                const struct schedule_record *record =
                        &gpu->record[watcher->records % SCHEDULE_RECORDS];
                uint64_t at = record->at;

                if (record->at > world->now)
                        break;
                if (!record->start && world->rough_ppm &&
                        world_random(world, 1000000) < world->rough_ppm)
                        at -= world_random(world, world->rough_ns);
                switches_record(&watcher->switches, record->owner, at, record->start);
                watcher->records++;
        }
        switches_look(&watcher->switches, world->now);
        if (switches_may_rest(&watcher->switches)) {
                switches_rest(&watcher->switches, world->now);
                watcher->rests++;
        }
        take_sample(world, d);
        pause = switches_wants_busy(&watcher->switches);
        if (!pause || world->now < watcher->asked + pause)
                return;
        watcher->asked = world->now;
        for (unsigned i = MIN_OF(watcher->samples, WORLD_SAMPLES); i > 0; i--) {
                unsigned k = (watcher->samples - i) % WORLD_SAMPLES;

                if (watcher->sample[k].to > watcher->switches.sampled)
                        switches_busy(&watcher->switches, watcher->sample[k].from,
                                watcher->sample[k].to, watcher->sample[k].busy_ns,
                                watcher->sample[k].owner);
        }
}

static void see_switches(
        struct world *world, const struct client *client, struct arbiter_sight *sight)
{
        struct switches *switches = &world->watcher[client->device].switches;
        struct switches_sight seen;
        struct arbiter_state state;

        sight->block_ns = 0;
        sight->precision_ns = 60 * US;
        sight->used_at = switches->now;
        sight->used_ns = client->used_before;
        sight->starts_known = sight->wanted_known = sight->blind_alone = true;
        sight->keeps_turns = world->keeps;
        sight->demand = ARBITER_DEMAND_NONE;
        sight->launches_known =
                world->keeps && (client->keeps.on || (arbiter_inspect(world->arbiter, client->id,
                                                              client->device, &state) == 0 &&
                                                             state.heard));
        sight->launched_at = client->launch_at <= world->now ? world->now : client->keeps.launched;
        if (switches_sight(switches, (uint32_t)client->id, &seen) < 0)
                return;
        sight->demand = seen.demand == SWITCHES_WORK   ? ARBITER_DEMAND_WORK
                        : seen.demand == SWITCHES_NONE ? ARBITER_DEMAND_NONE
                                                       : ARBITER_DEMAND_UNKNOWN;
        sight->since = seen.since;
        sight->used_ns = client->used_before + seen.used_ns;
        sight->starts = seen.starts;
        sight->wanted_ns = seen.wanted_ns;
        sight->doubt_ns = seen.doubt_ns;
        sight->corrected_ns = seen.corrected_ns;
        sight->short_ns = seen.short_ns;
}

/* As the daemon without records: a cap without a guarantee goes by what it could have used. */
static void see_nothing(const struct client *client, struct arbiter_sight *sight)
{
        sight->block_ns = 0;
        sight->demand = ARBITER_DEMAND_UNKNOWN;
        sight->since = client->joined;
        sight->used_known = client->by_cap;
        sight->source = ACCOUNT_COUNTERS;
        sight->used_ns = client->on_ns;
}

static void count_on(struct client *client, uint64_t now)
{
        if (!client->disabled_since)
                client->on_ns += now - client->on_until;
        client->on_until = now;
}

static void look(struct world *world)
{
        for (unsigned c = 0; c < world->clients; c++) {
                struct client *client = &world->client[c];
                struct arbiter_sight sight = {
                        .groups = 1, .channels = CHANNELS, .epoch = client->epoch};

                if (!client->live)
                        continue;
                count_on(client, world->now);
                sight.block_ns = block_of(&client->program);
                sight.used_ns = world_used(world, client);
                sight.used_known = world->fidelity != SEES_NOTHING;
                sight.source = ACCOUNT_SWITCHES;
                sight.precision_ns = 1 * US;
                switch (world->fidelity) {
                case SEES_ALL:
                        sight.demand = client->pending ? ARBITER_DEMAND_WORK : ARBITER_DEMAND_NONE;
                        sight.since = client->pending_since;
                        sight.starts_known = sight.wanted_known = true;
                        sight.starts = client->starts;
                        sight.wanted_ns =
                                client->wanted_ns +
                                (client->pending ? world->now - client->pending_since : 0);
                        break;
                case SEES_USED:
                        sight.precision_ns = 10 * US;
                        sight.used_ns -= sight.used_ns % sight.precision_ns;
                        break;
                case SEES_COARSE:
                        sight.precision_ns = 500 * US;
                        sight.used_ns -= sight.used_ns % sight.precision_ns;
                        sight.source = ACCOUNT_COUNTERS;
                        sight.block_ns = 0;
                        break;
                case SEES_SWITCHES:
                        if (world->now < world->blind_until)
                                see_nothing(client, &sight);
                        else
                                see_switches(world, client, &sight);
                        break;
                default:
                        break;
                }
                arbiter_observe(world->arbiter, world->now, client->id, client->device, &sight);
        }
}

static void clear_lanes(struct world *world)
{
        for (unsigned i = 0; i < 2; i++) {
                world->lane[i].count = 0;
                world->lane[i].done_at = UINT64_MAX;
        }
}

void world_kill_steering(struct world *world, uint64_t back, uint64_t known)
{
        clear_lanes(world);
        for (unsigned c = 0; c < world->clients; c++) {
                struct client *client = &world->client[c];
                struct switches_sight seen;

                if (!client->live)
                        continue;
                if (switches_sight(&world->watcher[client->device].switches, (uint32_t)client->id,
                            &seen) == 0)
                        client->used_before += seen.used_ns;
                (void)arbiter_forget(world->arbiter, world->now, client->id, client->device);
        }
        for (unsigned d = 0; d < world->devices; d++)
                begin_watching(world, d, back);
        world->dead_until = back;
        world->blind_until = known;
}

/* Another steering process is there. */
static void come_back(struct world *world)
{
        for (unsigned c = 0; c < world->clients; c++) {
                struct client *client = &world->client[c];

                if (!client->live)
                        continue;
                if (client->disabled_since)
                        schedule_set_disabled(&world->gpu[client->device], client->group, false);
                client->disabled_since = 0;
                client->keeps.on = client->keeps.off = false;
                client->on_until = world->now;
        }
        for (unsigned d = 0; d < world->devices; d++)
                begin_watching(world, d, world->now);
        world->dead_until = 0;
        arbiter_resume(world->arbiter, world->now);
}

/* The daemon may be late. */
static uint64_t next_step(struct world *world)
{
        uint64_t next = arbiter_next(world->arbiter);

        if (!world->late_ppm)
                return next;
        if (next != world->wanted) {
                world->wanted = next;
                world->late = world_random(world, 1000000) < world->late_ppm
                                      ? world_random(world, world->late_ns)
                                      : 0;
        }
        return next + world->late;
}

void world_run(struct world *world, uint64_t until)
{
        static struct arbiter_action actions[ARBITER_MAX_ACTIONS];
        unsigned count;

        for (;;) {
                uint64_t awake = MAX_OF(world->dead_until, world->now);
                uint64_t step = world->arbiter ? MAX_OF(next_step(world), awake) : UINT64_MAX;
                uint64_t making = MAX_OF(next_making(world), world->now);
                uint64_t stop = MIN_OF(MIN_OF(until, step), making);

                for (unsigned i = 0; i < 2; i++)
                        stop = MIN_OF(stop, world->lane[i].done_at);
                for (unsigned d = 0; d < world->devices; d++)
                        if (world->fidelity == SEES_SWITCHES)
                                stop = MIN_OF(stop, MAX_OF(world->watcher[d].next, world->now));
                for (unsigned d = 0; d < world->devices; d++)
                        run_device(world, d, stop);
                world->now = stop;
                if (making <= stop)
                        make_contexts(world);
                for (unsigned d = 0; d < world->devices; d++)
                        if (world->fidelity == SEES_SWITCHES && world->watcher[d].next <= stop)
                                watch(world, d);
                if (stop == world->lane[0].done_at)
                        finish_call(world, &world->lane[0]);
                else if (stop == world->lane[1].done_at)
                        finish_call(world, &world->lane[1]);
                else if (stop == step) {
                        if (world->dead_until)
                                come_back(world);
                        look(world);
                        world->steps++;
                        count = arbiter_step(world->arbiter, world->now, actions);
                        tell_turns(world);
                        do_actions(world, actions, count);
                        disable_rest(world);
                        if (world->check)
                                world->check(world, world->arg);
                } else if (stop == until)
                        return;
        }
}

void world_idle(struct world *world, uint64_t until)
{
        for (unsigned d = 0; d < world->devices; d++)
                run_device(world, d, until);
        clear_lanes(world);
        world->now = until;
}
