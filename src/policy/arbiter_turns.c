/* SPDX-License-Identifier: Apache-2.0 */
/* Turns: who takes them, on which devices together, whose is next and how long. */
#include "policy/arbiter_parts.h"

#define QUIET        ARBITER_MS /* without demand for so long, a turn is over */
#define TURN_DUE     0.875      /* less than 1: frames must not grow by what turns lose */
#define HAD_SOME     (ARBITER_SHORT * 1000 / 2)
#define MADE_UP      3u /* such a part of its part of a frame is added to a turn, at most */
#define TURN_PATIENT (2 * ARBITER_TURN)
#define TURN_LOOPS   (ARBITER_TURN / 5 * 3)
#define TURN_ALIKE   (ARBITER_TURN / 5 * 2)
#define TURN_OF_TWO  (ARBITER_TURN / 4 * 3)
#define ALIKE        3u       /* kernels, of which the shortest lately are known */
#define ALIKE_LEAST  20000ull /* ns: what is shorter does as well */
#define TURN_SMALL   60000    /* ppm: less is not worth a turn of its own */

/* Tenants with a backlog, and those who come and go but take more than they are due, counting that
 * each of their runs costs others a switch there and back, or so much at a time that a turn would
 * be theirs. */
static bool takes_turns(const struct arbiter *arbiter, const struct seat *seat)
{
        double taken = (double)seat->rate_ppm;

        if (seat->stands_back)
                return true;
        if (seat->kind != ARBITER_SPORADIC)
                return seat->kind != ARBITER_IDLE;
        if (seat->run_ns)
                taken *= 1 + 2 * (double)arbiter->costs.switch_ns / (double)seat->run_ns;
        return !seat->first &&
               (taken > (double)seat->target_ppm || seat->run_ns > ARBITER_TURN / 4);
}

bool arb_are_queues(struct arbiter *arbiter, unsigned d)
{
        const struct device *device = &arbiter->device[d];
        enum arbiter_priority priority = ARBITER_NORMAL;
        unsigned queues = 0, active = 0;

        for (unsigned i = 0; i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);
                const struct tenant *tenant = &arbiter->tenant[device->order[i]];

                if (seat->kind == ARBITER_IDLE)
                        continue;
                if (active++ > 0 && tenant->terms.priority != priority)
                        return false;
                priority = tenant->terms.priority;
                if (seat->kind != ARBITER_BACKLOGGED || seat->target_ppm < TURN_SMALL)
                        continue;
                if (!arb_is_queue(seat, device->settled))
                        return false;
                queues++;
        }
        return queues > 1;
}

/* ret_longest: at a time; 0: not known. */
static bool are_like_loops(struct arbiter *arbiter, unsigned d, uint64_t *ret_longest)
{
        const struct device *device = &arbiter->device[d];
        uint64_t shortest = UINT64_MAX / ALIKE, longest = 0;

        for (unsigned i = 0; device->only_loops && i < device->count; i++) {
                const struct seat *seat = seat_of(arbiter, d, device->order[i]);
                uint64_t run = seat->sight.short_ns ? seat->sight.short_ns : seat->run_ns;

                if (!takes_turns(arbiter, seat))
                        continue;
                shortest = MIN_OF(shortest, run);
                longest = MAX_OF(longest, run);
        }
        *ret_longest = longest;
        return device->only_loops && longest <= ALIKE * MAX_OF(shortest, ALIKE_LEAST);
}

bool arb_are_like_loops(struct arbiter *arbiter, unsigned d)
{
        uint64_t longest;

        return are_like_loops(arbiter, d, &longest);
}

/* Who takes turns. They are needed if a tenant pauses and its slices, of which it uses one run a
 * round, would not give it what it is due. Then everybody with a backlog takes them as well: a turn
 * that is shared by slices would have to be as long as whole rounds of them, or the same tenant is
 * cut off each time. Only the small ones share one, with slices that come around several times. */
void arb_assign_turns(struct arbiter *arbiter, unsigned d, uint64_t round, bool latency)
{
        struct device *device = &arbiter->device[d];
        unsigned own = 0, below = 0, contenders = 0, small = 0, loops = 0;
        struct seat *last = NULL;

        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);
                /* Once a round would let requests pile up; where pauses are seen exactly, it then
                 * is a loop. */
                bool pauses = seat->kind == ARBITER_SYNCHRONOUS || seat->stands_back;

                seat->turn = TURN_FREE;
                /* who needs none does not wait for one: when he comes, he comes after all who wait,
                   and before whoever's turn begins now */
                if (seat->kind == ARBITER_IDLE || seat->first)
                        seat->turned_at[0] = seat->turned_at[1] = MAX_OF(device->settled, 1ull) - 1;
                contenders += takes_turns(arbiter, seat);
                loops += takes_turns(arbiter, seat) && seat->kind == ARBITER_SYNCHRONOUS;
                if (seat->kind != ARBITER_BACKLOGGED && !pauses)
                        continue;
                below += latency && !seat->first;
                /* what nobody owes it is not worth the others' turns */
                if (pauses && seat->target_ppm > ARBITER_FLOOR &&
                        (!seat->run_ns ||
                                (double)seat->run_ns * PPM < (double)round * seat->target_ppm))
                        own++;
        }
        device->patient = own == 0 && !latency;
        device->only_loops = loops == contenders && !latency;
        own += device->restless && !latency;
        if (contenders < 2 || (own == 0 && (!latency || below < 2)))
                return;
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (!takes_turns(arbiter, seat))
                        continue;
                if (seat->target_ppm < TURN_SMALL && !latency) {
                        seat->turn = TURN_POOL;
                        last = seat;
                        small++;
                } else
                        seat->turn = TURN_OWN;
        }
        if (small == 1)
                last->turn = TURN_OWN;
}

/* Devices that a tenant which takes turns has in common take turns together. */
void arb_find_clusters(struct arbiter *arbiter)
{
        unsigned of[ARBITER_MAX_DEVICES];

        for (unsigned d = 0; d < arbiter->devices; d++)
                of[d] = d;
        for (uint32_t t = 0; t < arbiter->top; t++) {
                const struct tenant *tenant = &arbiter->tenant[t];
                unsigned first = ARBITER_MAX_DEVICES;

                for (unsigned i = 0; tenant->id && tenant->count > 1 && i < tenant->count; i++) {
                        unsigned from = of[tenant->device[i]];

                        if (seat_of(arbiter, tenant->device[i], t)->turn == TURN_FREE)
                                continue;
                        if (first == ARBITER_MAX_DEVICES)
                                first = from;
                        for (unsigned d = 0; d < arbiter->devices && from != first; d++)
                                if (of[d] == from)
                                        of[d] = first;
                }
        }
        for (unsigned d = 0; d < arbiter->devices; d++) {
                unsigned root = 0;

                while (of[root] != of[d])
                        root++;
                if (arbiter->device[d].cluster != root) {
                        arbiter->cluster[arbiter->device[d].cluster].holder = NONE;
                        arbiter->cluster[root].holder = NONE;
                }
                arbiter->device[d].cluster = root;
        }
        for (unsigned d = 0; d < arbiter->devices; d++)
                arbiter->cluster[d].devices = 0;
        for (unsigned d = 0; d < arbiter->devices; d++)
                arbiter->cluster[arbiter->device[d].cluster].devices |= 1u << d;
}

bool arb_in_row(const struct seat *seat, uint32_t t, uint32_t row)
{
        return seat->turn == TURN_OWN ? t == row : seat->turn == TURN_POOL && row == POOL;
}

struct row {
        uint64_t target; /* ppm, 0: it has no part */
        uint64_t due; /* the same of the time that has passed, in which that may have been less */
        bool wanted;  /* it would use a turn */
        bool comes;   /* it would, but that a cap keeps it off until its next period */
        /* of that one of its tenants who waits longest: when his last turn began, and since when
         * he, or his work, has waited for this one */
        uint64_t turned_at, waits;
        int64_t had; /* by those who wait since that turn of theirs began */
};

/* What part of a turn it would use: of one that it shares, each of its pauses is at least the time
 * of a switch to the others. */
static double part_in_turn(const struct arbiter *arbiter, const struct seat *seat)
{
        double run = (double)seat->run_ns;
        double part = arb_busy_part(seat);

        if (seat->turn == TURN_POOL && seat->kind == ARBITER_SYNCHRONOUS && run > 0)
                part = MIN_OF(part, run / (run + (double)arbiter->costs.switch_ns));
        return part;
}

/* For how long it has had the engine since its last turn began, its own pauses counted in. */
static int64_t had_since_turn(struct arbiter *arbiter, const struct seat *seat)
{
        int64_t used = (int64_t)(account_best(&seat->account) - seat->turn_used);
        double part = part_in_turn(arbiter, seat);

        return part > 0 ? (int64_t)((double)used / part) : used;
}

/* What of the devices' time a row is due is told by the device where that is least: on the others
 * it also runs while rows that are not there have their turn. */
static struct row look_at_row(
        struct arbiter *arbiter, const struct turns *turns, uint32_t row, uint64_t now)
{
        struct row ret = {.turned_at = UINT64_MAX, .waits = now};

        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];
                uint64_t target = 0, due = 0, turned_at;
                int64_t had = 0;

                for (unsigned i = 0; turns->devices & 1u << d && i < device->count; i++) {
                        uint32_t t = device->order[i];
                        const struct seat *seat = seat_of(arbiter, d, t);

                        /* who has several devices has his turn on all of them at once */
                        if (!arb_in_row(seat, t, row) ||
                                (turns->alone && arbiter->tenant[t].count > 1))
                                continue;
                        target += seat->target_ppm;
                        due += MIN_OF(seat->target_ppm, seat->target_then);
                        if (seat->sight.demand == ARBITER_DEMAND_NONE &&
                                now >= seat->sight.since + QUIET)
                                continue;
                        ret.comes = true;
                        if (arbiter->tenant[t].capped_off)
                                continue;
                        ret.wanted = true;
                        turned_at = seat->turned_at[turns->alone];
                        ret.turned_at = MIN_OF(ret.turned_at, turned_at);
                        if (seat->sight.demand != ARBITER_DEMAND_WORK ||
                                seat->sight.since <= turned_at)
                                had += had_since_turn(arbiter, seat);
                        else
                                turned_at = seat->sight.since;
                        ret.waits = MIN_OF(ret.waits, turned_at);
                }
                if (target && (!ret.target || target < ret.target)) {
                        ret.target = target;
                        ret.due = due;
                        ret.had = had;
                }
        }
        return ret;
}

static uint32_t next_row(const struct arbiter *arbiter, uint32_t row)
{
        return row + 1 < arbiter->top ? row + 1 : POOL;
}

static unsigned lowest_bit(uint32_t bits)
{
        return bits ? (unsigned)__builtin_ctz(bits) : 0;
}

/* How long one is, at least. Queues do not mind to wait for longer, and where there are only loops
 * somebody waits for each, so that a turn which ends some ms late is not to be long besides; less
 * is lost by one of loops that are alike. That a queue has ended is seen in its next turn: of a
 * loop and a queue both turns, and that, are to take no more than 20 ms. */
static uint64_t shortest_turn(struct arbiter *arbiter, const struct turns *turns, uint64_t rows)
{
        bool patient = true, only_loops = true, alike = true;

        for (unsigned d = 0; d < arbiter->devices; d++)
                if (turns->devices & 1u << d) {
                        patient = patient && arbiter->device[d].patient;
                        only_loops = only_loops && arbiter->device[d].only_loops;
                        alike = alike && arb_are_like_loops(arbiter, d);
                }
        if (patient)
                return MIN_OF(MAX_OF(ARBITER_FRAME_MAX / rows, ARBITER_TURN), TURN_PATIENT);
        if (only_loops)
                return alike ? TURN_ALIKE : TURN_LOOPS;
        return rows == 2 ? TURN_OF_TWO : ARBITER_TURN;
}

/* Its part of a frame, all of whose turns are wanted now, or will be. Others' turns may have been
 * parts of longer frames, when more was wanted, or it may have been kept off by calls that took
 * long: so not less than nearly what it is due of the time since its last one began, without what
 * it had of that beyond such a part. ret_part: its part alone. */
static uint64_t turn_length(struct arbiter *arbiter, const struct turns *turns, uint32_t holder,
        uint64_t now, uint64_t *ret_part)
{
        uint64_t sum = 0, smallest = UINT64_MAX, frame, most, rows = 0, length;
        uint64_t turn;
        struct row own = {0};
        int64_t due;

        for (uint32_t k = 0; k <= POOL; k = k < POOL ? next_row(arbiter, k) : k + 1) {
                struct row row = look_at_row(arbiter, turns, k, now);

                if (!row.target || !row.comes)
                        continue;
                rows++;
                sum += row.target;
                smallest = MIN_OF(smallest, row.target);
                if (k == holder)
                        own = row;
        }
        *ret_part = ARBITER_TURN;
        if (rows < 2 || !own.target)
                return ARBITER_TURN;
        turn = shortest_turn(arbiter, turns, rows);
        most = MAX_OF(ARBITER_FRAME_MAX, rows * turn);
        frame = (uint64_t)((double)turn * (double)sum / (double)smallest);
        frame = MIN_OF(MAX_OF(frame, rows * turn), most);
        length = (uint64_t)((double)(frame - rows * ARBITER_TURN_LOSS) * (double)own.target /
                            (double)sum);
        own.waits = MIN_OF(MAX_OF(own.waits, turns->entered), now);
        due = (int64_t)((double)MIN_OF(now - own.waits, 2 * most) * (double)own.due /
                        (double)MAX_OF(sum, (uint64_t)PPM) * TURN_DUE);
        due -= MAX_OF(own.had - (int64_t)length, (int64_t)0);
        *ret_part = length + ARBITER_TURN_LOSS;
        return MIN_OF((uint64_t)MAX_OF((int64_t)length, due), most) + ARBITER_TURN_LOSS;
}

/* The two who take turns on a device, if both can be left to keep them by the clock. */
static bool keep_turns(struct arbiter *arbiter, unsigned d, struct seat *ret[static 2])
{
        const struct device *device = &arbiter->device[d];
        uint64_t longest;
        unsigned n = 0;

        if (arbiter->cluster[device->cluster].devices != 1u << d || device->probed != NONE ||
                !are_like_loops(arbiter, d, &longest) || longest == 0 || longest > ARB_KEEPS_MOST)
                return false;
        for (unsigned i = 0; i < device->count; i++) {
                struct seat *seat = seat_of(arbiter, d, device->order[i]);

                if (seat->turn == TURN_FREE)
                        continue;
                if (n == 2 || seat->turn != TURN_OWN || !seat->sight.keeps_turns ||
                        seat->sight.demand == ARBITER_DEMAND_NONE ||
                        arbiter->tenant[device->order[i]].capped_off)
                        return false;
                ret[n++] = seat;
        }
        return n == 2;
}

/* The one whose turn it is, and the other; how long theirs are, if they go on like that. */
static bool share_turns(struct arbiter *arbiter, unsigned d, struct seat *ret_two[static 2],
        uint64_t ret_length[static 2])
{
        const struct turns *turns = &arbiter->cluster[arbiter->device[d].cluster];
        struct seat *two[2];
        bool second;

        if (turns->holder >= arbiter->top || !keep_turns(arbiter, d, two))
                return false;
        second = two[1] == seat_of(arbiter, d, turns->holder);
        ret_two[0] = two[second];
        ret_two[1] = two[!second];
        ret_length[0] = turns->end - turns->begun;
        ret_length[1] = (uint64_t)((double)ret_length[0] * (double)ret_two[1]->target_ppm /
                                   (double)MAX_OF(ret_two[0]->target_ppm, 1u));
        ret_length[1] = MIN_OF(ret_length[1], ARBITER_FRAME_MAX);
        return ret_two[0] == seat_of(arbiter, d, turns->holder) && ret_length[0] > 0 &&
               ret_length[1] > 0;
}

bool arb_kept_turns(struct arbiter *arbiter, unsigned d, struct seat *ret_two[static 2],
        uint64_t *ret_end, uint64_t ret_length[static 2])
{
        const struct turns *turns = &arbiter->cluster[arbiter->device[d].cluster];

        *ret_end = turns->end;
        return turns->kept && share_turns(arbiter, d, ret_two, ret_length);
}

bool arbiter_turn_of(
        struct arbiter *arbiter, uint64_t id, unsigned device, struct arbiter_turn *ret)
{
        const struct seat *seat = arb_find_seat(arbiter, id, device);
        const struct turns *turns;
        struct seat *two[2];
        uint64_t length[2];

        if (!seat || seat->turn != TURN_OWN || !share_turns(arbiter, device, two, length))
                return false;
        turns = &arbiter->cluster[arbiter->device[device].cluster];
        ret->period = length[0] + length[1];
        ret->from = seat == two[0] ? turns->begun : turns->end;
        ret->until = ret->from + (seat == two[0] ? length[0] : length[1]);
        return true;
}

/* What those whose turn it is had of it. ret_least: what they can be content with: next to nothing,
 * where somebody is served before them; else a quarter, as those who come and go had work left
 * over, if so much of it has been seen that it is not what was predicted before that is missing
 * now. False: not known. */
static bool had_of_turn(struct arbiter *arbiter, const struct turns *turns, uint64_t now,
        int64_t *ret_had, int64_t *ret_least)
{
        bool latency = false;
        uint64_t seen;

        *ret_had = *ret_least = 0;
        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];

                if (!(turns->devices & 1u << d))
                        continue;
                latency |= device->latency;
                for (unsigned i = 0; i < device->count; i++) {
                        const struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        if (!arb_in_row(seat, device->order[i], turns->holder))
                                continue;
                        if (!seat->sight.used_known)
                                return false;
                        *ret_had += (int64_t)(account_best(&seat->account) - seat->turn_used);
                        seen = seat->sight.used_at ? seat->sight.used_at : now;
                        if (seat->sight.demand == ARBITER_DEMAND_WORK &&
                                seen > turns->begun + (now - turns->begun) / 2) {
                                int64_t least = (int64_t)((double)(now - turns->begun) / 4 *
                                                          part_in_turn(arbiter, seat));

                                *ret_least = MAX_OF(*ret_least, least);
                        }
                }
        }
        *ret_had = MAX_OF(*ret_had, (int64_t)0);
        if (latency)
                *ret_least = HAD_SOME;
        return true;
}

/* What a turn is longer, by so much at most, to make up for what was lost to probes. */
static uint64_t make_up(
        struct arbiter *arbiter, const struct turns *turns, uint32_t holder, uint64_t most)
{
        uint64_t more = 0;

        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];

                for (unsigned i = 0; turns->devices & 1u << d && i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);
                        uint64_t part = MIN_OF(seat->lost_ns, most);

                        if (!arb_in_row(seat, device->order[i], holder))
                                continue;
                        seat->lost_ns -= part;
                        more = MAX_OF(more, part);
                }
        }
        return more;
}

static void begin_turn(struct arbiter *arbiter, struct turns *turns, uint32_t holder, uint64_t now)
{
        uint64_t length, part, most;

        turns->holder = holder;
        turns->begun = now;
        length = MAX_OF(turn_length(arbiter, turns, holder, now, &part), ARBITER_MS);
        /* others' turns, and with them what is due, are longer for the same reason: added to that,
           each would be longer than the one before */
        most = part + part / MADE_UP;
        turns->end = now + length + make_up(arbiter, turns, holder, most - MIN_OF(most, length));
        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];

                for (unsigned i = 0; turns->devices & 1u << d && i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        if (!arb_in_row(seat, device->order[i], holder))
                                continue;
                        seat->turned_before = seat->turned_at[turns->alone];
                        seat->turned_at[turns->alone] = now;
                        seat->target_then = seat->target_ppm;
                        seat->turn_used = account_best(&seat->account);
                }
        }
}

/* It was nobody's turn. */
static void forget_turn(struct arbiter *arbiter, const struct turns *turns)
{
        for (unsigned d = 0; d < arbiter->devices; d++) {
                const struct device *device = &arbiter->device[d];

                for (unsigned i = 0; turns->devices & 1u << d && i < device->count; i++) {
                        struct seat *seat = seat_of(arbiter, d, device->order[i]);

                        if (seat->turned_at[turns->alone] == turns->begun)
                                seat->turned_at[turns->alone] = seat->turned_before;
                }
        }
}

static bool are_kept(struct arbiter *arbiter, const struct turns *turns)
{
        struct seat *two[2];

        return !turns->alone && keep_turns(arbiter, lowest_bit(turns->devices), two);
}

/* Passes the turn on when it is over or of no use, to the row that has waited for it longest.
 * Returns when to look again. */
uint64_t arb_take_turns(struct arbiter *arbiter, struct turns *turns, uint64_t now)
{
        uint64_t longest = UINT64_MAX, at = now;
        uint32_t next = NONE;
        unsigned rows = 0;
        int64_t had, least;

        if (turns->holder != NONE) {
                struct row row = look_at_row(arbiter, turns, turns->holder, now);
                bool wanted = row.wanted;

                if (wanted && now < turns->end)
                        return turns->end;
                if (wanted && turns->kept && are_kept(arbiter, turns)) {
                        /* that it has passed to the other by itself is only seen late */
                        at = MAX_OF(turns->end, now - MIN_OF(now, ARBITER_FRAME_MAX));
                } else if (!row.target) {
                        /* nobody takes turns for a while: who had not half of his has the next */
                        if (now - turns->begun < (turns->end - turns->begun) / 2)
                                forget_turn(arbiter, turns);
                } else if (had_of_turn(arbiter, turns, now, &had, &least) &&
                           had < (wanted ? least : (int64_t)HAD_SOME)) {
                        /* a short turn could fall into the time of who comes first, again and
                           again; and one who comes and goes may be gone whenever his turn comes */
                        if (wanted && now < turns->begun + MIN_OF(ARBITER_FRAME_MAX,
                                                                   3 * (turns->end - turns->begun)))
                                return now + ARBITER_TURN / 4;
                        forget_turn(arbiter, turns);
                }
        }
        for (uint32_t k = 0; k <= POOL; k = k < POOL ? next_row(arbiter, k) : k + 1) {
                struct row row = look_at_row(arbiter, turns, k, now);

                if (!row.target || !row.wanted)
                        continue;
                rows++;
                if (k == turns->holder)
                        row.turned_at = UINT64_MAX - 1;
                if (row.turned_at < longest) {
                        longest = row.turned_at;
                        next = k;
                }
        }
        if (turns->holder == NONE)
                turns->entered = now;
        /* without a second one the rest need not wait */
        turns->holder = turns->alone && rows < 2 ? NONE : next;
        if (turns->holder == NONE)
                return UINT64_MAX;
        begin_turn(arbiter, turns, next, at);
        turns->kept = are_kept(arbiter, turns);
        return turns->end > now || !turns->kept ? turns->end : arb_take_turns(arbiter, turns, now);
}
