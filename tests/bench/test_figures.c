/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "suite/figures.h"
#include "unit/unit.h"

static void near(double got, double want)
{
        assert_true(fabs(got - want) < 1e-9);
}

static void test_quantile(void **state)
{
        double values[] = {5, 1, 4, 2, 3};

        near(figures_median(values, 5), 3);
        near(values[0], 5); /* its own order is kept */
        near(figures_median(values, 4), 3);
        near(figures_quantile(values, 5, 0), 1);
        near(figures_quantile(values, 5, 1), 5);
        near(figures_quantile(values, 5, 0.25), 2);
        assert_true(isnan(figures_median(values, 0)));
}

static void test_spread(void **state)
{
        double same[] = {2, 2, 2, 2}, other[] = {1, 3}, one[] = {0, 0, 8, 0}, nothing[] = {0, 0};

        near(figures_variation(same, 4), 0);
        near(figures_variation(other, 2), sqrt(2) / 2);
        assert_true(isnan(figures_variation(same, 1)));
        assert_true(isnan(figures_variation(nothing, 2)));
        near(figures_fairness(same, 4), 1);
        near(figures_fairness(one, 4), 0.25);
        near(figures_fairness(other, 2), 0.8);
        assert_true(isnan(figures_fairness(nothing, 2)));
}

static void test_worst_error(void **state)
{
        double got[] = {20, 80}, want[] = {0.1, 0.9}, nothing[] = {0, 0};

        near(figures_worst_error(got, want, 2), 1);
        got[0] = 10;
        got[1] = 90;
        near(figures_worst_error(got, want, 2), 0);
        assert_true(isnan(figures_worst_error(nothing, want, 2)));
}

static void test_switch(void **state)
{
        double a[] = {0, 10, 40, 50, 80, 90}, b[] = {20, 30, 61, 70}, over[] = {5, 95};

        /* gaps 10, 10, 11, 10 */
        near(figures_switch(a, 3, b, 2), 10);
        /* one is there all the time: nobody is switched */
        near(figures_switch(a, 3, over, 1), 0);
        assert_true(isnan(figures_switch(a, 3, b, 0)));
}

static void test_step(void **state)
{
        double first[100], second[100];
        size_t step;

        /* turns of 5 bins, three quarters of them the first's, then half */
        for (size_t i = 0; i < 100; i++) {
                first[i] = i < 60 ? i % 4 != 3 : i % 2;
                second[i] = 1 - first[i];
        }
        /* single bins say nothing, so it is exact to a turn */
        assert_true(fabs(figures_step(first, second, 100, 20, 0.75, 0.5, &step) - 0.5) < 0.05);
        assert_true(step >= 57 && step <= 63);
        /* it never comes */
        for (size_t i = 0; i < 100; i++) {
                first[i] = 3;
                second[i] = 1;
        }
        assert_true(isnan(figures_step(first, second, 100, 20, 0.75, 0.5, &step)));
        assert_int_equal(step, 100);
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(test_quantile),
                cmocka_unit_test(test_spread), cmocka_unit_test(test_worst_error),
                cmocka_unit_test(test_switch), cmocka_unit_test(test_step)};

        return cmocka_run_group_tests(tests, NULL, NULL);
}
