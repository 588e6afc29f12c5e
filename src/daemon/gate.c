/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compute at the gate: on devices whose driver does not let anybody steer its scheduler, turns are
 * given as leases in the tenants' grant pages (policy/gate.h), and the guards let launches pass by
 * them (guard/gate.c). So are turns on a set of SMs that several tenants have in common, as their
 * shares are less than the least set (policy/space.h). Nothing of this runs while there is no gate.
 *
 * The same place in the page tells two loops of short kernels the turns that they keep by the clock
 * (policy/arbiter.h, struct arbiter_turn); daemon/compute.c says whose, and when.
 */
#include <linux/futex.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "daemon/manager.h"
#include "policy/gate.h"

#define NSEC_PER_USEC 1000ull
#define SECOND        1000000000ull
#define REST_NS       20000000ull   /* between steps while no tenant has a process */
#define BOUND_NS      (10 * SECOND) /* what a tenant says is believed so far */

/* Of a set that tenants have in common. */
struct gated_set {
        struct gated_set *next, *prev;
        unsigned device, group; /* as in the device's plan */
        struct gate *gate;
};

struct gates {
        struct manager *manager;
        sd_event_source *timer;
        struct gate *time;              /* of all devices that have one; NULL: none has */
        char *why[ARBITER_MAX_DEVICES]; /* NULL: the device has none */
        struct gated_set *sets;
};

static struct gate *gate_of(const struct manager *manager, unsigned index)
{
        const struct gates *gates = manager->gates;

        return gates && index < ARBITER_MAX_DEVICES && gates->why[index] ? gates->time : NULL;
}

static struct gated_set *find_set(const struct manager *manager, unsigned device, unsigned group)
{
        struct gated_set *set = NULL;

        if (manager->gates && group)
                DL_FOREACH(manager->gates->sets, set)
        if (set->device == device && set->group == group)
                break;
        return set;
}

/* The gate that a tenant has on a device of its; NULL: none. A set is what it has in place of a
 * device, and its gate knows it as the first. */
static struct gate *gate_for(const struct tenant *tenant, unsigned i)
{
        unsigned index = tenant->device[i].index;
        const struct gated_set *set;

        if (!tenant->space.on)
                return tenant->steered ? gate_of(tenant->manager, index) : NULL;
        set = find_set(tenant->manager, index, tenant->space.group);
        return set ? set->gate : NULL;
}

const char *gates_why(const struct manager *manager, unsigned index)
{
        return gate_of(manager, index) ? manager->gates->why[index] : NULL;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static void set_mode(struct tenant *tenant, unsigned i, enum cleave_gate_mode mode)
{
        struct cleave_grant_page *page = tenant->pages.grant;
        unsigned count = 0;

        if (!page || atomic_load(&page->device[i].gate) == mode)
                return;
        atomic_store(&page->device[i].gate, mode);
        for (unsigned k = 0; k < tenant->devices; k++)
                count += atomic_load(&page->device[k].gate) != 0;
        atomic_store(&page->gates, count);
}

static void wake(struct cleave_gate *gate)
{
        syscall(SYS_futex, &gate->version, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void write_lease(
        struct tenant *tenant, unsigned i, const struct gate_lease *lease, uint64_t now)
{
        struct cleave_gate *gate;

        if (!tenant->pages.grant)
                return;
        gate = cleave_gate(tenant->pages.grant, i);
        atomic_store(&gate->written_at, now);
        if (atomic_load(&gate->from) != lease->from || atomic_load(&gate->until) != lease->until ||
                atomic_load(&gate->window_ns) != lease->window_ns ||
                atomic_load(&gate->rate_ppm) != lease->rate_ppm ||
                (atomic_load(&gate->version) & 1)) {
                cleave_gate_write(
                        gate, lease->from, lease->until, lease->window_ns, lease->rate_ppm);
                wake(gate);
        }
        /* from when there is a lease to go by */
        set_mode(tenant, i, CLEAVE_GATE_LEASE);
}

void gates_clear(struct tenant *tenant)
{
        for (unsigned i = 0; i < tenant->devices; i++)
                if (!gate_for(tenant, i))
                        gates_keep(tenant, i, &(const struct cleave_turns){0});
}

/* ---- turns that are kept by the clock -------------------------------------------------------- */

bool gates_can_keep(const struct tenant *tenant)
{
        const struct session *session;

        if (!tenant->pages.grant || !tenant->pages.usage || tenant->devices != 1 ||
                !tenant->sessions)
                return false;
        DL_FOREACH(tenant->sessions, session)
        {
                const struct cleave_slot *slot =
                        cleave_usage_slot(tenant->pages.usage, session->slot);

                if (!session->returning && (!slot || !atomic_load(&slot->keeps_turns)))
                        return false;
        }
        return true;
}

void gates_keep(struct tenant *tenant, unsigned i, const struct cleave_turns *turns)
{
        struct cleave_gate *gate;

        if (!tenant->pages.grant)
                return;
        gate = cleave_gate(tenant->pages.grant, i);
        /* also where there are none: who waits is to see that something has changed */
        cleave_gate_write_turns(gate, turns);
        set_mode(tenant, i,
                turns->period || tenant->device[i].launches.said ? CLEAVE_GATE_TURNS
                                                                 : CLEAVE_GATE_OPEN);
        wake(gate);
}

void gates_hear(struct tenant *tenant, unsigned i, bool said)
{
        tenant->device[i].launches.said = said;
        if (!tenant->device[i].keeps.on)
                gates_keep(tenant, i, &(const struct cleave_turns){0});
}

uint64_t gates_wanted_at(const struct tenant *tenant, unsigned i)
{
        return tenant->pages.usage ? atomic_load(&tenant->pages.usage->gate[i].wanted_at) : 0;
}

/* ---- what is seen ---------------------------------------------------------------------------- */

/* Adds to the tenant's use what its processes say: no more than time has passed, and their work
 * that is under way can add. */
static void count_use(
        struct tenant_device *device, uint64_t used, uint64_t busy, uint64_t now, bool shown)
{
        int64_t more = (int64_t)(used - device->gate_said), room;
        uint64_t best;

        device->gate_said = used;
        if (!device->gate_known) {
                device->gate_known = true;
                device->gate_at = now;
                device->gate_room = 0;
                return;
        }
        device->gate_room = MIN_OF(device->gate_room + (now - device->gate_at), BOUND_NS);
        device->gate_at = now;
        room = (int64_t)(device->gate_room + (busy - MIN_OF(busy, now)));
        more = MAX_OF(MIN_OF(more, room), -(int64_t)BOUND_NS);
        device->gate_ns += (uint64_t)more;
        if (more > 0)
                device->gate_room -= MIN_OF((uint64_t)more, device->gate_room);
        else
                device->gate_room += (uint64_t)-more;
        if (!shown)
                return;
        /* the counter that users see never falls */
        best = device->gate_ns;
        if ((int64_t)(best - device->gate_shown_ns) > 0) {
                device->counted_ns += best - device->gate_shown_ns;
                device->used_ns += best - device->gate_shown_ns;
                device->gate_shown_ns = best;
        }
        device->use_known = true;
        compute_count_second(device, now);
}

static void see(struct tenant *tenant, unsigned i, uint64_t now, struct gate_sight *ret)
{
        struct tenant_device *device = &tenant->device[i];
        struct session *session;

        *ret = (struct gate_sight){.used_ns = device->gate_ns};
        if (!tenant->pages.usage)
                return;
        ret->wanted_at = MIN_OF(atomic_load(&tenant->pages.usage->gate[i].wanted_at), now);
        DL_FOREACH(tenant->sessions, session)
        {
                const struct cleave_slot *slot;

                if (session->returning)
                        continue;
                slot = cleave_usage_slot(tenant->pages.usage, session->slot);
                if (slot)
                        ret->busy_until = MAX_OF(ret->busy_until, atomic_load(&slot->gate_busy[i]));
        }
        ret->busy_until = MIN_OF(ret->busy_until, now + BOUND_NS);
        /* what is used of a set is not the device's time */
        count_use(device, atomic_load(&tenant->pages.usage->gate[i].used_ns), ret->busy_until, now,
                !tenant->space.on && !compute_is_watched(tenant->manager, device->index, now));
        ret->used_ns = device->gate_ns;
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* The device by the gate's count. */
static unsigned known_as(const struct tenant *tenant, unsigned i)
{
        return tenant->space.on ? 0 : tenant->device[i].index;
}

static void step_gate(struct gates *gates, struct gate *gate, uint64_t now)
{
        struct gate_sight sight;
        struct gate_lease lease;

        for (struct tenant *t = gates->manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; i < t->devices; i++)
                        if (gate_for(t, i) == gate) {
                                see(t, i, now, &sight);
                                (void)gate_observe(gate, t->id, known_as(t, i), &sight);
                        }
        gate_step(gate, now);
        for (struct tenant *t = gates->manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; i < t->devices; i++)
                        if (gate_for(t, i) == gate &&
                                gate_get(gate, t->id, known_as(t, i), &lease) == 0)
                                write_lease(t, i, &lease, now);
}

static bool is_used(struct tenant *tenant)
{
        for (unsigned i = 0; tenant->sessions && i < tenant->devices; i++)
                if (gate_for(tenant, i))
                        return true;
        return false;
}

static void schedule(struct gates *gates)
{
        uint64_t next = UINT64_MAX;
        struct gated_set *set;
        bool rest = true;

        if (gates->time)
                next = MIN_OF(next, gate_next(gates->time));
        DL_FOREACH(gates->sets, set)
        next = MIN_OF(next, gate_next(set->gate));
        for (struct tenant *t = gates->manager->tenants; t && rest; t = t->hh.next)
                rest = !is_used(t);
        if (rest)
                next = MAX_OF(next, clock_ns() + REST_NS);
        sd_event_source_set_time(gates->timer, next / NSEC_PER_USEC);
        sd_event_source_set_enabled(gates->timer, SD_EVENT_ONESHOT);
}

static int tick(sd_event_source *source, uint64_t usec, void *userdata)
{
        struct gates *gates = userdata;
        uint64_t now = clock_ns();
        struct gated_set *set;

        (void)source;
        (void)usec;
        if (gates->time)
                step_gate(gates, gates->time, now);
        DL_FOREACH(gates->sets, set)
        step_gate(gates, set->gate, now);
        schedule(gates);
        return 0;
}

/* ---- tenants --------------------------------------------------------------------------------- */

void gates_enter(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;
        bool any = false;

        for (unsigned i = 0; i < tenant->devices; i++) {
                struct gate *gate = gate_for(tenant, i);

                if (!gate)
                        continue;
                (void)gate_admit(
                        gate, clock_ns(), tenant->id, tenant->device[i].index, &tenant->terms);
                any = true;
        }
        if (any)
                schedule(manager->gates);
}

void gates_change(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;
        bool any = false;

        for (unsigned i = 0; i < tenant->devices; i++) {
                struct gate *gate = gate_for(tenant, i);

                any |= gate && gate_change(gate, clock_ns(), tenant->id, &tenant->terms) == 0;
        }
        if (any)
                schedule(manager->gates);
}

void gates_leave(struct tenant *tenant)
{
        struct manager *manager = tenant->manager;

        for (unsigned i = 0; i < tenant->devices; i++) {
                struct gate *gate = gate_for(tenant, i);

                if (gate)
                        (void)gate_leave(gate, clock_ns(), tenant->id);
                set_mode(tenant, i, CLEAVE_GATE_OPEN);
        }
        if (manager->gates)
                schedule(manager->gates);
}

/* ---- devices --------------------------------------------------------------------------------- */

static struct gates *gates_new(struct manager *manager)
{
        struct gates *gates = calloc(1, sizeof(*gates));
        int r;

        if (!gates)
                return NULL;
        gates->manager = manager;
        r = sd_event_add_time(manager->event, &gates->timer, CLOCK_MONOTONIC,
                clock_usec(CLOCK_MONOTONIC), 1, tick, gates);
        if (r >= 0)
                r = sd_event_source_set_priority(gates->timer, SD_EVENT_PRIORITY_IMPORTANT);
        if (r < 0) {
                sd_event_source_disable_unref(gates->timer);
                free(gates);
                return NULL;
        }
        return gates;
}

/* Those that there are, or new ones; NULL: no memory. */
static struct gates *gates_of(struct manager *manager)
{
        if (!manager->gates)
                manager->gates = gates_new(manager);
        return manager->gates;
}

static void free_if_none(struct manager *manager)
{
        struct gates *gates = manager->gates;

        if (!gates || gates->sets || gates->time)
                return;
        sd_event_source_disable_unref(gates->timer);
        manager->gates = NULL;
        free(gates);
}

int gates_begin(struct manager *manager, unsigned index, const char *why)
{
        _cleanup_free_ char *copy = NULL;
        struct gates *gates;
        int r = 0;

        if (index >= MIN_OF(manager->devices, ARBITER_MAX_DEVICES))
                return -EINVAL;
        if (gate_of(manager, index))
                return 0;
        copy = strdup(why);
        if (!copy)
                return -ENOMEM;
        gates = gates_of(manager);
        if (!gates)
                return -ENOMEM;
        if (!gates->time)
                r = gate_new(&gates->time);
        if (r < 0)
                return r;
        gates->why[index] = TAKE_PTR(copy);
        for (struct tenant *t = manager->tenants; t; t = t->hh.next)
                for (unsigned i = 0; t->steered && i < t->devices; i++)
                        if (t->device[i].index == index)
                                (void)gate_admit(gates->time, clock_ns(), t->id, index, &t->terms);
        schedule(manager->gates);
        events_add(&manager->events, EVENT_COMPUTE_GATED,
                (struct event_subject){.device = manager->device[index].info.uuid_text},
                "compute terms on device %u are kept at a gate in the tenants' processes: %s",
                manager->device[index].info.index, why);
        return 0;
}

void gates_stop(struct manager *manager)
{
        if (manager->gates) {
                manager->gates->time = gate_free(manager->gates->time);
                for (unsigned d = 0; d < ARBITER_MAX_DEVICES; d++) {
                        free(manager->gates->why[d]);
                        manager->gates->why[d] = NULL;
                }
        }
        free_if_none(manager);
        for (struct tenant *t = manager->tenants; t; t = t->hh.next) {
                for (unsigned i = 0; i < t->devices; i++)
                        if (!t->space.on)
                                t->device[i].gate_known = false;
                gates_clear(t);
        }
}

/* ---- sets of SMs that tenants have in common ------------------------------------------------- */

static unsigned members_of(const struct space_plan *plan, unsigned group)
{
        unsigned members = 0;

        for (unsigned i = 0; plan && i < plan->tenants; i++)
                members += plan->tenant[i].group == group;
        return members;
}

static struct gated_set *set_new(struct manager *manager, unsigned device, unsigned group)
{
        struct gated_set *set = calloc(1, sizeof(*set));

        if (set && gates_of(manager) && gate_new(&set->gate) == 0) {
                set->device = device;
                set->group = group;
                DL_APPEND(manager->gates->sets, set);
                return set;
        }
        free(set);
        return NULL;
}

/* The share is one of the set's time now. */
static int enter_set(struct tenant *tenant, const struct space_tenant *planned)
{
        struct arbiter_terms terms = tenant->terms;
        struct gated_set *set = find_set(tenant->manager, tenant->device[0].index, planned->group);

        if (!set)
                set = set_new(tenant->manager, tenant->device[0].index, planned->group);
        if (!set)
                return -ENOMEM;
        terms.share = planned->part;
        terms.cap = 0;
        tenant->space.group = planned->group;
        return gate_admit(set->gate, clock_ns(), tenant->id, 0, &terms);
}

void gates_share_sets(struct manager *manager, unsigned device, const struct space_plan *plan)
{
        struct gated_set *set, *next;
        struct tenant *tenant;

        if (manager->gates)
                DL_FOREACH_SAFE(manager->gates->sets, set, next)
        if (set->device == device && members_of(plan, set->group) < 2) {
                DL_DELETE(manager->gates->sets, set);
                gate_free(set->gate);
                free(set);
        }
        for (unsigned i = 0; plan && i < plan->tenants; i++) {
                const struct space_tenant *planned = &plan->tenant[i];
                int r = 0;

                tenant = tenant_by_id(manager, planned->id);
                if (!tenant)
                        continue;
                /* who has a set to himself needs no gate */
                tenant->space.group = 0;
                if (planned->group && members_of(plan, planned->group) > 1)
                        r = enter_set(tenant, planned);
                if (r < 0 && r != -EEXIST)
                        manager_warn(manager, "tenant %s has no part of its SMs' time: %s",
                                tenant->name, strerror(-r));
                gates_clear(tenant);
        }
        free_if_none(manager);
        if (manager->gates)
                schedule(manager->gates);
}

/* ---- what is told ---------------------------------------------------------------------------- */

bool gates_inspect(struct tenant *tenant, unsigned i, struct gate_state *ret)
{
        const struct gate *gate = gate_for(tenant, i);

        return gate && gate_inspect(gate, tenant->id, ret) == 0;
}
