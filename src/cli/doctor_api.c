/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor_api.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/format.h"
#include "cli/daemon.h"
#include "cli/output.h"
#include "cuda_names.h"
#include "proto/page.h"

#define SCHEMA "cleave.doctor.api/1"

/* What the dynamic linker knows of a loaded library's symbols. */
struct symbols {
        const ElfW(Sym) * table;
        const char *strings;
        size_t count;
};

/* The number of symbols by the GNU hash table: the last chain ends with the last symbol. */
static size_t count_by_gnu_hash(const uint32_t *hash)
{
        uint32_t buckets = hash[0], first = hash[1], last = 0;
        const uint32_t *bucket = (const uint32_t *)((const ElfW(Addr) *)(hash + 4) + hash[2]);
        const uint32_t *chain = bucket + buckets;

        for (uint32_t i = 0; i < buckets; i++)
                if (bucket[i] > last)
                        last = bucket[i];
        if (last < first)
                return first;
        while (!(chain[last - first] & 1))
                last++;
        return (size_t)last + 1;
}

static int find_symbols(const struct link_map *map, struct symbols *ret)
{
        struct symbols symbols = {0};

        for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
                /* glibc has relocated these in place */
                const void *at = (const void *)d->d_un.d_ptr;

                if (d->d_tag == DT_SYMTAB)
                        symbols.table = at;
                else if (d->d_tag == DT_STRTAB)
                        symbols.strings = at;
                else if (d->d_tag == DT_GNU_HASH)
                        symbols.count = count_by_gnu_hash(at);
                else if (d->d_tag == DT_HASH && symbols.count == 0)
                        symbols.count = ((const uint32_t *)at)[1];
        }
        if (!symbols.table || !symbols.strings || symbols.count == 0)
                return -ELIBBAD;
        *ret = symbols;
        return 0;
}

/* The name that cuGetProcAddress is asked for, from a symbol's: without _v2 and _ptsz. */
static void base_name(const char *symbol, char *buffer, size_t size)
{
        char *end;

        snprintf(buffer, size, "%s", symbol);
        end = strrchr(buffer, '_');
        if (end && (strcmp(end, "_ptsz") == 0 || strcmp(end, "_ptds") == 0)) {
                *end = 0;
                end = strrchr(buffer, '_');
        }
        if (end && end[1] == 'v' && isdigit((unsigned char)end[2]))
                *end = 0;
}

/* The pids of processes that have looked up that name. */
static json_t *who_looked_up(const json_t *tenants, const char *symbol)
{
        char base[256], id[FORMAT_ID_MAX];
        json_t *pids = json_array(), *tenant, *process, *hash;
        size_t i, k, n;

        base_name(symbol, base, sizeof(base));
        format_id(id, cleave_name_hash(base));
        json_array_foreach((json_t *)tenants, i, tenant)
                json_array_foreach(json_object_get(tenant, "processes"), k, process)
                        json_array_foreach(json_object_get(process, "unknown_entries"), n,
                                hash) if (strcmp(output_text(hash, ""), id) == 0)
                                json_array_append(pids, json_object_get(process, "pid"));
        return pids;
}

/* Tenants of the daemon, if one runs; else NULL. */
static json_t *list_tenants(void)
{
        _cleanup_client_ struct client *client = NULL;
        json_t *result = NULL, *tenants;

        if (daemon_connect(0, &client, NULL, NULL) < 0 ||
                client_call(client, "tenant.list", json_pack("{s:b}", "all", geteuid() == 0),
                        &result, NULL) < 0)
                return NULL;
        tenants = json_incref(json_object_get(result, "tenants"));
        json_decref(result);
        return tenants;
}

static void print_table(const char *path, unsigned entries, const json_t *unknown)
{
        json_t *entry, *pid;
        size_t i, k;

        printf("%s exports %u entries; %zu of them are beyond our description.\n", path, entries,
                json_array_size(unknown));
        json_array_foreach((json_t *)unknown, i, entry)
        {
                json_t *pids = json_object_get(entry, "looked_up_by");

                printf("%s%s", output_text(json_object_get(entry, "name"), ""),
                        json_array_size(pids) ? "  looked up by" : "");
                json_array_foreach(pids, k, pid)
                        printf(" %lld", (long long)json_integer_value(pid));
                printf("\n");
        }
}

int doctor_api(bool json)
{
        void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
        _cleanup_free_ char *path = NULL;
        json_t *unknown = json_array(), *tenants;
        struct link_map *map = NULL;
        struct symbols symbols;
        unsigned entries = 0;
        int r = 0;

        if (!library || dlinfo(library, RTLD_DI_LINKMAP, &map) < 0 ||
                find_symbols(map, &symbols) < 0) {
                fprintf(stderr,
                        "cleave doctor: the driver's libcuda.so.1 cannot be looked at: %s\n",
                        dlerror() ?: "it has no table of symbols");
                json_decref(unknown);
                return CLI_FAILED;
        }
        path = realpath(map->l_name, NULL);
        tenants = list_tenants();
        for (size_t i = 0; i < symbols.count; i++) {
                const ElfW(Sym) *symbol = &symbols.table[i];
                const char *name = symbols.strings + symbol->st_name;

                if (symbol->st_shndx == SHN_UNDEF || ELF64_ST_TYPE(symbol->st_info) != STT_FUNC ||
                        strncmp(name, "cu", 2) != 0 || !isupper((unsigned char)name[2]))
                        continue;
                entries++;
                if (cuda_entry_by_symbol(name) < 0)
                        json_array_append_new(
                                unknown, json_pack("{s:s, s:o}", "name", name, "looked_up_by",
                                                 who_looked_up(tenants, name)));
        }
        if (json) {
                json_t *all = json_pack("{s:s, s:i, s:O}", "library", path ?: map->l_name,
                        "entries", (int)entries, "unknown", unknown);

                r = all ? output_json(all, SCHEMA) : -ENOMEM;
                json_decref(all);
        } else {
                print_table(path ?: map->l_name, entries, unknown);
        }
        json_decref(tenants);
        json_decref(unknown);
        return output_end(r < 0 ? CLI_FAILED : CLI_OK);
}
