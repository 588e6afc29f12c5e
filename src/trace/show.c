/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/show.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/format.h"
#include "cuda_names.h"

#define MOST_ELEMENTS 16 /* of an array that are shown */

const char *trace_result_name(int32_t result, char buffer[static 16])
{
        const char *name = cuda_constant("CUresult", result);

        if (name)
                return name;
        snprintf(buffer, 16, "%" PRId32, result);
        return buffer;
}

/* -- values as JSON, from which the text is made ------------------------------------------------
 */

static json_t *hexadecimal(uint64_t value)
{
        char text[24];

        snprintf(text, sizeof(text), "0x%" PRIx64, value);
        return json_string(text);
}

static uint64_t number_at(const void *at, size_t size)
{
        uint64_t value = 0;

        memcpy(&value, at, size < sizeof(value) ? size : sizeof(value));
        return value;
}

static bool is_signed(const char *type)
{
        return strcmp(type, "int") == 0 || strcmp(type, "CUdevice") == 0 ||
               strcmp(type, "long long") == 0 || strcmp(type, "short") == 0;
}

static json_t *plain(const struct call_parameter *p, const void *at, size_t size)
{
        if (strcmp(p->type, "float") == 0 && size == sizeof(float)) {
                float value;

                memcpy(&value, at, sizeof(value));
                return json_real((double)value);
        }
        if (is_signed(p->type) && size == sizeof(int32_t))
                return json_integer((int32_t)number_at(at, size));
        /* JSON's integers end where most readers' do */
        if (number_at(at, size) > INT64_MAX)
                return hexadecimal(number_at(at, size));
        return json_integer((json_int_t)number_at(at, size));
}

/* One element that a pointer points to, or NULL: it is a structure, say. */
static json_t *element(const struct call_parameter *p, const char *at, size_t size)
{
        if (size != 1 && size != 2 && size != 4 && size != 8)
                return NULL;
        if (p->shape && p->shape->reference_count == 1 && p->shape->references[0].size == size)
                return hexadecimal(number_at(at, size));
        return p->shape ? NULL : plain(p, at, size);
}

static json_t *elements(const struct marshal_parameter *how, const struct call_parameter *p,
        const char *data, uint64_t length)
{
        json_t *array;

        if (how->unit == MARSHAL_STRING || (strcmp(p->type, "char") == 0 && length > 0))
                return json_stringn(data, strnlen(data, length)) ?: json_string("(not UTF-8)");
        if (how->element == 0 || length < how->element || how->element == 1)
                return NULL;
        if (how->unit == MARSHAL_ONE)
                return element(p, data, how->element);
        array = json_array();
        for (uint64_t i = 0; i < length / how->element && i < MOST_ELEMENTS; i++) {
                json_t *item = element(p, data + i * how->element, how->element);

                if (!item || json_array_append_new(array, item) < 0)
                        break;
        }
        if (json_array_size(array) == 0) {
                json_decref(array);
                return NULL;
        }
        return array;
}

static json_t *value_of(const struct trace_parts *parts, unsigned i)
{
        const struct marshal_parameter *how = &parts->entry->how.parameters[i];
        const struct call_parameter *p = &parts->entry->parameters[i];
        const char *at = (const char *)parts->args + how->offset;
        const char *name;
        json_t *object, *value = NULL;
        bool written = parts->returned && parts->result == 0;

        switch (p->what) {
        case CALL_NUMBER:
        case CALL_FLOAT:
                return plain(p, at, how->size);
        case CALL_CONSTANT:
                name = cuda_constant(p->type, (int32_t)number_at(at, how->size));
                return name ? json_string(name) : plain(p, at, how->size);
        case CALL_STRUCTURE:
                return json_pack("{s:I}", "bytes", (json_int_t)how->size);
        case CALL_POINTER:
                break;
        default:
                return number_at(at, how->size) ? hexadecimal(number_at(at, how->size))
                                                : json_null();
        }
        if (parts->lengths[i] == MARSHAL_NULL && number_at(at, how->size) == 0)
                return json_null();
        object = json_pack("{s:o}", "address", hexadecimal(number_at(at, how->size)));
        if (parts->lengths[i] == MARSHAL_NULL)
                return object;
        json_object_set_new(object, "bytes", json_integer((json_int_t)parts->lengths[i]));
        if (parts->data[i] && !p->content && (how->kind != MARSHAL_OUT || written))
                value = elements(how, p, parts->data[i], parts->lengths[i]);
        if (value)
                json_object_set_new(object, "value", value);
        if (value && how->kind == MARSHAL_INOUT && written)
                json_object_set_new(object, "left",
                        elements(how, p, parts->left[i], parts->lengths[i]) ?: json_null());
        return object;
}

/* A kernel's parameters as the numbers of 8 bytes and less that they consist of. */
static json_t *kernel_parameters(const char *data, uint64_t length)
{
        json_t *array = json_array();

        while (length >= sizeof(struct trace_packed)) {
                struct trace_packed packed;
                uint64_t padded;
                json_t *words;

                memcpy(&packed, data, sizeof(packed));
                data += sizeof(packed);
                length -= sizeof(packed);
                padded = ((uint64_t)packed.size + 7) & ~UINT64_C(7);
                if (padded > length)
                        break;
                words = json_array();
                for (uint64_t at = 0; at < packed.size; at += 8)
                        json_array_append_new(
                                words, hexadecimal(number_at(data + at,
                                               packed.size - at < 8 ? packed.size - at : 8)));
                json_array_append_new(
                        array, json_pack("{s:I, s:I, s:o}", "offset", (json_int_t)packed.offset,
                                       "bytes", (json_int_t)packed.size, "words", words));
                data += padded;
                length -= padded;
        }
        return array;
}

static json_t *extra_object(const struct trace_parts *parts, unsigned i)
{
        static const char *const kinds[] = {
                "?", "kernel parameters", "kernel buffer", "bytes", "array"};
        const struct trace_extra *head = &parts->extra[i].head;
        json_t *object = json_pack("{s:s, s:I}", "kind",
                kinds[head->kind <= TRACE_EXTRA_ARRAY ? head->kind : 0], "bytes",
                (json_int_t)head->length);

        if (head->kind == TRACE_EXTRA_KERNEL)
                json_object_set_new(
                        object, "value", kernel_parameters(parts->extra[i].data, head->length));
        return object;
}

/* -- text -------------------------------------------------------------------------------------- */

static void print_value(FILE *to, const json_t *value)
{
        char *text;

        if (json_is_string(value) && strncmp(json_string_value(value), "0x", 2) != 0 &&
                strncmp(json_string_value(value), "CU", 2) != 0) {
                text = json_dumps(value, JSON_ENCODE_ANY);
                fputs(text ?: "?", to);
                free(text);
        } else if (json_is_string(value))
                fputs(json_string_value(value), to);
        else if (json_is_integer(value))
                fprintf(to, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        else if (json_is_real(value))
                fprintf(to, "%g", json_real_value(value));
        else if (json_is_array(value)) {
                const json_t *item;
                size_t i;

                fputc('{', to);
                json_array_foreach((json_t *)value, i, item)
                {
                        fputs(i ? ", " : "", to);
                        print_value(to, item);
                }
                fputc('}', to);
        } else
                fputs("NULL", to);
}

static void print_parameter(FILE *to, const char *name, const json_t *value)
{
        const json_t *pointed = json_object_get(value, "value");

        if (!json_is_object(value)) {
                fprintf(to, "%s=", name);
                print_value(to, value);
        } else if (pointed) {
                fprintf(to,
                        json_is_string(pointed) || json_is_array(pointed) ? "%s=" : "*%s=", name);
                print_value(to, pointed);
                if (json_object_get(value, "left")) {
                        fputs("->", to);
                        print_value(to, json_object_get(value, "left"));
                }
        } else {
                const char *address = json_string_value(json_object_get(value, "address"));
                const json_t *bytes = json_object_get(value, "bytes");

                fprintf(to, "%s=%s", name, address ?: "");
                if (bytes)
                        fprintf(to, "[%" JSON_INTEGER_FORMAT "]", json_integer_value(bytes));
        }
}

static void print_call(FILE *to, const struct trace_parts *parts)
{
        fprintf(to, "%s(", parts->entry->how.symbol);
        for (unsigned i = 0; i < parts->entry->how.count; i++) {
                json_t *value = value_of(parts, i);

                fputs(i ? ", " : "", to);
                print_parameter(to, parts->entry->parameters[i].name, value);
                json_decref(value);
        }
        fputc(')', to);
}

char *trace_call_text(const struct trace_file *file, const struct trace_event *event)
{
        struct trace_parts parts;
        size_t size;
        char *text = NULL;
        FILE *to;

        if (trace_parts(file, event, &parts) < 0)
                return strdup("(a damaged record)");
        to = open_memstream(&text, &size);
        if (!to)
                return NULL;
        print_call(to, &parts);
        fclose(to);
        return text;
}

static void print_words(FILE *to, const char *words, size_t size)
{
        const char *end = words + size;

        for (const char *word = words; word && word < end && *word;
                word += strnlen(word, end - word) + 1)
                fprintf(to, " %.*s", (int)strnlen(word, end - word), word);
        fputc('\n', to);
}

static double seconds(const struct trace_file *file, uint64_t time)
{
        return time >= file->header->began ? (double)(time - file->header->began) / 1e9 : 0;
}

static void show_call(FILE *to, const struct trace_file *file, const struct trace_event *event)
{
        uint64_t end = atomic_load(&((struct trace_record *)event->record)->end);
        struct trace_parts parts;
        char number[16];

        fprintf(to, "%12.6f  %u:%u  ", seconds(file, event->record->begin), event->process,
                event->record->thread);
        if (trace_parts(file, event, &parts) < 0) {
                fputs("(a damaged record)\n", to);
                return;
        }
        print_call(to, &parts);
        if (parts.returned)
                fprintf(to, " = %s  %.3f us\n", trace_result_name(parts.result, number),
                        (double)(end - event->record->begin) / 1e3);
        else
                fputs(" has not returned\n", to);
}

/* What is missing, as a sentence; NULL: nothing is. */
static char *what_is_cut(const struct trace_file *file)
{
        uint64_t lost = atomic_load(&((struct trace_header *)file->header)->lost);
        uint32_t error = file->header->cut_errno;
        char size[FORMAT_SIZE_MAX], *text = NULL;
        int n = 0;

        if (file->header->cut == TRACE_CUT_LIMIT)
                n = asprintf(&text,
                        "the trace is cut: it has reached its limit of %s, and %" PRIu64
                        " later calls are not in it",
                        format_size(size, file->header->limit), lost);
        else if (file->header->cut != TRACE_WHOLE)
                n = asprintf(&text,
                        "the trace is cut: no more could be written (%s), and %" PRIu64
                        " later calls are not in it",
                        strerror((int)(error & 0xfff)), lost);
        else if (lost)
                n = asprintf(&text, "%" PRIu64 " calls are not in the trace", lost);
        return n < 0 ? NULL : text;
}

void trace_show_text(FILE *to, const struct trace_file *file)
{
        _cleanup_free_ char *cut = what_is_cut(file);
        time_t began = (time_t)(file->header->began_realtime / 1000000000u);
        char date[32] = "";
        struct tm tm;

        if (gmtime_r(&began, &tm))
                strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
        fprintf(to, "# cleave %s, %s, %s UTC:", file->header->cleave, file->header->machine, date);
        print_words(to, file->header->command, sizeof(file->header->command));
        fputs("#  seconds  process:thread  call\n", to);
        for (size_t i = 0; i < file->count; i++) {
                const struct trace_event *event = &file->events[i];
                const struct trace_process *process;

                if (event->record->entry != TRACE_ENTRY_PROCESS) {
                        show_call(to, file, event);
                        continue;
                }
                process = trace_find_process(file, event->process);
                if (!process)
                        continue;
                fprintf(to, "# process %u: pid %u", event->process, process->pid);
                if (process->forked_from)
                        fprintf(to, ", forked from process %u", process->forked_from);
                fputc(':', to);
                print_words(to, process->command, sizeof(process->command));
        }
        if (file->unreadable)
                fprintf(to, "# %" PRIu64 " bytes of the trace cannot be read\n", file->unreadable);
        if (cut)
                fprintf(to, "# %s\n", cut);
}

/* -- JSON -------------------------------------------------------------------------------------- */

static json_t *words_array(const char *words, size_t size)
{
        json_t *array = json_array();
        const char *end = words + size;

        for (const char *word = words; word && word < end && *word;
                word += strnlen(word, end - word) + 1)
                json_array_append_new(
                        array, json_stringn(word, strnlen(word, end - word)) ?: json_string("?"));
        return array;
}

static json_t *call_object(const struct trace_file *file, const struct trace_event *event)
{
        uint64_t end = atomic_load(&((struct trace_record *)event->record)->end);
        struct trace_parts parts;
        json_t *object, *parameters, *extras;
        char number[16];

        if (trace_parts(file, event, &parts) < 0)
                return NULL;
        parameters = json_object();
        extras = json_array();
        for (unsigned i = 0; i < parts.entry->how.count; i++)
                json_object_set_new(
                        parameters, parts.entry->parameters[i].name, value_of(&parts, i));
        for (unsigned i = 0; i < parts.extras; i++)
                json_array_append_new(extras, extra_object(&parts, i));
        object = json_pack("{s:s, s:f, s:i, s:i, s:i, s:s, s:o, s:o}", "kind", "call", "seconds",
                seconds(file, event->record->begin), "process", (int)event->process, "pid",
                (int)event->pid, "thread", (int)event->record->thread, "call",
                parts.entry->how.symbol, "parameters", parameters, "extras", extras);
        json_object_set_new(object, "result",
                parts.returned ? json_string(trace_result_name(parts.result, number))
                               : json_null());
        json_object_set_new(object, "nanoseconds",
                parts.returned ? json_integer((json_int_t)(end - event->record->begin))
                               : json_null());
        return object;
}

static json_t *event_object(const struct trace_file *file, const struct trace_event *event)
{
        const struct trace_process *process;

        if (event->record->entry != TRACE_ENTRY_PROCESS)
                return call_object(file, event);
        process = trace_find_process(file, event->process);
        if (!process)
                return NULL;
        return json_pack("{s:s, s:i, s:i, s:i, s:o, s:o}", "kind", "process", "process",
                (int)event->process, "pid", (int)process->pid, "parent", (int)process->parent,
                "forked_from",
                process->forked_from ? json_integer(process->forked_from) : json_null(), "command",
                words_array(process->command, sizeof(process->command)));
}

static int print_object(FILE *to, json_t *object)
{
        int r = object && json_dumpf(object, to, JSON_COMPACT) == 0 && fputc('\n', to) != EOF
                        ? 0
                        : -ENOMEM;

        json_decref(object);
        return r;
}

int trace_show_json(FILE *to, const struct trace_file *file)
{
        _cleanup_free_ char *cut = what_is_cut(file);
        int r;

        r = print_object(to,
                json_pack("{s:s, s:s, s:s, s:s, s:f, s:b, s:s?, s:I, s:I, s:o}", "schema",
                        TRACE_SCHEMA, "kind", "trace", "cleave", file->header->cleave, "machine",
                        file->header->machine, "began", (double)file->header->began_realtime / 1e9,
                        "contents", (int)(file->header->options & TRACE_CONTENTS), "cut", cut,
                        "lost", (json_int_t)file->header->lost, "unreadable_bytes",
                        (json_int_t)file->unreadable, "command",
                        words_array(file->header->command, sizeof(file->header->command))));
        for (size_t i = 0; r == 0 && i < file->count; i++) {
                json_t *object = event_object(file, &file->events[i]);

                if (object)
                        r = print_object(to, object);
        }
        return r;
}
