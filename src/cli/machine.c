/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/driver_files.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "partition/attach.h"
#include "proto/environment.h"

#define NAME_WIDTH 14

/* Where the simulated driver's NVML is, beside the program or where it is installed; or NULL. */
static char *simulated_library(void)
{
        static const char *const places[] = {
                "src/sim/libnvidia-ml.so.1", "../lib/cleave/sim/libnvidia-ml.so.1"};
        _cleanup_free_ char *program = NULL;
        char *slash;

        if (own_executable(&program) < 0)
                return NULL;
        slash = strrchr(program, '/');
        if (slash)
                *slash = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
                _cleanup_free_ char *path = path_join(program, places[i]);
                char *real = path ? realpath(path, NULL) : NULL;

                if (real)
                        return real;
        }
        return NULL;
}

void machine_host(
        struct host *ret, const char *sysfs, const char *proc, const char *dev, const char *state)
{
        const char *models = getenv(CLEAVE_ENV_SIM);
        bool simulated = models && *models;
        static struct mig_link *link;

        host_init(ret, sysfs, proc, dev, state);
        if (!link && (simulated || !sysfs)) {
                _cleanup_free_ char *library = simulated ? simulated_library() : NULL;

                if (library || !simulated)
                        link = mig_link_new(library);
        }
        ret->mig = link;
}

bool machine_is_container(enum technique_form form)
{
        return form == FORM_CDI || form == FORM_PODMAN || form == FORM_POD;
}

int machine_show_container(
        const json_t *devices, enum technique_form form, struct cleave_error *error)
{
        json_t *libraries = json_array();
        int r;

        driver_files_libraries(libraries);
        driver_files_companions(libraries);
        r = attach_print_container(stdout, devices, libraries, form, error);
        json_decref(libraries);
        return r;
}

int machine_show(const struct host *host, const struct change *change, enum technique_form form,
        struct cleave_error *error)
{
        const struct technique *technique = technique_find(change->technique);
        json_t *devices;
        int r;

        if (technique && machine_is_container(form) && technique->attach) {
                devices = technique->attach(host, change, error);
                if (!devices)
                        return -EIO;
                r = machine_show_container(devices, form, error);
                json_decref(devices);
                return r;
        }
        if (technique && !machine_is_container(form) && technique->print)
                return technique->print(stdout, host, change, form, error);
        if (technique && technique->attach) {
                error_set(error, CLEAVE_REASON_BAD_REQUEST, "%s is given to containers, not to VMs",
                        change->id);
                error_set_hint(error,
                        "--for cdi, podman or pod. A VM gets a MIG instance as a vGPU only.");
        } else {
                error_set(error, CLEAVE_REASON_BAD_REQUEST, "%s is not given away as a whole",
                        change->id);
                error_set_hint(error, "Its virtual functions are: cleave passthrough attach.");
        }
        return -EINVAL;
}

static void print_obstacle(FILE *out, bool blocks, const char *sentence, const char *hint)
{
        fprintf(out, "%s: %s.%s%s\n", blocks ? "in the way" : "note", sentence, hint ? " " : "",
                hint ?: "");
}

void machine_print_obstacles(FILE *out, const struct obstacles *obstacles)
{
        for (int blocks = 1; blocks >= 0; blocks--)
                for (size_t i = 0; i < obstacles->n; i++)
                        if (obstacle_blocks(obstacles->list[i].code) == blocks)
                                print_obstacle(out, blocks, obstacles->list[i].sentence,
                                        obstacle_hint(obstacles->list[i].code));
}

static void print_technique(const json_t *technique)
{
        const json_t *obstacles = json_object_get(technique, "obstacles"), *item;
        bool ready = json_is_true(json_object_get(technique, "ready"));
        size_t i;

        printf("  %-*s%s%s%s%s\n", NAME_WIDTH, output_text(json_object_get(technique, "name"), ""),
                output_tone(ready ? TONE_GOOD : TONE_WARN), ready ? "ready: " : "not now: ",
                output_text(json_object_get(technique, "offers"), ""), output_tone(TONE_PLAIN));
        json_array_foreach((json_t *)obstacles, i, item)
        {
                printf("  %*s%s%s.%s\n", NAME_WIDTH, "",
                        output_tone(json_is_true(json_object_get(item, "blocks")) ? TONE_PLAIN
                                                                                  : TONE_FAINT),
                        output_text(json_object_get(item, "sentence"), ""),
                        output_tone(TONE_PLAIN));
        }
}

void machine_print_gpus(const json_t *gpus)
{
        const json_t *gpu, *technique;
        size_t i, j;

        json_array_foreach((json_t *)gpus, i, gpu)
        {
                const json_t *techniques = json_object_get(gpu, "techniques");
                const json_t *node = json_object_get(gpu, "numa_node");
                const json_t *group = json_object_get(gpu, "iommu_group");
                const json_t *physical = json_object_get(gpu, "physical_function");
                const char *vendor = json_string_value(json_object_get(gpu, "vendor"));

                printf("%s%s%s%s  %s %s %s, driver %s", i ? "\n" : "", output_tone(TONE_STRONG),
                        output_text(json_object_get(gpu, "address"), ""), output_tone(TONE_PLAIN),
                        vendor ?: "other vendor's", output_text(json_object_get(gpu, "class"), ""),
                        output_text(json_object_get(gpu, "id"), ""),
                        output_text(json_object_get(gpu, "driver"), "none"));
                if (json_is_string(physical))
                        printf(", a virtual function of %s", json_string_value(physical));
                if (json_is_integer(json_object_get(gpu, "memory")))
                        printf(", %s of memory", output_size(json_object_get(gpu, "memory")));
                if (json_is_integer(node))
                        printf(", NUMA node %lld", json_integer_value(node));
                if (json_is_string(json_object_get(gpu, "link_speed")))
                        printf(", PCIe %s x%lld",
                                output_text(json_object_get(gpu, "link_speed"), ""),
                                json_integer_value(json_object_get(gpu, "link_width")));
                if (json_is_integer(group))
                        printf(", IOMMU group %lld", json_integer_value(group));
                putchar('\n');
                json_array_foreach((json_t *)techniques, j, technique) print_technique(technique);
        }
}
