/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "partition/attach.h"

#define LARGE_BAR (1ull << 30)

struct address {
        unsigned domain, bus, device, function;
};

static struct address address_of(const struct pci_function *f)
{
        struct address a = {0};

        sscanf(f->address, "%x:%x:%x.%u", &a.domain, &a.bus, &a.device, &a.function);
        return a;
}

static uint64_t largest_bar(const struct pci_function *functions, int n)
{
        uint64_t largest = 0;

        for (int i = 0; i < n; i++)
                for (unsigned j = 0; j < PCI_BARS; j++)
                        largest = MAX_OF(largest, functions[i].bar[j]);
        return largest;
}

/* MiB of 64-bit space that the VM's firmware should leave: all BARs, to the next power of two,
 * twice. 0: what it leaves by itself is enough. */
static uint64_t window_mib(const struct pci_function *functions, int n)
{
        uint64_t sum = 0, window = 1ull << 20;

        if (largest_bar(functions, n) < LARGE_BAR)
                return 0;
        for (int i = 0; i < n; i++)
                for (unsigned j = 0; j < PCI_BARS; j++)
                        sum += functions[i].bar[j];
        while (window < sum)
                window *= 2;
        return window * 2 >> 20;
}

static void print_qemu(FILE *out, const struct pci_function *functions, int n)
{
        uint64_t window = window_mib(functions, n);

        fprintf(out, "-device pcie-root-port,id=cleave0,chassis=101,slot=101 \\\n");
        for (int i = 0; i < n; i++)
                fprintf(out, "-device vfio-pci,host=%s,bus=cleave0,addr=0.%d%s%s\n",
                        functions[i].address, i, n > 1 && i == 0 ? ",multifunction=on" : "",
                        i + 1 < n || window || functions->node >= 0 ? " \\" : "");
        if (window)
                fprintf(out, "-fw_cfg name=opt/ovmf/X-PciMmio64Mb,string=%llu%s\n",
                        (unsigned long long)window, functions->node >= 0 ? " \\" : "");
        if (functions->node >= 0)
                fprintf(out,
                        "-object memory-backend-memfd,id=cleavemem,size=MEMORY,hugetlb=on,"
                        "prealloc=on,host-nodes=%d,policy=bind -machine memory-backend=cleavemem\n",
                        functions->node);
}

static void print_libvirt(FILE *out, const struct pci_function *functions, int n, bool managed)
{
        for (int i = 0; i < n; i++) {
                struct address a = address_of(functions + i);

                fprintf(out,
                        "<hostdev mode='subsystem' type='pci' managed='%s'>\n"
                        "  <source>\n"
                        "    <address domain='0x%04x' bus='0x%02x' slot='0x%02x' "
                        "function='0x%u'/>\n"
                        "  </source>\n"
                        "</hostdev>\n",
                        managed ? "yes" : "no", a.domain, a.bus, a.device, a.function);
        }
        if (functions->node < 0)
                return;
        fprintf(out,
                "<memoryBacking><hugepages/><locked/></memoryBacking>\n"
                "<numatune><memory mode='strict' nodeset='%d'/></numatune>\n",
                functions->node);
        if (*functions->cpus)
                fprintf(out, "<!-- processors near it: %s -->\n", functions->cpus);
}

/* Resource and alias names: lower case letters, digits and dashes. */
static void kind_of(const struct pci_function *f, char ret[static 48])
{
        const char *vendor = pci_vendor_name(f->vendor);

        snprintf(ret, 48, "%s-%04x", *vendor ? vendor : "gpu", f->device);
        for (char *p = ret; *p; p++)
                *p = (char)tolower((unsigned char)*p);
}

static void print_kubevirt(FILE *out, const struct pci_function *f)
{
        char kind[48];

        kind_of(f, kind);
        fprintf(out,
                "# KubeVirt custom resource\n"
                "spec:\n"
                "  configuration:\n"
                "    permittedHostDevices:\n"
                "      pciHostDevices:\n"
                "      - pciVendorSelector: \"%04X:%04X\"\n"
                "        resourceName: cleave.dev/%s\n"
                "---\n"
                "# in the virtual machine\n"
                "spec:\n"
                "  domain:\n"
                "    devices:\n"
                "      hostDevices:\n"
                "      - deviceName: cleave.dev/%s\n"
                "        name: gpu0\n",
                f->vendor, f->device, kind, kind);
}

static void print_nova(FILE *out, const struct pci_function *f)
{
        char kind[48];
        const char *type = *f->physical             ? "type-VF"
                           : f->functions_total > 0 ? "type-PF"
                                                    : "type-PCI";

        kind_of(f, kind);
        fprintf(out,
                "# nova.conf of the compute node and of the API\n"
                "[pci]\n"
                "device_spec = { \"address\": \"%s\" }\n"
                "alias = { \"vendor_id\": \"%04x\", \"product_id\": \"%04x\", "
                "\"device_type\": \"%s\", \"name\": \"%s\", \"numa_policy\": \"preferred\" }\n"
                "# the flavor\n"
                "openstack flavor set FLAVOR --property pci_passthrough:alias=%s:1\n",
                f->address, f->vendor, f->device, type, kind, kind);
}

static void print_esxi(FILE *out, const struct pci_function *functions, int n)
{
        uint64_t window = window_mib(functions, n);

        fprintf(out, "For ESXi, with this card in the same slot:\n");
        for (int i = 0; i < n; i++)
                fprintf(out,
                        "%d. Host > Manage > Hardware > PCI Devices: select %s (%04x:%04x) and "
                        "Toggle passthrough; or: esxcli hardware pci pcipassthru set -d %s -e true "
                        "-a\n",
                        i + 1, functions[i].address, functions[i].vendor, functions[i].device,
                        functions[i].address);
        fprintf(out,
                "%d. VM > Edit > Add PCI device (DirectPath I/O), and reserve all of its memory.\n",
                n + 1);
        if (window)
                fprintf(out,
                        "%d. VM > Advanced: pciPassthru.use64bitMMIO = TRUE, "
                        "pciPassthru.64bitMMIOSizeGB = %llu\n",
                        n + 2, (unsigned long long)window / 1024);
}

static void print_hyperv(FILE *out, const struct pci_function *functions, int n)
{
        uint64_t window = MAX_OF(window_mib(functions, n), (uint64_t)1024);

        fprintf(out,
                "# For Hyper-V (Discrete Device Assignment), in PowerShell as administrator\n"
                "$vm = 'NAME'\n"
                "Set-VM $vm -AutomaticStopAction TurnOff\n"
                "Set-VM $vm -GuestControlledCacheTypes $true -LowMemoryMappedIoSpace 3Gb "
                "-HighMemoryMappedIoSpace %lluMb\n",
                (unsigned long long)window);
        for (int i = 0; i < n; i++)
                fprintf(out,
                        "$d = Get-PnpDevice -PresentOnly | Where-Object { $_.InstanceId -like "
                        "'PCI\\VEN_%04X&DEV_%04X*' }\n"
                        "Disable-PnpDevice -InstanceId $d[0].InstanceId -Confirm:$false\n"
                        "$p = ($d[0] | Get-PnpDeviceProperty "
                        "DEVPKEY_Device_LocationPaths).Data[0]\n"
                        "Dismount-VMHostAssignableDevice -Force -LocationPath $p\n"
                        "Add-VMAssignableDevice -VMName $vm -LocationPath $p\n",
                        functions[i].vendor, functions[i].device);
}

int attach_print_functions(FILE *out, const struct host *host, const struct pci_function *functions,
        int n, bool managed, enum technique_form form, struct cleave_error *error)
{
        switch (form) {
        case FORM_QEMU:
                print_qemu(out, functions, n);
                return 0;
        case FORM_LIBVIRT:
                print_libvirt(out, functions, n, managed);
                return 0;
        case FORM_KUBEVIRT:
                print_kubevirt(out, functions);
                return 0;
        case FORM_NOVA:
                print_nova(out, functions);
                return 0;
        case FORM_ESXI:
                print_esxi(out, functions, n);
                return 0;
        case FORM_HYPERV:
                print_hyperv(out, functions, n);
                return 0;
        default:
                return error_set(error, CLEAVE_REASON_BAD_REQUEST, "there is no such form");
        }
}

int attach_vgpu_elsewhere(struct cleave_error *error)
{
        error_set(error, CLEAVE_REASON_BAD_REQUEST,
                "vGPUs are made so on Linux only: ESXi and Hyper-V make them by the vendor's own "
                "host software");
        error_set_hint(error,
                "On vSphere the vGPU profile is chosen in the VM's settings, with the host's "
                "graphics set to Shared Direct; on Citrix in the VM's or the pool's.");
        return -EINVAL;
}

int attach_print_mediated(FILE *out, const char *uuid, const char *type, const char *name,
        enum technique_form form, struct cleave_error *error)
{
        switch (form) {
        case FORM_QEMU:
                fprintf(out, "-device vfio-pci,sysfsdev=/sys/bus/mdev/devices/%s,display=off\n",
                        uuid);
                return 0;
        case FORM_LIBVIRT:
                fprintf(out,
                        "<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci' "
                        "display='off'>\n"
                        "  <source>\n"
                        "    <address uuid='%s'/>\n"
                        "  </source>\n"
                        "</hostdev>\n",
                        uuid);
                return 0;
        case FORM_KUBEVIRT:
                fprintf(out,
                        "spec:\n"
                        "  configuration:\n"
                        "    permittedHostDevices:\n"
                        "      mediatedDevices:\n"
                        "      - mdevNameSelector: \"%s\"\n"
                        "        resourceName: cleave.dev/%s\n",
                        name, type);
                return 0;
        case FORM_NOVA:
                fprintf(out,
                        "[devices]\n"
                        "enabled_mdev_types = %s\n"
                        "# the flavor\n"
                        "openstack flavor set FLAVOR --property resources:VGPU=1\n",
                        type);
                return 0;
        default:
                return attach_vgpu_elsewhere(error);
        }
}

json_t *attach_vfio(const char *name, int group)
{
        char node[64];

        snprintf(node, sizeof(node), "/dev/vfio/%d", group);
        return json_pack("{s:s,s:[s,s],s:[],s:[],s:b}", "name", name, "nodes", "/dev/vfio/vfio",
                node, "env", "mounts", "libraries", false);
}

static bool needs_libraries(const json_t *devices)
{
        const json_t *device;
        size_t i;

        json_array_foreach((json_t *)devices, i, device)
        {
                if (json_is_true(json_object_get(device, "libraries")))
                        return true;
        }
        return false;
}

static int print_cdi(FILE *out, const json_t *devices, const json_t *libraries)
{
        json_t *list = json_array(), *device, *item, *spec;
        size_t i, j;
        int r;

        json_array_foreach((json_t *)devices, i, device)
        {
                json_t *nodes = json_array(), *mounts = json_array(), *edits;

                json_array_foreach(json_object_get(device, "nodes"), j, item)
                        json_array_append_new(nodes, json_pack("{s:O}", "path", item));
                json_array_foreach(json_object_get(device, "mounts"), j, item)
                        json_array_append_new(
                                mounts, json_pack("{s:O,s:O,s:[s,s]}", "hostPath", item,
                                                "containerPath", item, "options", "rw", "bind"));
                edits = json_pack("{s:o}", "deviceNodes", nodes);
                if (json_array_size(json_object_get(device, "env")) > 0)
                        json_object_set(edits, "env", json_object_get(device, "env"));
                if (json_array_size(mounts) > 0)
                        json_object_set(edits, "mounts", mounts);
                json_decref(mounts);
                json_array_append_new(
                        list, json_pack("{s:O,s:o}", "name", json_object_get(device, "name"),
                                      "containerEdits", edits));
        }
        spec = json_pack(
                "{s:s,s:s,s:o}", "cdiVersion", "0.3.0", "kind", ATTACH_KIND, "devices", list);
        if (needs_libraries(devices) && json_array_size(libraries) > 0)
                json_object_set_new(
                        spec, "containerEdits", json_pack("{s:O}", "mounts", (json_t *)libraries));
        r = json_dumpf(spec, out, JSON_INDENT(2));
        fputc('\n', out);
        json_decref(spec);
        return r < 0 ? -EIO : 0;
}

static void print_podman(FILE *out, const json_t *devices, const json_t *libraries)
{
        const json_t *device, *item;
        size_t i, j;

        json_array_foreach((json_t *)devices, i, device)
        {
                if (json_array_size(devices) > 1)
                        fprintf(out, "# %s\n", json_string_value(json_object_get(device, "name")));
                json_array_foreach(json_object_get(device, "nodes"), j, item)
                        fprintf(out, "--device=%s\n", json_string_value(item));
                json_array_foreach(json_object_get(device, "env"), j, item)
                        fprintf(out, "--env=%s\n", json_string_value(item));
                json_array_foreach(json_object_get(device, "mounts"), j, item) fprintf(
                        out, "--volume=%s:%s\n", json_string_value(item), json_string_value(item));
                if (!json_is_true(json_object_get(device, "libraries")))
                        continue;
                json_array_foreach((json_t *)libraries, j, item) fprintf(out, "--volume=%s:%s:ro\n",
                        json_string_value(json_object_get(item, "hostPath")),
                        json_string_value(json_object_get(item, "containerPath")));
        }
}

static void print_pod(FILE *out, const json_t *devices)
{
        const json_t *device;
        size_t i;

        fprintf(out,
                "# On the node: cleave partition show ID --for cdi > "
                "/etc/cdi/cleave-partition.json\n"
                "# (containerd 1.7 or later with enable_cdi, or CRI-O). In the pod, one of:\n");
        json_array_foreach((json_t *)devices, i, device) fprintf(out,
                "metadata:\n"
                "  annotations:\n"
                "    cdi.k8s.io/cleave: \"" ATTACH_KIND "=%s\"\n",
                json_string_value(json_object_get(device, "name")));
}

int attach_print_container(FILE *out, const json_t *devices, const json_t *libraries,
        enum technique_form form, struct cleave_error *error)
{
        if (json_array_size(devices) == 0)
                return error_set(error, CLEAVE_REASON_NO_SUCH_DEVICE,
                        "nothing of it is there for a container");
        if (form == FORM_CDI)
                return print_cdi(out, devices, libraries);
        if (form == FORM_PODMAN)
                print_podman(out, devices, libraries);
        else
                print_pod(out, devices);
        return 0;
}
