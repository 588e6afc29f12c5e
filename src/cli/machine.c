/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "cli/machine.h"
#include "cli/output.h"

#define NAME_WIDTH 14

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
