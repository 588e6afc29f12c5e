/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The advice: for each rule a wish that it decides and one that it leaves alone, and what comes out
 * of wishes as users have them.
 */
#include "policy/advise.h"
#include "unit.h"

#define GIB (1ull << 30)

/* Eight H100 of 80 GB that can do everything. */
static const struct advise_machine h100s = {
        .gpus = 8, .memory = 80 * GIB, .instances = 7, .functions = 16};
static const struct advise_machine h100 = {
        .gpus = 1, .memory = 80 * GIB, .instances = 7, .functions = 16};
static const struct advise_machine small = {.gpus = 1, .memory = 24 * GIB};

struct rule_case {
        const char *rule;
        const struct advise_machine *machine;
        struct advise_ask yes, no;
};

/* One row per rule, in its order. "vm" stands twice: it rules out, and it ranks. */
static const struct rule_case rule_cases[] = {
        {"model-needs-several", &h100s, {.model = 140 * GIB}, {.model = 14 * GIB}},
        {"fits-one-gpu", &h100s, {.model = 14 * GIB}, {.model = 140 * GIB}},
        {"beyond-one-gpu", &h100, {.memory = 81 * GIB}, {.memory = 80 * GIB}},
        {"steady-training", &h100, {.training = true}, {0}},
        {"vm", &h100, {.place = ADVISE_VM}, {.place = ADVISE_CONTAINER}},
        {"no-vm", &h100, {.place = ADVISE_CONTAINER}, {.place = ADVISE_VM}},
        {"untrusted", &h100, {.trust = ADVISE_UNTRUSTED}, {.trust = ADVISE_MIXED}},
        {"mps-is-one-domain", &h100, {.trust = ADVISE_MIXED}, {.trust = ADVISE_SAME_OWNER}},
        {"no-licence", &h100, {0}, {.licence = true}},
        {"graphics", &h100, {.graphics = true}, {0}},
        {"migrate", &h100, {.migrate = true}, {0}},
        {"latency", &h100, {.latency_usec = 1000}, {0}},
        {"peers", &h100s, {.peers = true}, {0}},
        {"client-without-gpu", &h100, {.no_gpu = true}, {0}},
        {"calls-wait-too-long", &h100, {.calls_per_second = 1001, .round_trip_usec = 201},
                {.calls_per_second = 1000, .round_trip_usec = 200}},
        {"client-with-gpu", &h100, {0}, {.no_gpu = true}},
        {"more-than-instances", &h100, {.tenants = 8}, {.tenants = 7}},
        {"more-than-functions", &h100, {.tenants = 17}, {.tenants = 16}},
        {"more-than-clients", &h100, {.tenants = 49}, {.tenants = 48}},
        {"more-than-sets", &h100, {.tenants = 16}, {.tenants = 15}},
        {"more-than-gpus", &h100s, {.tenants = 9}, {.tenants = 8}},
        {"memory-oversold", &h100, {.tenants = 9, .memory = 9 * GIB},
                {.tenants = 8, .memory = 10 * GIB}},
        {"compute-oversold", &h100, {.tenants = 3, .compute = 34}, {.tenants = 3, .compute = 33}},
        {"share-asked", &h100, {.compute = 1}, {0}},
        {"untrusted-vm-most", &h100,
                {.trust = ADVISE_UNTRUSTED, .place = ADVISE_VM, .tenants = 2, .memory = 41 * GIB},
                {.trust = ADVISE_UNTRUSTED, .place = ADVISE_VM, .tenants = 2, .memory = 40 * GIB}},
        {"vm-graphics-or-migration", &h100, {.place = ADVISE_VM, .graphics = true},
                {.place = ADVISE_VM}},
        {"vm", &h100, {.place = ADVISE_VM}, {.place = ADVISE_CONTAINER}},
        {"untrusted-host", &h100, {.trust = ADVISE_UNTRUSTED},
                {.trust = ADVISE_UNTRUSTED, .place = ADVISE_VM}},
        {"low-latency", &h100, {.latency_usec = 4999}, {.latency_usec = 5000}},
        {"latency-slices", &h100, {.latency_usec = 5000}, {0}},
        {"resize", &h100, {.resize = true}, {0}},
        {"bursty", &h100, {.bursty = true}, {0}},
        {"mixed-owners", &h100, {.trust = ADVISE_MIXED}, {.trust = ADVISE_SAME_OWNER}},
        {"alone", &h100, {0}, {.memory = GIB}},
        {"same-owner-many", &h100, {.tenants = 2}, {.tenants = 1}},
        {"by-default", &h100, {0}, {.place = ADVISE_VM}},
        {"otherwise", &h100, {0}, {0}},
};

static void every_rule(void **state)
{
        assert_int_equal(ARRAY_SIZE(rule_cases), advise_n_rules);
        for (size_t i = 0; i < advise_n_rules; i++) {
                const struct advise_rule *rule = advise_rules + i;
                const struct rule_case *c = rule_cases + i;
                struct advise_answer answer;

                assert_string_equal(rule->name, c->rule);
                assert_true(rule->reason[strlen(rule->reason) - 1] == '.');
                assert_true(rule->source && *rule->source);
                assert_true(rule->out || rule->up);
                if (!rule->applies(&c->yes, c->machine))
                        fail_msg("%s does not apply", rule->name);
                if (i + 1 < advise_n_rules && rule->applies(&c->no, c->machine))
                        fail_msg("%s applies where it should not", rule->name);
                /* None that it rules out is ranked, and what it brings forward and is not out
                 * is. */
                advise(&c->yes, c->machine, &answer);
                for (size_t j = 0; j < answer.n_ranked; j++)
                        assert_false(rule->out >> answer.ranked[j].way & 1);
                for (const uint8_t *way = rule->up; way && *way < ADVISE_N_WAYS; way++) {
                        bool found = false;

                        for (size_t j = 0; j < answer.n_ranked; j++)
                                found = found || answer.ranked[j].way == *way;
                        for (size_t j = 0; j < answer.n_rejected; j++)
                                found = found || answer.rejected[j].way == *way;
                        assert_true(found);
                }
        }
}

static void every_way_is_ranked_or_rejected_once(void **state)
{
        for (size_t i = 0; i < ARRAY_SIZE(rule_cases); i++) {
                unsigned seen[ADVISE_N_WAYS] = {0};
                struct advise_answer answer;

                advise(&rule_cases[i].yes, rule_cases[i].machine, &answer);
                for (size_t j = 0; j < answer.n_ranked; j++)
                        seen[answer.ranked[j].way]++;
                for (size_t j = 0; j < answer.n_rejected; j++)
                        seen[answer.rejected[j].way]++;
                for (unsigned way = 0; way < ADVISE_N_WAYS; way++)
                        assert_int_equal(seen[way], 1);
        }
}

static void wishes_as_users_have_them(void **state)
{
        static const struct {
                const char *what;
                const struct advise_machine *machine;
                struct advise_ask ask;
                const char *first, *rule; /* first NULL: nothing is left */
        } cases[] = {
                {"my notebooks on one card", &h100, {.tenants = 6, .memory = 10 * GIB}, "slices",
                        "same-owner-many"},
                {"idle notebooks", &h100, {.tenants = 6, .memory = 10 * GIB, .bursty = true},
                        "quota", "bursty"},
                {"one program", &h100, {0}, "whole", "alone"},
                {"a service of mine at 2 ms", &h100, {.tenants = 2, .latency_usec = 2000},
                        "spatial", "low-latency"},
                {"a service at 10 ms", &h100, {.tenants = 2, .latency_usec = 10000}, "slices",
                        "latency-slices"},
                {"two labs in containers", &h100,
                        {.trust = ADVISE_MIXED, .place = ADVISE_CONTAINER, .tenants = 2}, "mig",
                        "mixed-owners"},
                {"two labs on a consumer card", &small,
                        {.trust = ADVISE_MIXED, .place = ADVISE_CONTAINER, .tenants = 2}, "slices",
                        "mixed-owners"},
                {"strangers in containers", &h100,
                        {.trust = ADVISE_UNTRUSTED, .place = ADVISE_CONTAINER, .tenants = 4}, "mig",
                        "untrusted-host"},
                {"strangers in containers, consumer card", &small,
                        {.trust = ADVISE_UNTRUSTED, .place = ADVISE_CONTAINER, .tenants = 4},
                        "remote", "untrusted-host"},
                {"a stranger's VM", &h100s, {.trust = ADVISE_UNTRUSTED, .place = ADVISE_VM},
                        "passthrough", "untrusted-vm-most"},
                {"strangers' VMs without hardware for it", &small,
                        {.trust = ADVISE_UNTRUSTED,
                                .place = ADVISE_VM,
                                .tenants = 3,
                                .memory = 4 * GIB},
                        "remote", "otherwise"},
                {"desktops", &h100,
                        {.place = ADVISE_VM, .tenants = 12, .graphics = true, .licence = true},
                        "vgpu", "vm-graphics-or-migration"},
                {"VMs with licences", &h100,
                        {.place = ADVISE_VM, .tenants = 4, .licence = true, .memory = 10 * GIB},
                        "mig-vgpu", "vm"},
                {"a model of 70 billion parameters", &h100s, {.model = 140 * GIB}, "several",
                        "model-needs-several"},
                {"training", &h100s, {.training = true}, "whole", "steady-training"},
                {"training in a VM", &h100s, {.training = true, .place = ADVISE_VM}, "passthrough",
                        "steady-training"},
                {"a laptop", &h100, {.no_gpu = true}, "remote", "client-without-gpu"},
                {"a chatty laptop", &h100,
                        {.no_gpu = true, .calls_per_second = 5000, .round_trip_usec = 200}, NULL,
                        NULL},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct advise_answer answer;

                advise(&cases[i].ask, cases[i].machine, &answer);
                if (!cases[i].first) {
                        assert_int_equal(answer.n_ranked, 0);
                        continue;
                }
                if (answer.n_ranked == 0 ||
                        strcmp(advise_way_word(answer.ranked[0].way), cases[i].first) != 0 ||
                        strcmp(answer.ranked[0].rule->name, cases[i].rule) != 0)
                        fail_msg("%s: %s by %s", cases[i].what,
                                answer.n_ranked ? advise_way_word(answer.ranked[0].way) : "none",
                                answer.n_ranked ? answer.ranked[0].rule->name : "none");
        }
}

static void what_is_blocked_here_keeps_its_rank(void **state)
{
        struct advise_machine machine = h100;
        struct advise_ask ask = {.trust = ADVISE_MIXED, .place = ADVISE_CONTAINER, .tenants = 2};
        struct advise_answer answer;

        machine.blocked[ADVISE_MIG] = "MIG mode is off";
        advise(&ask, &machine, &answer);
        assert_int_equal(answer.ranked[0].way, ADVISE_MIG);
        assert_string_equal(answer.ranked[0].blocked, "MIG mode is off");
        assert_null(answer.ranked[1].blocked);
}

static void models_are_split(void **state)
{
        struct advise_split split;

        /* 140 GiB and a fifth are 168 GiB: three GPUs of 80, so four, as heads divide by two. */
        split = advise_split(140 * GIB, 80 * GIB, 8);
        assert_int_equal(split.gpus, 3);
        assert_int_equal(split.tensor, 4);
        assert_int_equal(split.pipeline, 1);
        assert_int_equal(split.bytes_each, 35 * GIB);
        /* Tensor parallelism stays within the host. */
        split = advise_split(1000 * GIB, 80 * GIB, 8);
        assert_int_equal(split.gpus, 15);
        assert_int_equal(split.tensor, 8);
        assert_int_equal(split.pipeline, 2);
        split = advise_split(60 * GIB, 80 * GIB, 8);
        assert_int_equal(split.gpus, 0);
        split = advise_split(60 * GIB, 0, 0);
        assert_int_equal(split.gpus, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_rule),
                cmocka_unit_test(every_way_is_ranked_or_rejected_once),
                cmocka_unit_test(wishes_as_users_have_them),
                cmocka_unit_test(what_is_blocked_here_keeps_its_rank),
                cmocka_unit_test(models_are_split),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
