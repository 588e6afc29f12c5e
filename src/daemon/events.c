/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <string.h>

#include "base/clock.h"
#include "base/format.h"
#include "base/log.h"
#include "daemon/events.h"

static const struct {
        const char *word;
        int priority; /* in the log */
} kinds[] = {
#define X(identifier, word_) [EVENT_##identifier] = {.word = word_, .priority = LOG_INFO},
        EVENT_KINDS(X)
#undef X
};

const char *event_word(enum event_kind kind)
{
        return kinds[kind].word;
}

/* Some kinds are worth more of an administrator's attention. */
static int log_priority(enum event_kind kind)
{
        switch (kind) {
        case EVENT_OVER_QUOTA:
        case EVENT_STRANGER:
        case EVENT_STRANGER_KILLED:
        case EVENT_PAGE_DAMAGED:
                return LOG_WARNING;
        case EVENT_DEVICE_LOST:
        case EVENT_JOURNAL_FAILED:
                return LOG_ERR;
        case EVENT_PROCESS_JOINED:
        case EVENT_PROCESS_LEFT:
        case EVENT_MEMORY_RETURNED:
        case EVENT_MEMORY_REFUSED:
                return LOG_DEBUG;
        default:
                return LOG_INFO;
        }
}

void events_done(struct events *events)
{
        for (size_t i = 0; i < EVENTS_KEPT; i++)
                json_decref(events->ring[i]);
        memset(events, 0, sizeof(*events));
}

void events_add(struct events *events, enum event_kind kind, struct event_subject subject,
        const char *format, ...)
{
        uint64_t serial = ++events->last;
        char id[FORMAT_ID_MAX], text[512];
        const uid_t *owner = subject.owner;
        va_list arguments;
        json_t *event;
        uid_t uid;

        va_start(arguments, format);
        vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        log_line(log_priority(kind), "%s: %s", event_word(kind), text);

        if (!owner && subject.tenant && events->owner &&
                events->owner(events->userdata, subject.tenant, &uid) == 0)
                owner = &uid;
        event = json_pack("{s:I, s:f, s:s, s:s?, s:s?, s:o, s:o, s:s, s:o}", "serial",
                (json_int_t)serial, "time", (double)clock_usec(CLOCK_REALTIME) / 1e6, "kind",
                event_word(kind), "tenant", subject.tenant ? format_id(id, subject.tenant) : NULL,
                "device", subject.device, "pid",
                subject.pid ? json_integer(subject.pid) : json_null(), "uid",
                owner ? json_integer(*owner) : json_null(), "message", text, "detail",
                subject.detail ?: json_object());
        json_decref(events->ring[serial % EVENTS_KEPT]);
        events->ring[serial % EVENTS_KEPT] = event;
        if (event && events->watcher)
                events->watcher(events->userdata, serial, event);
}

bool event_concerns(json_t *event, uid_t uid)
{
        const json_t *owner = json_object_get(event, "uid");

        return json_is_null(owner) || json_integer_value(owner) == (json_int_t)uid;
}

json_t *events_get(const struct events *events, uint64_t serial)
{
        json_t *event;

        if (serial == 0 || serial > events->last || serial < events_first(events))
                return NULL;
        event = events->ring[serial % EVENTS_KEPT];
        /* after a restart the numbers go on, and the slots of the earlier ones are empty */
        if (!event || (uint64_t)json_integer_value(json_object_get(event, "serial")) != serial)
                return NULL;
        return event;
}

uint64_t events_first(const struct events *events)
{
        return events->last >= EVENTS_KEPT ? events->last - EVENTS_KEPT + 1 : 1;
}
