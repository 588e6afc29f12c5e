/* SPDX-License-Identifier: Apache-2.0 */
#include "policy/ledger.h"
#include "unit.h"

#define G (1ull << 30)
#define M (1ull << 20)

/* Two devices of 80 GiB, of which the driver keeps half a GiB. */
static void two_devices(struct ledger *ledger)
{
        ledger_init(ledger);
        ledger->devices = 2;
        for (unsigned i = 0; i < 2; i++)
                ledger->device[i] = (struct ledger_device){.total = 80 * G, .reserved = G / 2};
}

static int ask(struct ledger *ledger, uint64_t id, uint64_t bytes, bool wait,
        struct ledger_verdict *verdict)
{
        struct ledger_want want = {.device = 0, .guarantee = bytes, .maximum = bytes};

        return ledger_request(ledger, id, 1000, &want, 1, wait, verdict);
}

static void use(struct ledger *ledger, uint64_t id, uint64_t bytes)
{
        ledger_find(ledger, id)->grant[0].used = bytes;
}

static void refusals_say_what_and_how_much(void **state)
{
        struct ledger_verdict verdict = {0};
        struct ledger ledger;

        two_devices(&ledger);
        assert_int_equal(ask(&ledger, 1, 80 * G, false, &verdict), -EFBIG);
        assert_int_equal(verdict.reason, CLEAVE_REASON_BEYOND_DEVICE);
        assert_int_equal(verdict.available, 80 * G - G / 2);
        /* what can never be given is not waited for either */
        assert_int_equal(ask(&ledger, 1, 80 * G, true, &verdict), -EFBIG);
        assert_null(ledger.first);

        assert_int_equal(ask(&ledger, 1, 50 * G, false, &verdict), 0);
        assert_int_equal(ask(&ledger, 1, 1 * G, false, &verdict), -EEXIST);
        assert_int_equal(ask(&ledger, 2, 30 * G, false, &verdict), -ENOSPC);
        assert_int_equal(verdict.reason, CLEAVE_REASON_NO_ROOM);
        assert_int_equal(verdict.wanted, 30 * G);
        assert_int_equal(verdict.available, 29 * G + G / 2);
        assert_int_equal(verdict.ahead, 0);
        assert_int_equal(ask(&ledger, 2, 29 * G + G / 2, false, &verdict), 0);
        assert_int_equal(ledger_available(&ledger, 0), 0);
        assert_int_equal(ledger_available(&ledger, 1), 80 * G - G / 2);

        assert_int_equal(ledger_remove(&ledger, 1), 0);
        assert_int_equal(ledger_remove(&ledger, 1), -ENOENT);
        assert_int_equal(ledger_available(&ledger, 0), 50 * G);
        ledger.device[0].others = 49 * G;
        assert_int_equal(ledger_available(&ledger, 0), 1 * G);
        ledger.device[0].others = UINT64_MAX;
        assert_int_equal(ledger_available(&ledger, 0), 0);
        ledger.device[0].lost = true;
        assert_int_equal(ask(&ledger, 3, 1 * M, true, &verdict), -ENODEV);
        assert_int_equal(verdict.reason, CLEAVE_REASON_DEVICE_LOST);
        ledger_done(&ledger);
}

static void senseless_requests_change_nothing(void **state)
{
        static const struct ledger_want cases[][2] = {
                {{0, 0, 0}},            /* nothing */
                {{2, G, G}},            /* no such device */
                {{0, 2 * G, G}},        /* a maximum below the guarantee */
                {{0, G, G}, {0, G, G}}, /* a device twice */
                {{0, G, G}, {UINT32_MAX, G, G}},
        };
        struct ledger ledger;

        two_devices(&ledger);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                assert_int_equal(ledger_request(&ledger, 1, 0, cases[i],
                                         cases[i][1].guarantee ? 2 : 1, false, NULL),
                        -EINVAL);
        assert_int_equal(ledger_request(&ledger, 1, 0, cases[0], 0, false, NULL), -EINVAL);
        assert_int_equal(ledger_request(&ledger, 1, 0, cases[0], 17, false, NULL), -EINVAL);
        assert_null(ledger.first);
        assert_int_equal(ledger_resize(&ledger, 9, cases[1], 1, false, NULL), -ENOENT);
        ledger_done(&ledger);
}

static void several_devices_are_granted_together_or_not_at_all(void **state)
{
        struct ledger_want both[] = {{0, 40 * G, 40 * G}, {1, 40 * G, 40 * G}};
        struct ledger_verdict verdict;
        struct ledger ledger;

        two_devices(&ledger);
        assert_int_equal(ledger_request(&ledger, 1, 0, both, 2, false, &verdict), 0);
        ledger.device[1].others = 1;
        both[0].guarantee = both[0].maximum = 10 * G;
        assert_int_equal(ledger_request(&ledger, 2, 0, both, 2, false, &verdict), -ENOSPC);
        assert_int_equal(verdict.device, 1);
        assert_int_equal(ledger_granted(&ledger, 0), 40 * G);
        ledger_done(&ledger);
}

static void nobody_overtakes_in_the_queue(void **state)
{
        struct ledger_want other = {.device = 1, .guarantee = G, .maximum = G};
        struct ledger_verdict verdict;
        struct ledger ledger;

        two_devices(&ledger);
        assert_int_equal(ask(&ledger, 1, 70 * G, true, &verdict), 0);
        assert_int_equal(ask(&ledger, 2, 40 * G, true, &verdict), 0);
        assert_true(ledger_find(&ledger, 2)->waiting);
        assert_int_equal(ledger_find(&ledger, 2)->grant[0].limit, 0);
        assert_int_equal(ask(&ledger, 3, 30 * G, true, &verdict), 0);
        /* there would be room for it, but 2 came before */
        assert_int_equal(ask(&ledger, 4, 1 * G, false, &verdict), -ENOSPC);
        assert_int_equal(verdict.ahead, 2);
        assert_int_equal(ledger_serve(&ledger), 0);
        /* on the other device nobody waits */
        assert_int_equal(ledger_request(&ledger, 5, 0, &other, 1, false, &verdict), 0);

        assert_int_equal(ledger_remove(&ledger, 1), 0);
        assert_int_equal(ledger_serve(&ledger), 2);
        assert_int_equal(ledger_serve(&ledger), 3);
        assert_int_equal(ledger_serve(&ledger), 0);
        assert_int_equal(ledger_find(&ledger, 3)->grant[0].limit, 30 * G);

        /* one who gives up makes way */
        assert_int_equal(ask(&ledger, 6, 50 * G, true, &verdict), 0);
        assert_int_equal(ask(&ledger, 7, 5 * G, true, &verdict), 0);
        assert_int_equal(ledger_serve(&ledger), 0);
        assert_int_equal(ledger_remove(&ledger, 6), 0);
        assert_int_equal(ledger_serve(&ledger), 7);
        ledger_done(&ledger);
}

static void grants_grow_and_shrink(void **state)
{
        struct ledger_want want = {.device = 0, .guarantee = 60 * G, .maximum = 60 * G};
        struct ledger_verdict verdict;
        struct ledger ledger;

        two_devices(&ledger);
        assert_int_equal(ask(&ledger, 1, 30 * G, false, NULL), 0);
        assert_int_equal(ask(&ledger, 2, 30 * G, false, NULL), 0);
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, false, &verdict), -ENOSPC);
        assert_int_equal(verdict.available, 49 * G + G / 2);
        want.guarantee = want.maximum = 49 * G + G / 2;
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, false, &verdict), 0);
        assert_int_equal(ledger_find(&ledger, 1)->grant[0].limit, 49 * G + G / 2);
        assert_int_equal(ledger_available(&ledger, 0), 0);
        want.guarantee = want.maximum = 100 * G;
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, true, &verdict), -EFBIG);

        /* below what is used: only by force, and the difference stays kept */
        use(&ledger, 1, 20 * G);
        want.guarantee = want.maximum = 10 * G;
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, false, &verdict), -EBUSY);
        assert_int_equal(verdict.reason, CLEAVE_REASON_IN_USE);
        assert_int_equal(verdict.available, 20 * G);
        assert_int_equal(ledger_find(&ledger, 1)->grant[0].limit, 49 * G + G / 2);
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, true, &verdict), 0);
        assert_int_equal(ledger_find(&ledger, 1)->grant[0].limit, 10 * G);
        assert_int_equal(ledger_available(&ledger, 0), 29 * G + G / 2);
        /* it grows again into what it uses: that is kept already */
        ledger.device[0].others = 29 * G + G / 2;
        want.guarantee = want.maximum = 20 * G;
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, false, &verdict), 0);
        want.guarantee = want.maximum = 20 * G + M;
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, false, &verdict), -ENOSPC);
        use(&ledger, 1, 5 * G);
        want.guarantee = want.maximum = 8 * G;
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, false, &verdict), 0);
        assert_int_equal(ledger_available(&ledger, 0), 12 * G);

        /* not before those who wait */
        assert_int_equal(ask(&ledger, 3, 40 * G, true, NULL), 0);
        want.guarantee = want.maximum = 9 * G;
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, false, &verdict), -ENOSPC);
        assert_int_equal(verdict.ahead, 3);
        want.device = 1;
        assert_int_equal(ledger_resize(&ledger, 1, &want, 1, false, &verdict), -EINVAL);
        ledger_done(&ledger);
}

static void what_is_free_is_lent_up_to_the_maximum(void **state)
{
        struct ledger_want a = {.device = 0, .guarantee = 10 * G, .maximum = 60 * G};
        struct ledger ledger;

        two_devices(&ledger);
        ledger.device[0].reserved = 0;
        assert_int_equal(ledger_request(&ledger, 1, 0, &a, 1, false, NULL), 0);
        assert_int_equal(ledger_find(&ledger, 1)->grant[0].limit, 60 * G);
        assert_int_equal(ledger_request(&ledger, 2, 0, &a, 1, false, NULL), 0);
        /* 60 GiB are free beside the guarantees: half for each */
        assert_int_equal(ledger_find(&ledger, 1)->grant[0].limit, 40 * G);
        assert_int_equal(ledger_find(&ledger, 2)->grant[0].limit, 40 * G);
        use(&ledger, 1, 40 * G);
        ledger_update_limits(&ledger);
        assert_int_equal(ledger_find(&ledger, 1)->grant[0].limit, 55 * G);
        assert_int_equal(ledger_find(&ledger, 2)->grant[0].limit, 25 * G);
        /* what is lent and in use cannot be granted; what is lent and not in use can */
        assert_int_equal(ask(&ledger, 3, 31 * G, false, NULL), -ENOSPC);
        assert_int_equal(ask(&ledger, 3, 30 * G, false, NULL), 0);
        assert_int_equal(ledger_find(&ledger, 1)->grant[0].limit, 40 * G);
        assert_int_equal(ledger_find(&ledger, 2)->grant[0].limit, 10 * G);
        /* while somebody waits nothing more is lent */
        assert_int_equal(ledger_remove(&ledger, 3), 0);
        assert_int_equal(ask(&ledger, 4, 35 * G, true, NULL), 0);
        assert_int_equal(ledger_find(&ledger, 1)->grant[0].limit, 40 * G);
        use(&ledger, 1, 12 * G);
        assert_int_equal(ledger_serve(&ledger), 4);
        assert_true(ledger_check(&ledger));
        ledger_done(&ledger);
}

/* ---- many random steps ---- */

static uint64_t random_state = 88172645463325252ull;

static uint64_t random_below(uint64_t n)
{
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return random_state % n;
}

static uint64_t reservations(const struct ledger *ledger, unsigned device)
{
        uint64_t sum = 0;

        for (struct ledger_tenant *t = ledger->first; t; t = t->next) {
                const struct ledger_grant *g = ledger_find_grant(t, device);

                if (g && !t->waiting)
                        sum += MAX_OF(g->limit, g->used);
        }
        return sum;
}

/* What the world alone can break: more is used by others than was there. */
static bool overfull(const struct ledger *ledger, unsigned device)
{
        return ledger_kept(ledger, device) + ledger->device[device].others >
               ledger_capacity(ledger, device);
}

static void random_lives_keep_the_invariants(void **state)
{
        uint64_t next_id = 1, waited = 0, served = 0, refused = 0, resized = 0;
        struct ledger ledger;

        two_devices(&ledger);
        for (unsigned step = 0; step < 100000; step++) {
                struct ledger_tenant *any = ledger.first, *t;
                unsigned count = 0, granted_before = 0, granted_after = 0;
                bool was_full[2] = {overfull(&ledger, 0), overfull(&ledger, 1)};
                uint64_t kept_before[2] = {ledger_kept(&ledger, 0), ledger_kept(&ledger, 1)};
                struct ledger_want wants[2];
                struct ledger_verdict verdict;
                unsigned n, act = (unsigned)random_below(10);
                int r = 0;

                for (t = ledger.first; t; t = t->next) {
                        count++;
                        granted_before += !t->waiting;
                }
                for (uint64_t skip = count ? random_below(count) : 0; skip > 0; skip--)
                        any = any->next;
                n = 1 + (unsigned)random_below(2);
                for (unsigned i = 0; i < n; i++) {
                        wants[i].device = n == 2 ? i : (unsigned)random_below(2);
                        wants[i].guarantee = (1 + random_below(40)) * G / (1 + random_below(4));
                        wants[i].maximum =
                                wants[i].guarantee + (random_below(3) ? 0 : random_below(30) * G);
                        wants[i].maximum =
                                MIN_OF(wants[i].maximum, MAX_OF(79 * G, wants[i].guarantee));
                }
                if (act < 3) {
                        bool wait = random_below(2);

                        r = ledger_request(&ledger, next_id++, (uid_t)random_below(3), wants, n,
                                wait, &verdict);
                        if (r == 0 && ledger_find(&ledger, next_id - 1)->waiting)
                                waited++;
                        refused += r < 0;
                        if (r < 0)
                                assert_null(ledger_find(&ledger, next_id - 1));
                } else if (act < 5 && any) {
                        assert_int_equal(ledger_remove(&ledger, any->id), 0);
                } else if (act < 6 && any) {
                        r = ledger_resize(&ledger, any->id, wants, n, random_below(2), &verdict);
                        resized += r == 0;
                } else if (act < 9 && any && !any->waiting) {
                        /* a tenant uses what its limit lets it */
                        struct ledger_grant *g = &any->grant[random_below(any->grants)];

                        if (random_below(2) || g->used > g->limit)
                                g->used = random_below(g->used + 1);
                        else
                                g->used += random_below(g->limit - g->used + 1);
                        for (unsigned device = 0; device < 2; device++)
                                kept_before[device] = ledger_kept(&ledger, device);
                        ledger_update_limits(&ledger);
                } else {
                        ledger.device[random_below(2)].others = random_below(20) * G;
                        ledger_update_limits(&ledger);
                        for (unsigned device = 0; device < 2; device++)
                                was_full[device] = overfull(&ledger, device);
                }
                if (random_below(4) == 0) {
                        uint64_t id;

                        while ((id = ledger_serve(&ledger)) != 0) {
                                assert_false(ledger_find(&ledger, id)->waiting);
                                served++;
                        }
                        /* the first of the queue is left waiting only if there is no room for it */
                        for (t = ledger.first; t && !t->waiting;)
                                t = t->next;
                        if (t) {
                                bool fits = true;

                                for (unsigned i = 0; i < t->grants; i++)
                                        fits = fits &&
                                               t->grant[i].guarantee <= ledger_available(&ledger,
                                                                                t->grant[i].device);
                                assert_false(fits);
                        }
                }

                assert_true(ledger_check(&ledger));
                for (t = ledger.first; t; t = t->next)
                        granted_after += !t->waiting;
                if (act >= 6)
                        assert_true(granted_after >= granted_before);
                for (unsigned device = 0; device < 2; device++) {
                        /* never more promised than there is, unless the world took it away; then
                         * no more than was promised before */
                        if (!was_full[device]) {
                                assert_false(overfull(&ledger, device));
                                assert_true(reservations(&ledger, device) +
                                                    ledger.device[device].others <=
                                            ledger_capacity(&ledger, device));
                        } else {
                                assert_true(ledger_kept(&ledger, device) <=
                                            MAX_OF(kept_before[device],
                                                    ledger_capacity(&ledger, device)));
                        }
                        assert_true(
                                ledger_granted(&ledger, device) <= ledger_kept(&ledger, device));
                }
        }
        /* the test has seen all of it */
        assert_true(waited > 1000 && served > 1000 && refused > 1000 && resized > 1000);

        for (struct ledger_tenant *t; (t = ledger.first);)
                assert_int_equal(ledger_remove(&ledger, t->id), 0);
        for (unsigned device = 0; device < 2; device++)
                assert_int_equal(ledger_kept(&ledger, device), 0);
        ledger_done(&ledger);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(refusals_say_what_and_how_much),
                cmocka_unit_test(senseless_requests_change_nothing),
                cmocka_unit_test(several_devices_are_granted_together_or_not_at_all),
                cmocka_unit_test(nobody_overtakes_in_the_queue),
                cmocka_unit_test(grants_grow_and_shrink),
                cmocka_unit_test(what_is_free_is_lent_up_to_the_maximum),
                cmocka_unit_test(random_lives_keep_the_invariants),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
