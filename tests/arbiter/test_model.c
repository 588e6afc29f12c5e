/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated GPU against what was measured on an H100, row by row. Shares are work done by the
 * time it takes, as there.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "world.h"

static unsigned failures;

static void row(const char *name, double got, double wanted, double tolerance)
{
        bool ok = fabs(got - wanted) <= tolerance;

        printf("%-58s measured %9.3f  model %9.3f%s\n", name, wanted, got, ok ? "" : "  FAILED");
        failures += !ok;
}

static struct world world;

static struct client *add(
        uint64_t id, struct program program, uint64_t slice_us, enum schedule_mode mode)
{
        static const unsigned device;
        struct client *client;

        world_join(&world, id, &device, 1, NULL, &program);
        client = world_client(&world, id, 0);
        if (slice_us)
                schedule_set_slice(&world.gpu[0], client->group, slice_us);
        schedule_set_mode(&world.gpu[0], client->group, mode);
        return client;
}

static struct program queue(uint64_t kernel)
{
        return (struct program){.kind = PROGRAM_QUEUE, .kernel_ns = kernel};
}

static struct program loop(uint64_t kernel)
{
        return (struct program){.kind = PROGRAM_LOOP, .kernel_ns = kernel, .pause_ns = HOST_PAUSE};
}

static double share(struct client *client, uint64_t span)
{
        return (double)world_work(&world, client) / (double)span;
}

static void test_slices(void)
{
        static const struct {
                uint64_t slice[2], kernel[2];
                enum schedule_mode mode;
                double share[2];
        } rows[] = {
                {{2048, 2048}, {100 * US, 100 * US}, SCHEDULE_INSTRUCTION, {.444, .444}},
                {{1000, 1000}, {100 * US, 100 * US}, SCHEDULE_INSTRUCTION, {.403, .403}},
                {{1000, 3000}, {100 * US, 100 * US}, SCHEDULE_INSTRUCTION, {.218, .667}},
                {{3000, 7000}, {100 * US, 100 * US}, SCHEDULE_INSTRUCTION, {.280, .658}},
                {{1000, 9000}, {100 * US, 100 * US}, SCHEDULE_INSTRUCTION, {.092, .848}},
                {{500, 4500}, {100 * US, 100 * US}, SCHEDULE_INSTRUCTION, {.085, .817}},
                {{200, 19800}, {100 * US, 100 * US}, SCHEDULE_INSTRUCTION, {.009, .951}},
                {{3000, 7000}, {100 * US, 5 * MS}, SCHEDULE_INSTRUCTION, {.280, .672}},
                {{5000, 5000}, {100 * US, 50 * MS}, SCHEDULE_INSTRUCTION, {.469, .480}},
                {{1000, 1000}, {100 * US, 100 * US}, SCHEDULE_BLOCK, {.438, .438}},
                {{5000, 5000}, {100 * US, 100 * US}, SCHEDULE_BLOCK, {.479, .479}},
                {{2048, 2048}, {100 * US, 5 * MS}, SCHEDULE_BLOCK, {.28, .68}},
        };

        for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
                struct client *client[2];

                world_init(&world, 1, i + 1, false);
                for (unsigned k = 0; k < 2; k++)
                        client[k] = add(
                                k + 1, queue(rows[i].kernel[k]), rows[i].slice[k], rows[i].mode);
                world_run(&world, world.now + 10 * SEC);
                for (unsigned k = 0; k < 2; k++) {
                        char name[80];

                        snprintf(name, sizeof(name),
                                "slices %5lu : %5lu, kernels %5.1f : %4.1f ms, %s, share %u",
                                (unsigned long)rows[i].slice[0], (unsigned long)rows[i].slice[1],
                                (double)rows[i].kernel[0] / MS, (double)rows[i].kernel[1] / MS,
                                rows[i].mode == SCHEDULE_BLOCK ? "block" : "instr.", k);
                        row(name, share(client[k], 10 * SEC), rows[i].share[k],
                                .003 + .03 * rows[i].share[k]);
                }
                world_done(&world);
        }
}

static void test_idle_contexts(void)
{
        struct client *a, *b;

        world_init(&world, 1, 1, false);
        a = add(1, loop(100 * US), 0, SCHEDULE_INSTRUCTION);
        world_run(&world, world.now + 5 * SEC);
        row("loop of 100 us + synchronize alone", share(a, 5 * SEC), .91, .01);
        world_done(&world);

        world_init(&world, 1, 1, false);
        a = add(1, loop(100 * US), 0, SCHEDULE_INSTRUCTION);
        b = add(2, loop(100 * US), 0, SCHEDULE_INSTRUCTION);
        world_run(&world, world.now + 5 * SEC);
        row("two loops of 100 us + synchronize, first", share(a, 5 * SEC), .21, .006);
        row("two loops of 100 us + synchronize, second", share(b, 5 * SEC), .21, .006);
        world_done(&world);

        world_init(&world, 1, 1, false);
        a = add(1, loop(100 * US), 0, SCHEDULE_INSTRUCTION);
        b = add(2, queue(5 * MS), 0, SCHEDULE_INSTRUCTION);
        world_record(a);
        world_run(&world, world.now + 5 * SEC);
        row("loop beside 5 ms kernels, p50 us", world_percentile(a, .5), 2491, 75);
        row("loop beside 5 ms kernels, the queue's share", share(b, 5 * SEC), .81, .02);
        world_done(&world);
}

static void test_service(void)
{
        static const struct {
                uint64_t slice[2];
                double p50, p99, neighbour;
        } rows[] = {
                {{0, 0}, 1.11, 3.23, 0},
                {{50000, 200}, 1.50, 6.2, .55},
                {{50000, 1000}, 3.96, 17, 0},
        };

        for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
                struct client *service, *other = NULL;
                char name[80];

                world_init(&world, 1, 11 + i, false);
                service = add(1,
                        (struct program){.kind = PROGRAM_SERVICE,
                                .kernel_ns = 1 * MS - HOST_PAUSE,
                                .rate = 300},
                        rows[i].slice[0], SCHEDULE_INSTRUCTION);
                if (rows[i].slice[0])
                        other = add(2, queue(5 * MS), rows[i].slice[1], SCHEDULE_INSTRUCTION);
                world_record(service);
                world_run(&world, world.now + 300 * SEC);
                snprintf(name, sizeof(name), "service 300/s x 1 ms, slices %lu : %lu, p50 ms",
                        (unsigned long)rows[i].slice[0], (unsigned long)rows[i].slice[1]);
                row(name, world_percentile(service, .5) / 1000, rows[i].p50, rows[i].p50 * .1);
                row("                                       p99 ms",
                        world_percentile(service, .99) / 1000, rows[i].p99, rows[i].p99 * .2);
                if (rows[i].neighbour > 0)
                        row("                                       its neighbour",
                                share(other, 300 * SEC), rows[i].neighbour, .035);
                world_done(&world);
        }
        world_init(&world, 1, 21, false);
        struct client *service =
                add(1, (struct program){.kind = PROGRAM_SERVICE, .kernel_ns = 1 * MS, .rate = 300},
                        0, SCHEDULE_INSTRUCTION);

        add(2, queue(5 * MS), 0, SCHEDULE_INSTRUCTION);
        world_record(service);
        world_run(&world, world.now + 60 * SEC);
        row("the same with the driver's slices: collapses (p50 > 100 ms)",
                world_percentile(service, .5) > 100000, 1, 0);
        world_done(&world);
}

/* Turns of the given lengths by disabling the other's channels, the calls taking their time. */
static void turns(uint64_t a_ns, uint64_t b_ns, double wanted_a, double wanted_b)
{
        struct client *client[2];
        uint64_t end, length[2] = {a_ns, b_ns};
        char name[80];

        world_init(&world, 1, 31, false);
        for (unsigned k = 0; k < 2; k++)
                client[k] = add(k + 1, loop(100 * US), 0, SCHEDULE_INSTRUCTION);
        end = world.now + 10 * SEC;
        for (unsigned k = 0; world.now < end; k = !k) {
                uint64_t start = world.now;

                world_run(&world, world.now + 300 * US);
                schedule_set_disabled(&world.gpu[0], client[!k]->group, true);
                world_run(&world, world.now + 280 * US);
                schedule_set_disabled(&world.gpu[0], client[k]->group, false);
                world_run(&world, start + length[k]);
        }
        snprintf(name, sizeof(name), "two loops in turns of %lu and %lu ms, ",
                (unsigned long)(a_ns / MS), (unsigned long)(b_ns / MS));
        row(name, share(client[0], 10 * SEC), wanted_a, wanted_a * .03);
        row("                          and the other", share(client[1], 10 * SEC), wanted_b,
                wanted_b * .03);
        world_done(&world);
}

/* A lone queue, on for so long in each period. */
static void duty(uint64_t on, uint64_t period, uint64_t kernel, double wanted)
{
        struct client *client;
        char name[80];

        world_init(&world, 1, 41, false);
        client = add(1, queue(kernel), 0, SCHEDULE_INSTRUCTION);
        for (unsigned i = 0; i < 10 * SEC / period; i++) {
                schedule_set_disabled(&world.gpu[0], client->group, false);
                world_run(&world, world.now + on);
                schedule_set_disabled(&world.gpu[0], client->group, true);
                world_run(&world, world.now + period - on);
        }
        snprintf(name, sizeof(name), "enabled %lu of %lu ms", (unsigned long)(on / MS),
                (unsigned long)(period / MS));
        row(name, share(client, 10 * SEC), wanted, .02 * wanted + .003);
        world_done(&world);
}

int main(void)
{
        test_slices();
        test_idle_contexts();
        test_service();
        turns(10 * MS, 10 * MS, .419, .419);
        turns(5 * MS, 5 * MS, .398, .398);
        turns(20 * MS, 20 * MS, .429, .430);
        turns(30 * MS, 10 * MS, .644, .215);
        duty(30 * MS, 100 * MS, 100 * US, .2965);
        duty(10 * MS, 100 * MS, 100 * US, .098);
        duty(3 * MS, 10 * MS, 100 * US, .300);
        duty(30 * MS, 100 * MS, 50 * MS, .2995);
        if (failures)
                printf("%u rows differ\n", failures);
        return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
