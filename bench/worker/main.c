/* SPDX-License-Identifier: Apache-2.0 */
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "worker.h"

#define ANSWER_MAX (4u << 20)
#define WORDS_MAX  16

static char answer[ANSWER_MAX];
static size_t answered;
static char sentence[512];

static void put(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void put(const char *format, ...)
{
        va_list list;
        int n;

        va_start(list, format);
        n = vsnprintf(answer + answered, sizeof(answer) - answered, format, list);
        va_end(list);
        if (n > 0)
                answered += (size_t)n;
        if (answered >= sizeof(answer)) {
                fprintf(stderr, "an answer is too long\n");
                exit(1);
        }
}

static void put_name(const char *name)
{
        put("%s\"%s\": ", answered > 1 ? ", " : "", name);
}

static void put_number(double value)
{
        if (isfinite(value))
                put("%.15g", value);
        else
                put("null");
}

static void put_string(const char *text)
{
        put("\"");
        for (; *text; text++) {
                if ((unsigned char)*text < 32)
                        put(" ");
                else
                        put(*text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
        }
        put("\"");
}

void say(const char *name, double value)
{
        put_name(name);
        put_number(value);
}

void say_text(const char *name, const char *value)
{
        put_name(name);
        put_string(value);
}

void say_list(const char *name, const double *values, size_t n)
{
        put_name(name);
        put("[");
        for (size_t i = 0; i < n; i++) {
                if (i)
                        put(",");
                put_number(values[i]);
        }
        put("]");
}

static int compare(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

void sort(double *values, size_t n)
{
        qsort(values, n, sizeof(*values), compare);
}

double quantile(const double *sorted, size_t n, double part)
{
        double at;
        size_t i;

        if (n == 0)
                return NAN;
        at = part * (double)(n - 1);
        i = (size_t)at;
        if (i + 1 >= n)
                return sorted[n - 1];
        return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

void say_spread(const char *name, const char *unit, double *values, size_t n)
{
        char full[64];

        sort(values, n);
        snprintf(full, sizeof(full), "%s_p50%s", name, unit);
        say(full, quantile(values, n, 0.5));
        snprintf(full, sizeof(full), "%s_p99%s", name, unit);
        say(full, quantile(values, n, 0.99));
}

int fail(const char *format, ...)
{
        va_list list;

        va_start(list, format);
        vsnprintf(sentence, sizeof(sentence), format, list);
        va_end(list);
        return FAILED;
}

int gap(const char *format, ...)
{
        va_list list;

        va_start(list, format);
        vsnprintf(sentence, sizeof(sentence), format, list);
        va_end(list);
        return GAP;
}

double *doubles(size_t n)
{
        double *values = calloc(n ? n : 1, sizeof(*values));

        if (!values) {
                fprintf(stderr, "no memory for %zu figures\n", n);
                exit(1);
        }
        return values;
}

/* Whether the file of that path is part of this process. */
static bool is_mapped(const char *path)
{
        char line[4096], real[4096];
        size_t length;
        bool found = false;
        FILE *maps;

        if (!realpath(path, real))
                return false;
        length = strlen(real);
        maps = fopen("/proc/self/maps", "re");
        while (maps && !found && fgets(line, sizeof(line), maps)) {
                char *file = strchr(line, '/');

                found = file && strncmp(file, real, length) == 0 && file[length] == '\n';
        }
        if (maps)
                fclose(maps);
        return found;
}

static void send(int status)
{
        if (status != DONE) {
                answered = 0;
                put("{");
                say_text(status == GAP ? "gap" : "error", sentence);
        }
        put("}\n");
        fputs(answer, stdout);
        fflush(stdout);
}

static void begin(void)
{
        answered = 0;
        put("{");
}

static int introduce(const char *needed)
{
        NEED(gpu_start());
        if (needed && !is_mapped(needed))
                return fail("%s is not loaded into the program", needed);
        say("pid", getpid());
        say_text("device", gpu.name);
        say("devices", gpu.devices);
        say_text("uuid", gpu.uuid[0]);
        say_text("uuid_second", gpu.uuid[1]);
        say("driver", gpu.driver);
        say("sms", gpu.sms);
        say("memory", (double)gpu.memory);
        say("l2_bytes", (double)gpu.l2_bytes);
        say("simulated", gpu.simulated);
        say("init_ms", gpu.init_ms);
        say("context_ms", gpu.context_ms);
        return DONE;
}

static int obey(char *line)
{
        static const struct command *const tables[] = {
                call_commands, work_commands, memory_commands, model_commands, several_commands};
        char *words[WORDS_MAX], *state = NULL;
        int n = 0;

        for (char *word = strtok_r(line, " \n", &state); word && n < WORDS_MAX;
                word = strtok_r(NULL, " \n", &state))
                words[n++] = word;
        if (n == 0)
                return fail("an empty command");
        for (size_t t = 0; t < sizeof(tables) / sizeof(*tables); t++)
                for (const struct command *c = tables[t]; c->name; c++)
                        if (strcmp(c->name, words[0]) == 0) {
                                if (n - 1 < c->least)
                                        return fail("%s takes %d arguments", c->name, c->least);
                                return c->run(n - 1, words + 1);
                        }
        return fail("there is no command %s", words[0]);
}

int main(int argc, char **argv)
{
        const char *needed = NULL;
        char line[4096];
        int r;

        prctl(PR_SET_TIMERSLACK, 1);
        if (argc > 1 && strcmp(argv[1], "--swarm") == 0)
                return swarm_member(argc - 2, argv + 2);
        if (argc == 3 && strcmp(argv[1], "--needs") == 0)
                needed = argv[2];
        else if (argc != 1) {
                fprintf(stderr, "usage: worker [--needs FILE]\nThis is a part of cleave bench.\n");
                return 2;
        }
        begin();
        r = introduce(needed);
        send(r);
        if (r != DONE)
                return 1;
        while (fgets(line, sizeof(line), stdin)) {
                begin();
                send(obey(line));
        }
        return 0;
}
