/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <grp.h>
#include <ini.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "daemon/config.h"

void config_init(struct config *config)
{
        *config = (struct config){
                .audit_policy = AUDIT_REPORT,
                .audit_interval = 200 * USEC_PER_MSEC,
                .audit_tolerance = 16ull << 20,
                .idle_exit = 60 * USEC_PER_SEC,
                .release_after = 10 * USEC_PER_SEC,
                .connections = 1024,
                .cgroups = true,
        };
}

void config_done(struct config *config)
{
        free(config->group);
        free(config->ceilings);
        free(config->nvml);
        free(config->claims);
        config_init(config);
}

struct reader {
        FILE *file;
        const char *path;
        struct config *config;
        unsigned line;
        bool cut; /* the line is longer than the parser takes */
        unsigned errors;
        void (*report)(void *userdata, const char *text);
        void *userdata;
};

static int complain(struct reader *reader, const char *format, ...)
        __attribute__((format(printf, 2, 3)));

static int complain(struct reader *reader, const char *format, ...)
{
        char text[512];
        va_list arguments;
        int head;

        head = snprintf(text, sizeof(text), "%s:%u: ", reader->path, reader->line);
        va_start(arguments, format);
        if (head > 0 && (size_t)head < sizeof(text))
                vsnprintf(text + head, sizeof(text) - (size_t)head, format, arguments);
        va_end(arguments);
        reader->report(reader->userdata, text);
        reader->errors++;
        return -EINVAL;
}

static char *read_line(char *buffer, int size, void *userdata)
{
        struct reader *reader = userdata;
        char *line = fgets(buffer, size, reader->file);
        bool continued = reader->cut;

        if (!line)
                return NULL;
        reader->cut = !strchr(line, '\n') && !feof(reader->file);
        if (!continued)
                reader->line++;
        if (reader->cut && !continued)
                complain(reader, "the line is too long");
        return line;
}

static int set_text(struct reader *reader, char **field, const char *value)
{
        char *copy = strdup(value);

        if (!copy)
                return complain(reader, "out of memory");
        free(*field);
        *field = copy;
        return 0;
}

static int set_absolute(struct reader *reader, char **field, const char *name, const char *value)
{
        if (value[0] != '/')
                return complain(reader, "%s = %s is not an absolute path", name, value);
        return set_text(reader, field, value);
}

static int set_bytes(struct reader *reader, uint64_t *field, const char *name, const char *value)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;

        if (parse_size(value, field, &error) < 0)
                return complain(reader, "%s: %s", name, error_message(&error));
        return 0;
}

static int set_duration(
        struct reader *reader, uint64_t *field, uint64_t least, const char *name, const char *value)
{
        uint64_t usec;

        if (parse_duration(value, &usec) < 0)
                return complain(
                        reader, "%s = %s is not a span of time such as 60s or 200ms", name, value);
        if (usec < least)
                return complain(reader, "%s = %s is too short", name, value);
        *field = usec;
        return 0;
}

static int set_ceiling(
        struct reader *reader, struct ceiling *ceiling, const char *name, const char *value)
{
        _cleanup_error_ struct cleave_error error = CLEAVE_ERROR_NONE;
        uint64_t number;

        if (strcmp(name, "memory") == 0) {
                if (parse_memory_amount(value, &ceiling->memory, &error) < 0)
                        return complain(reader, "memory: %s", error_message(&error));
                ceiling->memory_set = true;
                return 0;
        }
        if (strcmp(name, "tenants") == 0) {
                if (parse_unsigned(value, UINT32_MAX, &number) < 0)
                        return complain(reader, "tenants = %s is not a number", value);
                ceiling->tenants = (uint32_t)number;
                ceiling->tenants_set = true;
                return 0;
        }
        return -ENOENT;
}

static int set_access(struct reader *reader, const char *name, const char *value)
{
        if (strcmp(name, "group") == 0) {
                if (!*value)
                        return complain(reader, "group is empty");
                if (!getgrnam(value))
                        return complain(reader, "group = %s: there is no such group", value);
                return set_text(reader, &reader->config->group, value);
        }
        return set_ceiling(reader, &reader->config->common, name, value);
}

/* Sections [user NAME] and [uid NUMBER]. */
static int set_user(struct reader *reader, const char *section, const char *name, const char *value)
{
        struct config *config = reader->config;
        struct ceiling *larger;
        uint64_t uid;

        if (strncmp(section, "uid ", 4) == 0) {
                if (parse_unsigned(section + 4, UINT32_MAX - 1, &uid) < 0)
                        return complain(reader, "[%s]: not a uid", section);
        } else {
                const struct passwd *user = getpwnam(section + strlen("user "));

                if (!user)
                        return complain(reader, "[%s]: there is no such user", section);
                uid = user->pw_uid;
        }
        for (size_t i = 0; i < config->ceiling_count; i++)
                if (config->ceilings[i].uid == uid)
                        return set_ceiling(reader, &config->ceilings[i], name, value);
        larger = realloc(config->ceilings, (config->ceiling_count + 1) * sizeof(*larger));
        if (!larger)
                return complain(reader, "out of memory");
        config->ceilings = larger;
        larger[config->ceiling_count] = (struct ceiling){.uid = (uid_t)uid};
        return set_ceiling(reader, &larger[config->ceiling_count++], name, value);
}

static int set_audit(struct reader *reader, const char *name, const char *value)
{
        struct config *config = reader->config;

        if (strcmp(name, "policy") == 0) {
                if (strcmp(value, "report") == 0)
                        config->audit_policy = AUDIT_REPORT;
                else if (strcmp(value, "kill") == 0)
                        config->audit_policy = AUDIT_KILL;
                else
                        return complain(reader, "policy = %s: it is report or kill", value);
                return 0;
        }
        if (strcmp(name, "interval") == 0)
                return set_duration(
                        reader, &config->audit_interval, 10 * USEC_PER_MSEC, name, value);
        if (strcmp(name, "tolerance") == 0)
                return set_bytes(reader, &config->audit_tolerance, name, value);
        return -ENOENT;
}

static int set_daemon(struct reader *reader, const char *name, const char *value)
{
        struct config *config = reader->config;
        uint64_t number;

        if (strcmp(name, "idle_exit") == 0) {
                config->idle_exit_set = true;
                return set_duration(reader, &config->idle_exit, 0, name, value);
        }
        if (strcmp(name, "release_after") == 0)
                return set_duration(reader, &config->release_after, 0, name, value);
        if (strcmp(name, "journal_limit") == 0)
                return set_bytes(reader, &config->journal_limit, name, value);
        if (strcmp(name, "claims") == 0)
                return set_absolute(reader, &config->claims, name, value);
        if (strcmp(name, "cgroups") == 0)
                return parse_boolean(value, &config->cgroups) < 0
                               ? complain(reader, "cgroups = %s: it is yes or no", value)
                               : 0;
        if (strcmp(name, "connections") == 0) {
                if (parse_unsigned(value, 65536, &number) < 0 || number == 0)
                        return complain(reader, "connections = %s: it is 1 to 65536", value);
                config->connections = (uint32_t)number;
                return 0;
        }
        return -ENOENT;
}

static int set_device(struct reader *reader, const char *name, const char *value)
{
        struct config *config = reader->config;

        if (strcmp(name, "nvml") == 0)
                return set_absolute(reader, &config->nvml, name, value);
        if (strcmp(name, "compute") == 0) {
                if (strcmp(value, "auto") == 0)
                        config->compute = COMPUTE_AUTO;
                else if (strcmp(value, "gate") == 0)
                        config->compute = COMPUTE_GATE;
                else
                        return complain(reader, "compute = %s: it is auto or gate", value);
                return 0;
        }
        return -ENOENT;
}

static int handle(void *userdata, const char *section, const char *name, const char *value)
{
        struct reader *reader = userdata;
        int r;

        if (strcmp(section, "access") == 0)
                r = set_access(reader, name, value);
        else if (strncmp(section, "user ", 5) == 0 || strncmp(section, "uid ", 4) == 0)
                r = set_user(reader, section, name, value);
        else if (strcmp(section, "audit") == 0)
                r = set_audit(reader, name, value);
        else if (strcmp(section, "daemon") == 0)
                r = set_daemon(reader, name, value);
        else if (strcmp(section, "device") == 0)
                r = set_device(reader, name, value);
        else if (*section == '\0')
                r = complain(reader, "'%s' stands before any section", name);
        else
                r = complain(reader, "there is no section [%s]", section);
        if (r == -ENOENT)
                complain(reader, "[%s] has no '%s'", section, name);
        return 1;
}

int config_read(struct config *config, const char *path,
        void (*report)(void *userdata, const char *text), void *userdata)
{
        _cleanup_fclose_ FILE *file = NULL;
        struct reader reader = {
                .path = path, .config = config, .report = report, .userdata = userdata};
        int bad;

        file = fopen(path, "re");
        if (!file)
                return -errno;
        reader.file = file;
        bad = ini_parse_stream(read_line, &reader, handle, &reader);
        if (bad > 0) {
                reader.line = (unsigned)bad;
                complain(&reader, "not understood: neither a section nor 'name = value'");
        }
        return reader.errors > 0 ? -EINVAL : 0;
}

struct ceiling config_ceiling(const struct config *config, uid_t uid)
{
        struct ceiling ceiling = config->common;

        for (size_t i = 0; i < config->ceiling_count; i++) {
                const struct ceiling *own = &config->ceilings[i];

                if (own->uid != uid)
                        continue;
                if (own->memory_set) {
                        ceiling.memory = own->memory;
                        ceiling.memory_set = true;
                }
                if (own->tenants_set) {
                        ceiling.tenants = own->tenants;
                        ceiling.tenants_set = true;
                }
        }
        ceiling.uid = uid;
        return ceiling;
}
