/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Has a device of VFIO's open without its group: opens it, closes the group and the container, says
 * so and waits to be killed.
 *
 * usage: hold_vfio GROUP ADDRESS
 */
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        char path[64];
        int group, container;

        if (argc != 3)
                return 2;
        snprintf(path, sizeof(path), "/dev/vfio/%s", argv[1]);
        group = open(path, O_RDWR);
        container = open("/dev/vfio/vfio", O_RDWR);
        if (group < 0 || container < 0 || ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) < 0 ||
                ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0 ||
                ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[2]) < 0) {
                perror("hold_vfio");
                return 1;
        }
        close(group);
        close(container);
        puts("held");
        fflush(stdout);
        pause();
        return 0;
}
