/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run as one page that needs nothing besides itself: no script, no network; light or dark as the
 * reader has it. For each category drawings (ratios to native by a logarithmic scale, parts of what
 * should be) and a table; each metric says what it is and how it was got.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "bench.h"

#define LEFT  110 /* of the drawing: labels */
#define WIDTH 560 /* of its scale */
#define ROW   24
#define TOP   26
#define SPAN  8.0 /* ratios from 1/8 to 8 are drawn; others stand at the edge, as arrows */

static const char style[] =
        ":root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--line:#d5dae0;--paper:#fff;"
        "--band:#eef1f4;--a0:#5b6570;--a1:#8a95a1;--a2:#0b62c4;--a3:#12805c;--a4:#b4540a;"
        "--bad:#b3261e}"
        "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa5b1;--line:#39414a;"
        "--paper:#14171b;--band:#1f242a;--a0:#9aa5b1;--a1:#77828e;--a2:#6cb0ff;--a3:#5fcf9f;"
        "--a4:#f2a65a;--bad:#ff8a80}}"
        "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);"
        "max-width:72rem;margin:2rem auto;padding:0 1rem}"
        "h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin:2.2rem 0 .4rem}"
        "p.facts,summary,figcaption{color:var(--soft)}p.warn{border-left:4px solid var(--a4);"
        "padding:.3rem .8rem;background:var(--band)}"
        "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
        "th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right;"
        "vertical-align:top}th:first-child,td:first-child{text-align:left}"
        "td small{color:var(--soft);display:block}td.bad{color:var(--bad);text-align:left}"
        "td.gap{color:var(--soft);text-align:left}"
        "figure{margin:.6rem 0;overflow-x:auto}svg text{fill:var(--ink);font:12px system-ui,"
        "sans-serif}svg text.soft{fill:var(--soft)}svg .grid{stroke:var(--line)}"
        "svg .one{stroke:var(--soft)}svg .ring{fill:var(--paper)}.scroll{overflow-x:auto}"
        "details p{margin:.2rem 0;max-width:44rem;text-align:left}";

static void escape(FILE *out, const char *text)
{
        for (; text && *text; text++)
                switch (*text) {
                case '<':
                        fputs("&lt;", out);
                        break;
                case '>':
                        fputs("&gt;", out);
                        break;
                case '&':
                        fputs("&amp;", out);
                        break;
                case '"':
                        fputs("&quot;", out);
                        break;
                default:
                        fputc(*text, out);
                }
}

static const char *text_of(const json_t *object, const char *name)
{
        return json_string_value(json_object_get(object, name)) ?: "";
}

static double number_of(const json_t *object, const char *name)
{
        const json_t *value = json_object_get(object, name);

        return json_is_number(value) ? json_number_value(value) : NAN;
}

static void figure(FILE *out, double value)
{
        if (!isfinite(value))
                fputs("–", out);
        else if (fabs(value) >= 10000)
                fprintf(out, "%.0f", value);
        else
                fprintf(out, "%.4g", value);
}

/* A scale of a drawing, and which metrics stand on it. */
struct scale {
        const char *title;
        const char *low, *value, *high; /* members of a result; low NULL: no span is drawn */
        double (*place)(double value);  /* 0 to 1 on it; beyond that off it */
        bool (*shows)(const json_t *metric);
        size_t first; /* arm that is drawn */
        double mark;  /* a place to be seen: where native or the best is */
        struct {
                double at;
                const char *label;
        } ticks[8];
};

static double place_ratio(double value)
{
        return value > 0 ? (1 + log(value) / log(SPAN)) / 2 : -1;
}

static bool shows_ratio(const json_t *metric)
{
        return strcmp(text_of(metric, "compare"), "ratio") == 0;
}

static double place_part(double value)
{
        return value / 120;
}

/* Parts of what should be: percentages and indices of which more is better. */
static bool shows_part(const json_t *metric)
{
        const char *unit = text_of(metric, "unit");

        return strcmp(text_of(metric, "better"), "higher") == 0 &&
               (strcmp(unit, "%") == 0 || strcmp(unit, "0-1") == 0 || *unit == 0);
}

static const struct scale scales[] = {
        {.title = "Ratio to native",
                .low = "ratio_low",
                .value = "ratio",
                .high = "ratio_high",
                .place = place_ratio,
                .shows = shows_ratio,
                .first = 1,
                .mark = 1,
                .ticks = {{0.125, "⅛"}, {0.25, "¼"}, {0.5, "½"}, {1, "1"}, {2, "2"}, {4, "4"},
                        {8, "8"}}},
        {.title = "Percent of what should be",
                .low = "low",
                .value = "median",
                .high = "high",
                .place = place_part,
                .shows = shows_part,
                .first = 0,
                .mark = 100,
                .ticks = {{0, "0"}, {20, "20"}, {40, "40"}, {60, "60"}, {80, "80"}, {100, "100"},
                        {120, "120"}}},
};

static double x_of(const struct scale *scale, double value)
{
        double at = scale->place(value);

        return LEFT + WIDTH * (at < 0 ? 0 : at > 1 ? 1 : at);
}

/* A figure as its scale has it; NAN: none. */
static double scaled(const json_t *metric, const char *arm, const char *member)
{
        const json_t *result = json_object_get(json_object_get(metric, "results"), arm);
        double value = number_of(result, member);
        bool index = strcmp(text_of(metric, "unit"), "%") != 0 && shows_part(metric);

        return index ? 100 * value : value;
}

/* Whether any arm has something to be drawn. */
static bool drawn(const struct scale *scale, const json_t *metric, const json_t *arms)
{
        const json_t *arm;
        size_t i;

        if (!scale->shows(metric))
                return false;
        json_array_foreach((json_t *)arms, i,
                arm) if (i >= scale->first && isfinite(scaled(metric, json_string_value(arm),
                                                      scale->value))) return true;
        return false;
}

static void mark(FILE *out, const struct scale *scale, const json_t *metric, const char *arm,
        size_t index, double y)
{
        double value = scaled(metric, arm, scale->value), at = scale->place(value);
        double x = x_of(scale, value), low = scaled(metric, arm, scale->low);
        double high = scaled(metric, arm, scale->high);

        if (!isfinite(value))
                return;
        fputs("<g><title>", out);
        escape(out, text_of(metric, "id"));
        fputs(", ", out);
        escape(out, arm);
        fprintf(out, ": %.4g</title>", value);
        if (low < high)
                fprintf(out, "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' stroke='var(--a%zu)'/>",
                        x_of(scale, low), x_of(scale, high), y, y, index);
        if (at < 0 || at > 1)
                fprintf(out, "<path d='M%.1f %.1f l%d -6 v12 z' fill='var(--a%zu)'/>", x, y,
                        at > 1 ? -9 : 9, index);
        else
                fprintf(out,
                        "<circle%s cx='%.1f' cy='%.1f' r='%d' stroke='var(--a%zu)' "
                        "stroke-width='1.5' fill='var(--a%zu)'/>",
                        index == 1 ? " class='ring'" : "", x, y, index == 1 ? 4 : 5, index, index);
        fputs("</g>", out);
}

static void legend(FILE *out, const struct scale *scale, const json_t *arms)
{
        const json_t *arm;
        size_t k;

        fprintf(out, "<figcaption>%s:", scale->title);
        json_array_foreach((json_t *)arms, k, arm)
        {
                if (k < scale->first)
                        continue;
                fprintf(out, " <span style='color:var(--a%zu)'>%s</span> ", k, k == 1 ? "○" : "●");
                escape(out, json_string_value(arm));
                if (k == 1)
                        fputs(" (a second native process: what the method cannot tell)", out);
        }
        fputs("; ◂ ▸ the better side; lines: the middle half of the turns</figcaption>", out);
}

static void draw(FILE *out, const struct scale *scale, const char *category, const json_t *metrics,
        const json_t *arms)
{
        const json_t *metric, *arm;
        size_t i, k, rows = 0, height;

        json_array_foreach((json_t *)metrics, i, metric) rows +=
                strcmp(text_of(metric, "category"), category) == 0 && drawn(scale, metric, arms);
        if (rows == 0)
                return;
        height = TOP + rows * ROW + 4;
        fprintf(out,
                "<figure><svg role='img' width='%d' height='%zu' viewBox='0 0 %d %zu' "
                "aria-label='%s'>",
                LEFT + WIDTH + 20, height, LEFT + WIDTH + 20, height, scale->title);
        for (i = 0; i < sizeof(scale->ticks) / sizeof(*scale->ticks) && scale->ticks[i].label; i++)
                fprintf(out,
                        "<line class='%s' x1='%.1f' x2='%.1f' y1='%d' y2='%zu'/>"
                        "<text class='soft' x='%.1f' y='14' text-anchor='middle'>%s</text>",
                        scale->ticks[i].at == scale->mark ? "one" : "grid",
                        x_of(scale, scale->ticks[i].at), x_of(scale, scale->ticks[i].at), TOP - 6,
                        height, x_of(scale, scale->ticks[i].at), scale->ticks[i].label);
        rows = 0;
        json_array_foreach((json_t *)metrics, i, metric)
        {
                const char *better = text_of(metric, "better");
                double y;

                if (strcmp(text_of(metric, "category"), category) != 0 ||
                        !drawn(scale, metric, arms))
                        continue;
                y = TOP + (double)rows++ * ROW + ROW / 2.0;
                fprintf(out, "<text x='0' y='%.1f'>", y + 4);
                escape(out, text_of(metric, "id"));
                fprintf(out, " %s</text>",
                        strcmp(better, "lower") == 0    ? "◂"
                        : strcmp(better, "higher") == 0 ? "▸"
                                                        : "");
                json_array_foreach((json_t *)arms, k, arm) if (k >= scale->first)
                        mark(out, scale, metric, json_string_value(arm), k, y);
        }
        fputs("</svg>", out);
        legend(out, scale, arms);
        fputs("</figure>", out);
}

static void detail(FILE *out, const json_t *metric, const json_t *arms)
{
        const json_t *arm, *value;
        const char *name;
        size_t k;

        fputs("<details><summary>", out);
        escape(out, text_of(metric, "name"));
        fputs("</summary><p>", out);
        escape(out, text_of(metric, "measures"));
        fputs("</p><p>", out);
        escape(out, text_of(metric, "procedure"));
        fputs(" <em>", out);
        escape(out, text_of(metric, "source"));
        fputs("</em></p>", out);
        json_array_foreach((json_t *)arms, k, arm)
        {
                json_t *seen = json_object_get(
                        json_object_get(json_object_get(metric, "results"), json_string_value(arm)),
                        "detail");

                if (json_object_size(seen) == 0)
                        continue;
                fputs("<p>", out);
                escape(out, json_string_value(arm));
                fputs(":", out);
                json_object_foreach(seen, name, value)
                {
                        fputs(" ", out);
                        escape(out, name);
                        fputs("&nbsp;", out);
                        figure(out, json_is_number(value) ? json_number_value(value) : NAN);
                }
                fputs("</p>", out);
        }
        fputs("</details>", out);
}

static void cell(FILE *out, const json_t *metric, const char *arm, bool native)
{
        const json_t *result = json_object_get(json_object_get(metric, "results"), arm);
        const char *gap = json_string_value(json_object_get(result, "gap"));
        const char *error = json_string_value(json_object_get(result, "error"));
        double low = number_of(result, "low"), high = number_of(result, "high");
        double ratio = number_of(result, "ratio");

        if (error || gap) {
                fprintf(out, "<td class='%s'><small>", error ? "bad" : "gap");
                escape(out, error ?: gap);
                fputs("</small></td>", out);
                return;
        }
        fputs("<td>", out);
        figure(out, number_of(result, "median"));
        if (isfinite(low) && low != high) {
                fputs("<small>", out);
                figure(out, low);
                fputs(" to ", out);
                figure(out, high);
                fputs("</small>", out);
        }
        if (!native && strcmp(text_of(metric, "compare"), "ratio") != 0) {
                if (isfinite(number_of(result, "difference")))
                        fprintf(out, "<small>%+.3g</small>", number_of(result, "difference"));
        } else if (!native && isfinite(ratio))
                fprintf(out, "<small>× %.3f</small>", ratio);
        fputs("</td>", out);
}

static void tabulate(FILE *out, const char *category, const json_t *metrics, const json_t *arms)
{
        const json_t *metric, *arm;
        size_t i, k;

        fputs("<div class='scroll'><table><tr><th>Metric</th><th>Unit</th>", out);
        json_array_foreach((json_t *)arms, k, arm)
        {
                fputs("<th>", out);
                escape(out, json_string_value(arm));
                fputs("</th>", out);
        }
        fputs("</tr>", out);
        json_array_foreach((json_t *)metrics, i, metric)
        {
                if (strcmp(text_of(metric, "category"), category) != 0)
                        continue;
                fputs("<tr><td>", out);
                escape(out, text_of(metric, "id"));
                detail(out, metric, arms);
                fputs("</td><td>", out);
                escape(out, text_of(metric, "unit"));
                fputs("</td>", out);
                json_array_foreach((json_t *)arms, k, arm)
                        cell(out, metric, json_string_value(arm), k == 0);
                fputs("</tr>", out);
        }
        fputs("</table></div>", out);
}

/* A category as a heading: what are initials are written so. */
static void heading(FILE *out, const char *category)
{
        bool initials = strlen(category) <= 4;

        fputs("<h2>", out);
        for (const char *p = category; *p; p++)
                fputc(initials || p == category ? toupper((unsigned char)*p) : *p, out);
        fputs("</h2>", out);
}

int bench_html(const json_t *report, FILE *out)
{
        const json_t *metrics = json_object_get(report, "metrics");
        const json_t *arms = json_object_get(report, "arms"), *metric;
        const json_t *device = json_object_get(report, "device");
        const char *last = "";
        size_t i;

        fputs("<!doctype html><html lang='en'><meta charset='utf-8'>"
              "<meta name='viewport' content='width=device-width,initial-scale=1'>"
              "<title>cleave bench</title><style>",
                out);
        fputs(style, out);
        fputs("</style><h1>cleave bench</h1><p class='facts'>", out);
        escape(out, text_of(device, "name"));
        fprintf(out, " · CUDA %lld.%lld · cleave ",
                (long long)json_integer_value(json_object_get(device, "driver")) / 1000,
                (long long)json_integer_value(json_object_get(device, "driver")) % 1000 / 10);
        escape(out, text_of(report, "version"));
        fputs(" · ", out);
        escape(out, text_of(report, "date"));
        fprintf(out, " · %.0f s</p>", number_of(report, "seconds"));
        if (json_is_true(json_object_get(report, "simulated")))
                fputs("<p class='warn'>The GPU is simulated. These figures show that the "
                      "procedures "
                      "run; they say nothing of a GPU.</p>",
                        out);
        if (json_is_true(json_object_get(report, "quick")))
                fputs("<p class='warn'>A quick run: few repetitions, short windows.</p>", out);
        if (!json_is_true(json_object_get(report, "complete")))
                fputs("<p class='warn'>The run was stopped before its end.</p>", out);
        json_array_foreach((json_t *)metrics, i, metric)
        {
                const char *category = text_of(metric, "category");

                if (strcmp(category, last) == 0)
                        continue;
                last = category;
                heading(out, category);
                for (size_t k = 0; k < sizeof(scales) / sizeof(*scales); k++)
                        draw(out, &scales[k], category, metrics, arms);
                tabulate(out, category, metrics, arms);
        }
        fputs("<p class='facts'>Ids and names are those of GPU-Virt-Bench (arXiv 2512.22125); the "
              "procedures are Cleave's. Medians, with the middle half of the turns; × is the "
              "median "
              "of the ratios to native, turn by turn, + and − that of the "
              "differences.</p></html>\n",
                out);
        return ferror(out) ? -EIO : 0;
}
