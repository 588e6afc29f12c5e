/* SPDX-License-Identifier: Apache-2.0 */
/* AMD Instinct: how many devices a GPU shows itself as (SPX, DPX, QPX, CPX) and how its memory is
 * split among them (NPS1, NPS4). Needs an idle GPU. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "partition/passthrough.h"

static const struct {
        const char *kind, *current, *available;
} modes[] = {
        {"compute", "current_compute_partition", "available_compute_partition"},
        {"memory", "current_memory_partition", "available_memory_partition"},
};

static bool concerns(const struct host *host, const struct pci_function *f)
{
        return f->vendor == PCI_VENDOR_AMD &&
               host_exists(host, "bus/pci/devices/%s/%s", f->address, modes[0].current);
}

static void offers(
        const struct host *host, const struct pci_function *f, char ret[static HOST_TEXT_MAX])
{
        char current[HOST_TEXT_MAX], available[HOST_TEXT_MAX];
        size_t used = 0;

        ret[0] = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(modes) && used < HOST_TEXT_MAX; i++) {
                host_read(host, current, "bus/pci/devices/%s/%s", f->address, modes[i].current);
                host_read(host, available, "bus/pci/devices/%s/%s", f->address, modes[i].available);
                if (*current)
                        used += (size_t)snprintf(ret + used, HOST_TEXT_MAX - used,
                                "%s%s mode %s of %s", used ? "; " : "", modes[i].kind, current,
                                *available ? available : current);
        }
}

/* Words are separated by commas and blanks. */
static bool has_word(const char *list, const char *word)
{
        size_t length = strlen(word);

        while (*list) {
                size_t n = strcspn(list, ", ");

                if (n == length && strncmp(list, word, n) == 0)
                        return true;
                list += n;
                list += strspn(list, ", ");
        }
        return false;
}

static const char *wanted(const struct technique_ask *ask, size_t mode)
{
        return mode == 0 ? ask->type : ask->memory_mode;
}

static int check(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct obstacles *obstacles)
{
        char available[HOST_TEXT_MAX], path[HOST_PATH_MAX];

        if (!concerns(host, f)) {
                obstacles_add(obstacles, OBSTACLE_NO_PARTITIONS,
                        "%s has no partition modes; AMD's Instinct MI300 and later have",
                        f->address);
                return 0;
        }
        for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
                _cleanup_free_ char *whole = NULL;
                struct stat st;

                snprintf(path, sizeof(path), "bus/pci/devices/%s/%s", f->address, modes[i].current);
                whole = path_join(host->sysfs, path);
                host_read(host, available, "bus/pci/devices/%s/%s", f->address, modes[i].available);
                if (wanted(ask, i) && !has_word(available, wanted(ask, i)))
                        obstacles_add(obstacles, OBSTACLE_NO_TYPE,
                                "%s has no %s mode %s; it has %s", f->address, modes[i].kind,
                                wanted(ask, i), *available ? available : "none to choose from");
                else if (wanted(ask, i) && whole && stat(whole, &st) == 0 && !(st.st_mode & 0222))
                        obstacles_add(obstacles, OBSTACLE_NO_PARTITIONS,
                                "the %s mode of %s is fixed", modes[i].kind, f->address);
        }
        return passthrough_check_use(host, f, 1, false, obstacles);
}

static int plan(const struct host *host, const struct pci_function *f,
        const struct technique_ask *ask, struct change *change, struct cleave_error *error)
{
        if (!ask->type && !ask->memory_mode)
                return error_set(error, CLEAVE_REASON_BAD_REQUEST,
                        "say which mode to set (--type CPX, --memory-mode NPS4)");
        for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
                char path[HOST_PATH_MAX], before[HOST_TEXT_MAX], what[128];
                struct change_step *step;

                if (!wanted(ask, i))
                        continue;
                snprintf(path, sizeof(path), "bus/pci/devices/%s/%s", f->address, modes[i].current);
                host_state(host, path, before);
                snprintf(what, sizeof(what), "set the %s mode of %s to %s", modes[i].kind,
                        f->address, wanted(ask, i));
                step = change_add(change, host, what, path, wanted(ask, i), NULL, NULL);
                if (!step || change_add_undo(step, path, before, path, wanted(ask, i)) < 0)
                        return -ENOMEM;
                json_object_set_new(change->geometry, modes[i].kind, json_string(wanted(ask, i)));
        }
        return 0;
}

static int check_undo(
        const struct host *host, const struct change *change, struct obstacles *obstacles)
{
        struct pci_function f;

        if (pci_read(host, change->device, &f) < 0)
                return 0;
        return passthrough_check_use(host, &f, 1, false, obstacles);
}

/* ROCm's own file, and a render node for each device that the card shows itself as. */
static json_t *attach(
        const struct host *host, const struct change *change, struct cleave_error *error)
{
        _cleanup_names_ struct host_names nodes = {0};
        json_t *list = json_array();
        struct pci_function f;

        if (pci_read(host, change->device, &f) == 0)
                holders_nodes(host, &f, &nodes);
        for (size_t i = 0; i < nodes.n; i++)
                if (strncmp(nodes.name[i], "/dev/dri/renderD", 16) == 0)
                        json_array_append_new(list,
                                json_pack("{s:s,s:[s,s],s:[],s:[],s:b}", "name",
                                        nodes.name[i] + strlen("/dev/dri/"), "nodes", "/dev/kfd",
                                        nodes.name[i], "env", "mounts", "libraries", false));
        return list;
}

const struct technique technique_modes = {
        .name = "modes",
        .title = "partition modes of AMD Instinct",
        .concerns = concerns,
        .offers = offers,
        .check = check,
        .plan = plan,
        .check_undo = check_undo,
        .attach = attach,
};
