/* SPDX-License-Identifier: Apache-2.0 */
#include "policy/arbiter_account.h"

#include "base/cleanup.h"

static void show(struct account *account)
{
        uint64_t best = account_best(account);

        if (account->shown_ns < best)
                account->shown_ns = best;
}

void account_predict(struct account *account, uint64_t ns)
{
        account->predicted_ns += ns;
        show(account);
}

void account_measure(struct account *account, enum account_source source, uint64_t counter_ns,
        uint64_t precision_ns)
{
        bool same = account->source == source && account->source != ACCOUNT_RECORD;
        bool anew = counter_ns < account->counter_ns / 2 &&
                    account->counter_ns - counter_ns > ACCOUNT_CORRECTS;

        if (!same || anew) {
                account->measured_ns = account_best(account);
                account->base_ns = counter_ns - account->measured_ns;
                account->source = source;
        } else
                account->measured_ns =
                        (uint64_t)MAX_OF((int64_t)(counter_ns - account->base_ns), (int64_t)0);
        account->counter_ns = counter_ns;
        account->predicted_ns = 0;
        account->precision_ns = precision_ns;
        show(account);
}

uint64_t account_best(const struct account *account)
{
        return account->measured_ns + account->predicted_ns;
}

uint64_t account_error(const struct account *account)
{
        return account->precision_ns + account->predicted_ns;
}

void account_divide(uint64_t span_ns, uint64_t switch_us, const struct account_claim *claims,
        size_t count, uint64_t *ret_ns)
{
        uint64_t round = 0;
        size_t running = 0;

        for (size_t i = 0; i < count; i++)
                if (claims[i].running) {
                        round += claims[i].slice_us;
                        running++;
                }
        if (running > 1)
                round += running * switch_us;
        for (size_t i = 0; i < count; i++) {
                if (!claims[i].running || !round)
                        ret_ns[i] = 0;
                else if (running == 1)
                        ret_ns[i] = span_ns;
                else
                        ret_ns[i] = (uint64_t)((double)span_ns * (double)claims[i].slice_us /
                                               (double)round);
        }
}
