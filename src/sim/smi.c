/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvidia-smi of the simulated GPU, as the real driver brings one along: what NVML says of the GPUs
 * and of who uses them, for people as a table and for scripts as CSV, in the words and columns of
 * the real one. That one asks NVML by private tables, so it cannot run here; this one asks by
 * public entries only, of the libnvidia-ml.so.1 that the linker finds: in a tenant that is the
 * guard.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/time.h>
#include <time.h>

#include "nvml_api.h"

#define GPUS_MAX      64
#define PROCESSES_MAX 1024
#define COLUMNS_MAX   64
#define TEXT_MAX      128
#define WIDTH         87 /* of the table, inside */

/* Exit statuses of the real one, as its manual has them. */
enum {
        EXIT_BAD_ARGUMENT = 2,
        EXIT_NO_DEVICE = 6,
        EXIT_NO_DRIVER = 9,
        EXIT_NO_LIBRARY = 12,
};

#define FUNCTIONS(X)                                                                               \
        X(nvmlInit_v2)                                                                             \
        X(nvmlShutdown)                                                                            \
        X(nvmlErrorString)                                                                         \
        X(nvmlSystemGetDriverVersion)                                                              \
        X(nvmlSystemGetCudaDriverVersion_v2)                                                       \
        X(nvmlSystemGetProcessName)                                                                \
        X(nvmlDeviceGetCount_v2)                                                                   \
        X(nvmlDeviceGetHandleByIndex_v2)                                                           \
        X(nvmlDeviceGetName)                                                                       \
        X(nvmlDeviceGetUUID)                                                                       \
        X(nvmlDeviceGetSerial)                                                                     \
        X(nvmlDeviceGetVbiosVersion)                                                               \
        X(nvmlDeviceGetPciInfo_v3)                                                                 \
        X(nvmlDeviceGetMemoryInfo_v2)                                                              \
        X(nvmlDeviceGetUtilizationRates)                                                           \
        X(nvmlDeviceGetTemperature)                                                                \
        X(nvmlDeviceGetPowerUsage)                                                                 \
        X(nvmlDeviceGetEnforcedPowerLimit)                                                         \
        X(nvmlDeviceGetPerformanceState)                                                           \
        X(nvmlDeviceGetPersistenceMode)                                                            \
        X(nvmlDeviceGetComputeMode)                                                                \
        X(nvmlDeviceGetEccMode)                                                                    \
        X(nvmlDeviceGetMigMode)                                                                    \
        X(nvmlDeviceGetCudaComputeCapability)                                                      \
        X(nvmlDeviceGetClockInfo)                                                                  \
        X(nvmlDeviceGetMaxClockInfo)                                                               \
        X(nvmlDeviceGetCurrPcieLinkGeneration)                                                     \
        X(nvmlDeviceGetCurrPcieLinkWidth)                                                          \
        X(nvmlDeviceGetComputeRunningProcesses_v3)                                                 \
        X(nvmlDeviceGetGraphicsRunningProcesses_v3)                                                \
        X(nvmlDeviceGetMaxMigDeviceCount)                                                          \
        X(nvmlDeviceGetMigDeviceHandleByIndex)                                                     \
        X(nvmlDeviceGetGpuInstanceId)                                                              \
        X(nvmlDeviceGetComputeInstanceId)

static struct {
#define X(name) __typeof__(&name) name;
        FUNCTIONS(X)
#undef X
} nvml;

struct gpu {
        unsigned int index;
        nvmlDevice_t device;
};

struct process {
        const struct gpu *gpu;
        nvmlProcessInfo_t info;
        char type; /* C or G */
};

static struct gpu gpus[GPUS_MAX];
static unsigned int n_gpus;
static struct process processes[PROCESSES_MAX];
static unsigned int n_processes;

static void give_up(int status, const char *format, ...)
        __attribute__((format(printf, 2, 3), noreturn));
static void give_up(int status, const char *format, ...)
{
        va_list list;

        va_start(list, format);
        vfprintf(stdout, format, list);
        va_end(list);
        putchar('\n');
        exit(status);
}

/* ---- what can be asked: into text, false where NVML does not say ---- */

static bool put(char *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool put(char *text, const char *format, ...)
{
        va_list list;

        va_start(list, format);
        vsnprintf(text, TEXT_MAX, format, list);
        va_end(list);
        return true;
}

static bool get_index(const struct gpu *gpu, char *text)
{
        return put(text, "%u", gpu->index);
}

static bool get_name(const struct gpu *gpu, char *text)
{
        return nvml.nvmlDeviceGetName(gpu->device, text, TEXT_MAX) == NVML_SUCCESS;
}

static bool get_uuid(const struct gpu *gpu, char *text)
{
        return nvml.nvmlDeviceGetUUID(gpu->device, text, TEXT_MAX) == NVML_SUCCESS;
}

static bool get_serial(const struct gpu *gpu, char *text)
{
        return nvml.nvmlDeviceGetSerial(gpu->device, text, TEXT_MAX) == NVML_SUCCESS;
}

static bool get_vbios(const struct gpu *gpu, char *text)
{
        return nvml.nvmlDeviceGetVbiosVersion(gpu->device, text, TEXT_MAX) == NVML_SUCCESS;
}

static bool get_bus(const struct gpu *gpu, char *text)
{
        nvmlPciInfo_t pci;

        return nvml.nvmlDeviceGetPciInfo_v3(gpu->device, &pci) == NVML_SUCCESS &&
               put(text, "%.32s", pci.busId);
}

static bool get_driver(const struct gpu *gpu, char *text)
{
        return nvml.nvmlSystemGetDriverVersion(text, TEXT_MAX) == NVML_SUCCESS;
}

static bool get_time(const struct gpu *gpu, char *text)
{
        struct timeval now;
        char seconds[32];
        struct tm local;

        gettimeofday(&now, NULL);
        localtime_r(&now.tv_sec, &local);
        strftime(seconds, sizeof(seconds), "%Y/%m/%d %H:%M:%S", &local);
        return put(text, "%s.%03u", seconds, (unsigned)(now.tv_usec / 1000));
}

static bool get_memory(const struct gpu *gpu, nvmlMemory_v2_t *ret)
{
        *ret = (nvmlMemory_v2_t){.version = nvmlMemory_v2};
        return nvml.nvmlDeviceGetMemoryInfo_v2(gpu->device, ret) == NVML_SUCCESS;
}

#define MEMORY(name, field)                                                                        \
        static bool name(const struct gpu *gpu, char *text)                                        \
        {                                                                                          \
                nvmlMemory_v2_t memory;                                                            \
                                                                                                   \
                return get_memory(gpu, &memory) && put(text, "%llu", memory.field >> 20);          \
        }
MEMORY(get_memory_total, total)
MEMORY(get_memory_reserved, reserved)
MEMORY(get_memory_used, used)
MEMORY(get_memory_free, free)

static bool get_busy(const struct gpu *gpu, char *text)
{
        nvmlUtilization_t busy;

        return nvml.nvmlDeviceGetUtilizationRates(gpu->device, &busy) == NVML_SUCCESS &&
               put(text, "%u", busy.gpu);
}

static bool get_memory_busy(const struct gpu *gpu, char *text)
{
        nvmlUtilization_t busy;

        return nvml.nvmlDeviceGetUtilizationRates(gpu->device, &busy) == NVML_SUCCESS &&
               put(text, "%u", busy.memory);
}

/* From milliwatts. */
static bool get_power(const struct gpu *gpu, char *text)
{
        unsigned int value;

        return nvml.nvmlDeviceGetPowerUsage(gpu->device, &value) == NVML_SUCCESS &&
               put(text, "%.2f", value / 1000.0);
}

static bool get_power_limit(const struct gpu *gpu, char *text)
{
        unsigned int value;

        return nvml.nvmlDeviceGetEnforcedPowerLimit(gpu->device, &value) == NVML_SUCCESS &&
               put(text, "%.2f", value / 1000.0);
}

static bool get_state(const struct gpu *gpu, char *text)
{
        nvmlPstates_t state;

        return nvml.nvmlDeviceGetPerformanceState(gpu->device, &state) == NVML_SUCCESS &&
               put(text, "P%d", (int)state);
}

static bool get_persistence(const struct gpu *gpu, char *text)
{
        nvmlEnableState_t on;

        return nvml.nvmlDeviceGetPersistenceMode(gpu->device, &on) == NVML_SUCCESS &&
               put(text, "%s", on ? "Enabled" : "Disabled");
}

static bool get_compute_mode(const struct gpu *gpu, char *text)
{
        static const char *const names[] = {
                "Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process"};
        nvmlComputeMode_t mode;

        return nvml.nvmlDeviceGetComputeMode(gpu->device, &mode) == NVML_SUCCESS &&
               (unsigned)mode < 4 && put(text, "%s", names[mode]);
}

static bool get_ecc(const struct gpu *gpu, char *text)
{
        nvmlEnableState_t on, pending;

        return nvml.nvmlDeviceGetEccMode(gpu->device, &on, &pending) == NVML_SUCCESS &&
               put(text, "%s", on ? "Enabled" : "Disabled");
}

static bool get_mig(const struct gpu *gpu, char *text)
{
        unsigned int on, pending;

        return nvml.nvmlDeviceGetMigMode(gpu->device, &on, &pending) == NVML_SUCCESS &&
               put(text, "%s", on ? "Enabled" : "Disabled");
}

static bool get_capability(const struct gpu *gpu, char *text)
{
        int major, minor;

        return nvml.nvmlDeviceGetCudaComputeCapability(gpu->device, &major, &minor) ==
                       NVML_SUCCESS &&
               put(text, "%d.%d", major, minor);
}

/* Most is one number. */
#define NUMBER(name, question)                                                                     \
        static bool name(const struct gpu *gpu, char *text)                                        \
        {                                                                                          \
                unsigned int value;                                                                \
                                                                                                   \
                return nvml.question == NVML_SUCCESS && put(text, "%u", value);                    \
        }
NUMBER(get_count, nvmlDeviceGetCount_v2(&value))
NUMBER(get_temperature, nvmlDeviceGetTemperature(gpu->device, NVML_TEMPERATURE_GPU, &value))
NUMBER(get_clock_sm, nvmlDeviceGetClockInfo(gpu->device, NVML_CLOCK_SM, &value))
NUMBER(get_clock_memory, nvmlDeviceGetClockInfo(gpu->device, NVML_CLOCK_MEM, &value))
NUMBER(get_most_sm, nvmlDeviceGetMaxClockInfo(gpu->device, NVML_CLOCK_SM, &value))
NUMBER(get_most_memory, nvmlDeviceGetMaxClockInfo(gpu->device, NVML_CLOCK_MEM, &value))
NUMBER(get_link_generation, nvmlDeviceGetCurrPcieLinkGeneration(gpu->device, &value))
NUMBER(get_link_width, nvmlDeviceGetCurrPcieLinkWidth(gpu->device, &value))

static bool get_pid(const struct process *process, char *text)
{
        return put(text, "%u", process->info.pid);
}

static bool get_process_name(const struct process *process, char *text)
{
        if (nvml.nvmlSystemGetProcessName(process->info.pid, text, TEXT_MAX) != NVML_SUCCESS)
                put(text, "[Not Found]");
        return true;
}

static bool get_process_memory(const struct process *process, char *text)
{
        return process->info.usedGpuMemory != (unsigned long long)NVML_VALUE_NOT_AVAILABLE &&
               put(text, "%llu", process->info.usedGpuMemory >> 20);
}

struct field {
        const char *name, *other; /* NULL: it has one name */
        const char *unit;
        bool (*get)(const struct gpu *gpu, char *text);
        bool (*of)(const struct process *process, char *text); /* in place of get */
};

static const struct field gpu_fields[] = {
        {"timestamp", NULL, NULL, get_time, NULL},
        {"driver_version", NULL, NULL, get_driver, NULL},
        {"count", NULL, NULL, get_count, NULL},
        {"name", "gpu_name", NULL, get_name, NULL},
        {"serial", "gpu_serial", NULL, get_serial, NULL},
        {"uuid", "gpu_uuid", NULL, get_uuid, NULL},
        {"pci.bus_id", "gpu_bus_id", NULL, get_bus, NULL},
        {"pcie.link.gen.current", "pcie.link.gen.gpucurrent", NULL, get_link_generation, NULL},
        {"pcie.link.width.current", NULL, NULL, get_link_width, NULL},
        {"index", NULL, NULL, get_index, NULL},
        {"persistence_mode", NULL, NULL, get_persistence, NULL},
        {"vbios_version", NULL, NULL, get_vbios, NULL},
        {"pstate", NULL, NULL, get_state, NULL},
        {"memory.total", NULL, "MiB", get_memory_total, NULL},
        {"memory.reserved", NULL, "MiB", get_memory_reserved, NULL},
        {"memory.used", NULL, "MiB", get_memory_used, NULL},
        {"memory.free", NULL, "MiB", get_memory_free, NULL},
        {"compute_mode", NULL, NULL, get_compute_mode, NULL},
        {"compute_cap", NULL, NULL, get_capability, NULL},
        {"utilization.gpu", NULL, "%", get_busy, NULL},
        {"utilization.memory", NULL, "%", get_memory_busy, NULL},
        {"ecc.mode.current", NULL, NULL, get_ecc, NULL},
        {"temperature.gpu", NULL, NULL, get_temperature, NULL},
        {"power.draw", NULL, "W", get_power, NULL},
        {"enforced.power.limit", NULL, "W", get_power_limit, NULL},
        {"power.limit", NULL, "W", get_power_limit, NULL},
        {"clocks.current.sm", "clocks.sm", "MHz", get_clock_sm, NULL},
        {"clocks.current.memory", "clocks.mem", "MHz", get_clock_memory, NULL},
        {"clocks.max.sm", NULL, "MHz", get_most_sm, NULL},
        {"clocks.max.memory", "clocks.max.mem", "MHz", get_most_memory, NULL},
        {"mig.mode.current", NULL, NULL, get_mig, NULL},
        {0},
};

static const struct field process_fields[] = {
        {"timestamp", NULL, NULL, get_time, NULL},
        {"gpu_name", NULL, NULL, get_name, NULL},
        {"gpu_bus_id", NULL, NULL, get_bus, NULL},
        {"gpu_serial", NULL, NULL, get_serial, NULL},
        {"gpu_uuid", NULL, NULL, get_uuid, NULL},
        {"pid", NULL, NULL, NULL, get_pid},
        {"process_name", "name", NULL, NULL, get_process_name},
        {"used_gpu_memory", "used_memory", "MiB", NULL, get_process_memory},
        {0},
};

/* ---- finding all of it ---- */

static void load(void)
{
        void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
        nvmlReturn_t r;

        if (!library)
                give_up(EXIT_NO_LIBRARY,
                        "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system: %s",
                        dlerror());
#define X(name)                                                                                    \
        nvml.name = (__typeof__(&name))dlsym(library, #name);                                      \
        if (!nvml.name)                                                                            \
                give_up(EXIT_NO_LIBRARY, "libnvidia-ml.so.1 has no %s", #name);
        FUNCTIONS(X)
#undef X
        r = nvml.nvmlInit_v2();
        if (r != NVML_SUCCESS)
                give_up(EXIT_NO_DRIVER, "Failed to initialize NVML: %s", nvml.nvmlErrorString(r));
}

/* Whether it is one of a list of indices, UUIDs and addresses; NULL: of all. */
static bool is_wanted(const struct gpu *gpu, const char *list)
{
        char names[3][TEXT_MAX] = {"", "", ""};
        size_t length;

        if (!list)
                return true;
        get_index(gpu, names[0]);
        get_uuid(gpu, names[1]);
        get_bus(gpu, names[2]);
        for (; *list; list += length + (list[length] == ',')) {
                length = strcspn(list, ",");
                for (unsigned i = 0; i < 3 && length > 0; i++) {
                        size_t whole = strlen(names[i]);

                        /* the domain of an address may be shorter, or left out */
                        if (i == 2 && length < whole && length >= strlen("00:00.0"))
                                whole = length;
                        if (whole == length &&
                                strncasecmp(names[i] + strlen(names[i]) - whole, list, length) == 0)
                                return true;
                }
        }
        return false;
}

static void find_gpus(const char *list)
{
        unsigned int n = 0;
        nvmlReturn_t r = nvml.nvmlDeviceGetCount_v2(&n);

        if (r != NVML_SUCCESS)
                give_up(EXIT_NO_DRIVER, "Unable to count the GPUs: %s", nvml.nvmlErrorString(r));
        for (unsigned int i = 0; i < n && n_gpus < GPUS_MAX; i++) {
                struct gpu *gpu = gpus + n_gpus;

                gpu->index = i;
                r = nvml.nvmlDeviceGetHandleByIndex_v2(i, &gpu->device);
                if (r != NVML_SUCCESS)
                        give_up(EXIT_NO_DEVICE,
                                "Unable to determine the device handle for GPU %u: %s", i,
                                nvml.nvmlErrorString(r));
                n_gpus += is_wanted(gpu, list);
        }
        if (n_gpus == 0)
                give_up(EXIT_NO_DEVICE, "No devices were found");
}

static void add_processes(const struct gpu *gpu, char type)
{
        static nvmlProcessInfo_t list[PROCESSES_MAX];
        unsigned int n = PROCESSES_MAX;
        nvmlReturn_t r =
                type == 'C' ? nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu->device, &n, list)
                            : nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(gpu->device, &n, list);

        for (unsigned int i = 0; r == NVML_SUCCESS && i < n && n_processes < PROCESSES_MAX; i++)
                processes[n_processes++] = (struct process){gpu, list[i], type};
}

/* ---- as CSV ---- */

struct csv {
        const struct field *columns[COLUMNS_MAX];
        unsigned int n;
        bool header, units;
};

static void parse_columns(struct csv *csv, const struct field *known, char *list)
{
        char *name, *rest = list;

        while ((name = strsep(&rest, ","))) {
                const struct field *field = known;

                while (field->name && strcmp(field->name, name) != 0 &&
                        (!field->other || strcmp(field->other, name) != 0))
                        field++;
                if (!field->name)
                        give_up(EXIT_BAD_ARGUMENT, "Field \"%s\" is not a valid field to query.",
                                name);
                if (csv->n == COLUMNS_MAX)
                        give_up(EXIT_BAD_ARGUMENT, "More than %d fields are queried.", COLUMNS_MAX);
                csv->columns[csv->n++] = field;
        }
}

static void parse_format(struct csv *csv, char *format)
{
        char *word, *rest = format;
        bool is_csv = false;

        csv->header = csv->units = true;
        while ((word = strsep(&rest, ",")))
                if (strcmp(word, "csv") == 0)
                        is_csv = true;
                else if (strcmp(word, "noheader") == 0)
                        csv->header = false;
                else if (strcmp(word, "nounits") == 0)
                        csv->units = false;
                else
                        give_up(EXIT_BAD_ARGUMENT,
                                "Format \"%s\" is not known: csv, noheader and "
                                "nounits are.",
                                word);
        if (!is_csv)
                give_up(EXIT_BAD_ARGUMENT, "The only format of a query is csv.");
}

static void print_line(
        const struct csv *csv, const struct gpu *gpu, const struct process *process, bool header)
{
        for (unsigned int i = 0; i < csv->n; i++) {
                const struct field *field = csv->columns[i];
                char text[TEXT_MAX];

                fputs(i ? ", " : "", stdout);
                if (header) {
                        printf(field->unit ? "%s [%s]" : "%s", field->name, field->unit);
                        continue;
                }
                if (field->of ? field->of(process, text) : field->get(gpu, text))
                        printf(field->unit && csv->units ? "%s %s" : "%s", text, field->unit);
                else
                        fputs("[N/A]", stdout);
        }
        putchar('\n');
}

static void print_csv(const struct csv *csv, bool of_processes)
{
        if (csv->header)
                print_line(csv, NULL, NULL, true);
        for (unsigned int i = 0; of_processes && i < n_processes; i++)
                if (processes[i].type == 'C')
                        print_line(csv, processes[i].gpu, processes + i, false);
        for (unsigned int i = 0; !of_processes && i < n_gpus; i++)
                print_line(csv, gpus + i, NULL, false);
}

/* ---- for people ---- */

/* The text, or what stands for one that NVML does not give. */
static const char *text_of(bool (*get)(const struct gpu *, char *), const struct gpu *gpu,
        const char *otherwise, char *text)
{
        return get(gpu, text) ? text : otherwise;
}

static void print_rule(const char *corners, char dash)
{
        /* three columns, or one where the corners between are dashes */
        for (unsigned int i = 0; i < WIDTH + 4; i++)
                putchar(i == 0           ? corners[0]
                        : i == WIDTH + 3 ? corners[3]
                        : i == 42        ? corners[1]
                        : i == 67        ? corners[2]
                                         : dash);
        putchar('\n');
}

static void print_row(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void print_row(const char *format, ...)
{
        char text[512];
        va_list list;

        va_start(list, format);
        vsnprintf(text, sizeof(text), format, list);
        va_end(list);
        printf("| %-*.*s |\n", WIDTH, WIDTH, text);
}

static void print_cells(const char *left, const char *middle, const char *right)
{
        printf("| %-39.39s | %-22.22s | %-20.20s |\n", left, middle, right);
}

static void print_gpu(const struct gpu *gpu)
{
        char text[8][TEXT_MAX], left[256], middle[256], right[256];
        nvmlMemory_v2_t memory;

        snprintf(left, sizeof(left), "%3u  %-30.30s%3s ", gpu->index,
                text_of(get_name, gpu, "[N/A]", text[0]),
                !get_persistence(gpu, text[1])    ? "N/A"
                : strcmp(text[1], "Enabled") == 0 ? "On"
                                                  : "Off");
        snprintf(middle, sizeof(middle), "%-16s   N/A", text_of(get_bus, gpu, "N/A", text[2]));
        snprintf(right, sizeof(right), "%20s", "N/A");
        print_cells(left, middle, right);
        for (unsigned int i = 0; i < 2; i++)
                if ((i ? get_power_limit : get_power)(gpu, text[i]))
                        put(text[2 + i], "%.0fW", atof(text[i]));
                else
                        put(text[2 + i], "N/A");
        if (get_temperature(gpu, text[0]))
                strcat(text[0], "C");
        else
                put(text[0], "N/A");
        snprintf(left, sizeof(left), "%-4s %4s   %-4s  %12.12s / %6.6s", "N/A", text[0],
                text_of(get_state, gpu, "N/A", text[1]), text[2], text[3]);
        if (get_memory(gpu, &memory))
                snprintf(middle, sizeof(middle), "%7lluMiB / %6lluMiB", memory.used >> 20,
                        memory.total >> 20);
        else
                snprintf(middle, sizeof(middle), "%22s", "N/A");
        if (get_busy(gpu, text[4]))
                strcat(text[4], "%");
        else
                put(text[4], "N/A");
        if (!get_compute_mode(gpu, text[5]))
                put(text[5], "N/A");
        snprintf(right, sizeof(right), "%7s %12.12s", text[4],
                strcmp(text[5], "Exclusive_Process") == 0 ? "E. Process" : text[5]);
        print_cells(left, middle, right);
        snprintf(right, sizeof(right), "%20s", text_of(get_mig, gpu, "N/A", text[6]));
        print_cells("", "", right);
        print_rule("++++", '-');
}

/* The MIG devices of a GPU, each with its number, by each(); how many. */
static unsigned int for_mig(const struct gpu *gpu,
        void (*each)(const struct gpu *gpu, unsigned int index, const struct gpu *mig))
{
        unsigned int most = 0, n = 0;

        if (nvml.nvmlDeviceGetMaxMigDeviceCount(gpu->device, &most) != NVML_SUCCESS)
                return 0;
        for (unsigned int i = 0; i < most; i++) {
                struct gpu mig = {.index = i};

                /* there are holes */
                if (nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu->device, i, &mig.device) !=
                        NVML_SUCCESS)
                        continue;
                if (each)
                        each(gpu, i, &mig);
                n++;
        }
        return n;
}

static void print_mig(const struct gpu *gpu, unsigned int index, const struct gpu *mig)
{
        unsigned int instance = 0, compute = 0;
        char name[TEXT_MAX];
        nvmlMemory_v2_t memory;

        nvml.nvmlDeviceGetGpuInstanceId(mig->device, &instance);
        nvml.nvmlDeviceGetComputeInstanceId(mig->device, &compute);
        if (!get_memory(mig, &memory))
                memory = (nvmlMemory_v2_t){0};
        print_row("%4u  %4u %4u %4u   %-41.41s %7lluMiB / %6lluMiB", gpu->index, instance, compute,
                index, text_of(get_name, mig, "[N/A]", name), memory.used >> 20,
                memory.total >> 20);
}

static void list_mig(const struct gpu *gpu, unsigned int index, const struct gpu *mig)
{
        char name[TEXT_MAX], uuid[TEXT_MAX], *at;

        text_of(get_name, mig, "[N/A]", name);
        /* "NVIDIA H100 80GB HBM3 MIG 1g.10gb" */
        at = strstr(name, "MIG ");
        printf("  %-15s Device %2u: (UUID: %s)\n", at ? at : name, index,
                text_of(get_uuid, mig, "[N/A]", uuid));
}

static void print_process(const struct process *process)
{
        char name[TEXT_MAX], memory[TEXT_MAX], gpu[16] = "N/A", compute[16] = "N/A";
        size_t length;

        get_process_name(process, name);
        length = strlen(name);
        if (get_process_memory(process, memory))
                strcat(memory, "MiB");
        else
                put(memory, "N/A");
        if (process->info.gpuInstanceId != UINT32_MAX) {
                snprintf(gpu, sizeof(gpu), "%u", process->info.gpuInstanceId);
                snprintf(compute, sizeof(compute), "%u", process->info.computeInstanceId);
        }
        /* of a long name the end says more */
        print_row("%4u  %4s %4s %15u  %5c   %s%-*s %12s", process->gpu->index, gpu, compute,
                process->info.pid, process->type, length > 33 ? "..." : "", length > 33 ? 30 : 33,
                length > 33 ? name + length - 30 : name, memory);
}

static void print_table(void)
{
        char text[64], driver[TEXT_MAX] = "N/A";
        unsigned int instances = 0;
        time_t now = time(NULL);
        struct tm local;
        int cuda = 0;

        get_driver(NULL, driver);
        nvml.nvmlSystemGetCudaDriverVersion_v2(&cuda);
        strftime(text, sizeof(text), "%a %b %e %H:%M:%S %Y", localtime_r(&now, &local));
        printf("%s\n", text);
        print_rule("+--+", '-');
        print_row("%-37sDriver Version: %-14s CUDA Version: %d.%d",
                "Simulated GPU (Cleave " CLEAVE_VERSION ")", driver, cuda / 1000, cuda % 1000 / 10);
        print_rule("++++", '-');
        print_cells("GPU  Name                 Persistence-M", "Bus-Id          Disp.A",
                "Volatile Uncorr. ECC");
        print_cells("Fan  Temp   Perf          Pwr:Usage/Cap", "          Memory-Usage",
                "GPU-Util  Compute M.");
        print_cells("", "", "              MIG M.");
        print_rule("|++|", '=');
        for (unsigned int i = 0; i < n_gpus; i++) {
                print_gpu(gpus + i);
                instances += for_mig(gpus + i, NULL);
        }
        if (instances) {
                printf("\n");
                print_rule("+--+", '-');
                print_row("MIG devices:");
                print_row("%4s  %4s %4s %4s   %-41s %22s", "GPU", "GI", "CI", "Dev", "Name",
                        "Memory-Usage");
                print_rule("|==|", '=');
                for (unsigned int i = 0; i < n_gpus; i++)
                        for_mig(gpus + i, print_mig);
                print_rule("+--+", '-');
        }
        printf("\n");
        print_rule("+--+", '-');
        print_row("Processes:");
        print_row("%4s  %4s %4s %15s  %5s   %-33s %12s", "GPU", "GI", "CI", "PID", "Type",
                "Process name", "GPU Memory");
        print_row("%10s %4s %60s %7s", "ID", "ID", "", "Usage  ");
        print_rule("|==|", '=');
        for (unsigned int i = 0; i < n_processes; i++)
                print_process(processes + i);
        if (n_processes == 0)
                print_row(" No running processes found");
        print_rule("+--+", '-');
}

static void print_list(void)
{
        for (unsigned int i = 0; i < n_gpus; i++) {
                char name[TEXT_MAX], uuid[TEXT_MAX];

                printf("GPU %u: %s (UUID: %s)\n", gpus[i].index,
                        text_of(get_name, gpus + i, "[N/A]", name),
                        text_of(get_uuid, gpus + i, "[N/A]", uuid));
                for_mig(gpus + i, list_mig);
        }
}

/* ---- the command line ---- */

static void print_fields(const struct field *fields)
{
        for (; fields->name; fields++)
                printf(fields->other && strcmp(fields->name, fields->other) ? "\"%s\" or \"%s\"\n"
                                                                            : "\"%s\"\n",
                        fields->name, fields->other);
}

static const char help[] =
        "nvidia-smi of Cleave's simulated GPU\n"
        "\n"
        "nvidia-smi [-i ID]                       a table of GPUs and processes\n"
        "nvidia-smi -L [-i ID]                    the GPUs, a line each\n"
        "nvidia-smi --query-gpu=FIELD,...  --format=csv[,noheader][,nounits] [-i ID]\n"
        "nvidia-smi --query-compute-apps=FIELD,... --format=csv[,noheader][,nounits] [-i ID]\n"
        "nvidia-smi --help-query-gpu, --help-query-compute-apps    the fields\n"
        "\n"
        "ID is an index, a UUID or a bus address, or several with commas between. It asks NVML by\n"
        "public entries only, so in a tenant it shows the tenant's part. Other options of the "
        "real\n"
        "nvidia-smi it has not.";

/* What follows NAME= in the argument or in the next one; NULL: it is another option. */
static char *value_of(char **argv, int *i, const char *name)
{
        size_t length = strlen(name);

        if (strncmp(argv[*i], name, length) != 0)
                return NULL;
        if (argv[*i][length] == '=')
                return argv[*i] + length + 1;
        if (argv[*i][length])
                return NULL;
        if (!argv[*i + 1])
                give_up(EXIT_BAD_ARGUMENT, "Option \"%s\" lacks its value.", name);
        return argv[++*i];
}

int main(int argc, char **argv)
{
        const char *ids = NULL;
        char *fields = NULL, *format = NULL;
        bool list = false, of_processes = false;
        struct csv csv = {.n = 0};

        for (int i = 1; i < argc; i++) {
                char *value;

                if (strcmp(argv[i], "-L") == 0 || strcmp(argv[i], "--list-gpus") == 0)
                        list = true;
                else if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0)
                        give_up(0, "%s", help);
                else if (strcmp(argv[i], "--help-query-gpu") == 0 ||
                         strcmp(argv[i], "--help-query-compute-apps") == 0) {
                        print_fields(strstr(argv[i], "-gpu") ? gpu_fields : process_fields);
                        return 0;
                } else if ((value = value_of(argv, &i, "-i")) ||
                           (value = value_of(argv, &i, "--id")))
                        ids = value;
                else if ((value = value_of(argv, &i, "--format")))
                        format = value;
                else if ((value = value_of(argv, &i, "--query-gpu"))) {
                        fields = value;
                        of_processes = false;
                } else if ((value = value_of(argv, &i, "--query-compute-apps"))) {
                        fields = value;
                        of_processes = true;
                } else
                        give_up(EXIT_BAD_ARGUMENT,
                                "Option \"%s\" is not known to the simulated GPU's nvidia-smi; "
                                "those of 'nvidia-smi -h' are.",
                                argv[i]);
        }
        if (fields && !format)
                give_up(EXIT_BAD_ARGUMENT, "A query needs --format=csv, or csv with noheader and "
                                           "nounits after commas.");
        if (!fields && format)
                give_up(EXIT_BAD_ARGUMENT, "--format is for a query.");
        if (fields && list)
                give_up(EXIT_BAD_ARGUMENT, "-L and a query are two commands.");
        if (fields) {
                parse_columns(&csv, of_processes ? process_fields : gpu_fields, fields);
                parse_format(&csv, format);
        }
        load();
        find_gpus(ids);
        for (unsigned int i = 0; i < n_gpus; i++) {
                add_processes(gpus + i, 'C');
                add_processes(gpus + i, 'G');
        }
        if (fields)
                print_csv(&csv, of_processes);
        else if (list)
                print_list();
        else
                print_table();
        nvml.nvmlShutdown();
        return fflush(stdout) == 0 ? 0 : 1;
}
