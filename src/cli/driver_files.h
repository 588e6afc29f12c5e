/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's files that a container needs, as mounts of the Container Device Interface: objects
 * with hostPath, containerPath and options. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

/* Where programs find it inside. */
#define DRIVER_FILES_SMI "/usr/bin/nvidia-smi"

/* The file behind the name that a program gives to dlopen, in new memory, or NULL. */
char *driver_file_locate(const char *soname);

void driver_files_mount(json_t *mounts, const char *host, const char *inside, bool writable);
/* A host's file in every directory where it could be looked for. */
void driver_files_library(json_t *mounts, const char *host, const char *name);

/* What the driver's libcuda loads in turn, and the tool that everybody looks with. */
void driver_files_companions(json_t *mounts);
/* libcuda and NVML themselves, under both of their names. */
void driver_files_libraries(json_t *mounts);
