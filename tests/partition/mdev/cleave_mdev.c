/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Mediated devices of nothing, on the PCI device at `slot` of bus 0, for the tests: two types that
 * share a pool of four units, as vGPU types share a card. They can be opened through VFIO and do
 * nothing else. For Linux 6.1, in a guest; Debian's kernels have mdev but nothing that makes any.
 */
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/vfio.h>

static unsigned int slot = 5;
module_param(slot, uint, 0444);

static atomic_t units = ATOMIC_INIT(4);

struct shell {
        struct vfio_device vfio;
        unsigned int units;
};

static struct mdev_type small = {.sysfs_name = "1", .pretty_name = "TEST CLEAVE-1Q"};
static struct mdev_type large = {.sysfs_name = "2", .pretty_name = "TEST CLEAVE-2Q"};
static struct mdev_type *types[] = {&small, &large};

static unsigned int units_of(const struct mdev_type *type)
{
        return type == &large ? 2 : 1;
}

static int shell_init(struct vfio_device *vfio)
{
        struct mdev_device *mdev = to_mdev_device(vfio->dev);
        struct shell *shell = container_of(vfio, struct shell, vfio);
        unsigned int wanted = units_of(mdev->type);

        if (atomic_sub_return(wanted, &units) < 0) {
                atomic_add(wanted, &units);
                return -ENOSPC;
        }
        shell->units = wanted;
        return 0;
}

static void shell_release(struct vfio_device *vfio)
{
        struct shell *shell = container_of(vfio, struct shell, vfio);

        atomic_add(shell->units, &units);
        vfio_free_device(vfio);
}

static int shell_open(struct vfio_device *vfio)
{
        return 0;
}

static void shell_close(struct vfio_device *vfio)
{
}

static long shell_ioctl(struct vfio_device *vfio, unsigned int command, unsigned long argument)
{
        return -ENOTTY;
}

static const struct vfio_device_ops shell_ops = {
        .name = "cleave-mdev",
        .init = shell_init,
        .release = shell_release,
        .open_device = shell_open,
        .close_device = shell_close,
        .ioctl = shell_ioctl,
};

static int shell_probe(struct mdev_device *mdev)
{
        struct shell *shell = vfio_alloc_device(shell, vfio, &mdev->dev, &shell_ops);
        int r;

        if (IS_ERR(shell))
                return PTR_ERR(shell);
        dev_set_drvdata(&mdev->dev, shell);
        r = vfio_register_emulated_iommu_dev(&shell->vfio);
        if (r)
                vfio_put_device(&shell->vfio);
        return r;
}

static void shell_remove(struct mdev_device *mdev)
{
        struct shell *shell = dev_get_drvdata(&mdev->dev);

        vfio_unregister_group_dev(&shell->vfio);
        vfio_put_device(&shell->vfio);
}

static unsigned int get_available(struct mdev_type *type)
{
        return atomic_read(&units) / units_of(type);
}

static struct mdev_driver shell_driver = {
        .device_api = VFIO_DEVICE_API_PCI_STRING,
        .probe = shell_probe,
        .remove = shell_remove,
        .get_available = get_available,
        .driver =
                {
                        .name = "cleave_mdev",
                        .owner = THIS_MODULE,
                        .mod_name = KBUILD_MODNAME,
                },
};

static struct mdev_parent parent;
static struct pci_dev *pci;

static int __init cleave_mdev_init(void)
{
        int r;

        pci = pci_get_domain_bus_and_slot(0, 0, PCI_DEVFN(slot, 0));
        if (!pci)
                return -ENODEV;
        r = mdev_register_driver(&shell_driver);
        if (!r) {
                r = mdev_register_parent(
                        &parent, &pci->dev, &shell_driver, types, ARRAY_SIZE(types));
                if (r)
                        mdev_unregister_driver(&shell_driver);
        }
        if (r)
                pci_dev_put(pci);
        return r;
}

static void __exit cleave_mdev_exit(void)
{
        mdev_unregister_parent(&parent);
        mdev_unregister_driver(&shell_driver);
        pci_dev_put(pci);
}

module_init(cleave_mdev_init);
module_exit(cleave_mdev_exit);
MODULE_DESCRIPTION("mediated devices of nothing, for tests");
MODULE_LICENSE("Dual MIT/GPL");
