/* SPDX-License-Identifier: Apache-2.0 */
#include "policy/switches_question.h"

#include "base/cleanup.h"

/* The step that a moment lies in, NULL: it is too long ago or still to come. ret_end: of the step.
 */
static struct question_step *step_of(struct question *question, uint64_t at, uint64_t *ret_end)
{
        uint64_t number = at / QUESTION_STEP;

        *ret_end = (number + 1) * QUESTION_STEP;
        if (number > question->newest || number + QUESTION_STEPS <= question->newest)
                return NULL;
        return &question->step[number % QUESTION_STEPS];
}

/* Room for steps up to that of a moment; what had to go for it. */
static int64_t reach(struct question *question, uint64_t at)
{
        uint64_t number = at / QUESTION_STEP;
        int64_t lost = 0;

        if (number <= question->newest)
                return 0;
        for (unsigned i = 0; i < QUESTION_STEPS && question->newest < number; i++) {
                struct question_step *step = &question->step[++question->newest % QUESTION_STEPS];

                lost += step->ns;
                *step = (struct question_step){0};
        }
        question->newest = number;
        question->ns -= lost;
        return lost;
}

int64_t question_put(struct question *question, uint64_t from, uint64_t to)
{
        int64_t lost = reach(question, to);
        uint64_t oldest = (question->newest - MIN_OF(question->newest, QUESTION_STEPS - 1ull)) *
                          QUESTION_STEP;
        uint64_t end;

        if (from < oldest) {
                lost += (int64_t)(MIN_OF(oldest, MAX_OF(to, from)) - from);
                from = oldest;
        }
        for (; from < to; from = end) {
                struct question_step *step = step_of(question, from, &end);
                uint32_t part = (uint32_t)(MIN_OF(end, to) - from);

                step->ns += part;
                question->ns += part;
        }
        return lost;
}

int64_t question_take(struct question *question, uint64_t from, uint64_t to)
{
        int64_t taken = 0;
        uint64_t end;

        for (; from < to; from = end) {
                struct question_step *step = step_of(question, from, &end);
                uint32_t part;

                if (!step)
                        continue;
                part = MIN_OF((uint32_t)(MIN_OF(end, to) - from), step->ns);
                step->ns -= part;
                step->firm_ns = MIN_OF(step->firm_ns, step->ns);
                taken += part;
        }
        question->ns -= taken;
        return taken;
}

void question_firm(struct question *question, uint64_t from, uint64_t to)
{
        uint64_t end;

        for (; from < to; from = end) {
                struct question_step *step = step_of(question, from, &end);

                if (step)
                        step->firm_ns = MIN_OF(
                                step->firm_ns + (uint32_t)(MIN_OF(end, to) - from), step->ns);
        }
}

int64_t question_sum(
        const struct question *question, uint64_t from, uint64_t to, int64_t *ret_firm_ns)
{
        int64_t sum = 0;
        uint64_t end;

        *ret_firm_ns = 0;
        for (; from < to; from = end) {
                const struct question_step *step = step_of((struct question *)question, from, &end);
                uint64_t part = MIN_OF(end, to) - from;

                if (!step)
                        continue;
                sum += (int64_t)(step->ns * part / QUESTION_STEP);
                *ret_firm_ns += (int64_t)(step->firm_ns * part / QUESTION_STEP);
        }
        return sum;
}

void question_answer(struct question *question, uint64_t from, uint64_t to)
{
        uint64_t end;

        for (; from < to; from = end) {
                struct question_step *step = step_of(question, from, &end);
                uint64_t part = MIN_OF(end, to) - from;
                uint32_t ns;

                if (!step)
                        continue;
                ns = (uint32_t)(step->ns * part / QUESTION_STEP);
                question->ns -= ns;
                step->ns -= ns;
                step->firm_ns -= (uint32_t)(step->firm_ns * part / QUESTION_STEP);
        }
}
