/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults on demand: what CLEAVE_SIM_FAULTS asks for, in this process.
 *
 *      fault[,fault...]
 *      oom[:N[+]]              the N-th request for device memory is refused by RM
 *      oom@ENTRY[:N[+]]        the N-th call of an entry returns CUDA_ERROR_OUT_OF_MEMORY
 *      fail=CODE@ENTRY[:N[+]]  the N-th call of an entry returns that CUresult (a number)
 *      slow=TIME@ENTRY         every call of an entry takes that much longer; * is all entries
 *      missing@ENTRY           the entry is not there: cuGetProcAddress does not find it, and a
 *                              direct call returns CUDA_ERROR_NOT_SUPPORTED
 *      context=CODE            a context for which RM refuses memory fails with that CUresult
 *      lost=DEVICE[:N]         the device falls off the bus at this process's N-th call. It is
 *                              lost for every process, until none holds a client any more
 *      foreign=SIZE[@DEVICE]   memory that somebody unseen holds when the machine is first made
 *      user=SLICE[@DEVICE]     somebody unseen uses the MIG instance that begins at that slice
 *      vgpu=STATE[@DEVICE]     the GPU is a vGPU host's, with one that runs and whose licence is in
 *                              that state of NVML's (5: licensed)
 *      vgpu=ecc[@DEVICE]       the GPU is a vGPU host's, and makes no vGPU because its ECC is on
 *      reset@MIG               a change of MIG's mode waits for a reset of the GPU
 *      graphics                this process draws, as a desktop does, and does not compute
 *      release=TIME            how long after this process's death its memory comes back; 20ms
 *      control=TIME            what each call takes that steers channels, not as measured
 *      refuse                  RM lets this process neither steer channels nor read the engine's
 *                              records of context switches
 *
 * N counts from 1 and is 1 when left out; with + all later ones fail too. TIME takes ns, us, ms or
 * s; SIZE takes K, M or G (binary). What is not understood is an error: no device is found.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SIM_MAX_FAULTS 32

/* Reads the variable, once. 0 or -EINVAL, ever the same. */
int sim_faults_load(void);

/* The foreign memory of a device, in bytes. */
uint64_t sim_faults_foreign(int device);
/* Whether an instance that begins at that slice of the device is used by somebody unseen. */
bool sim_faults_user(int device, unsigned slice);
bool sim_faults_reset(void);
/* State of the licence of a device's vGPU, SIM_VGPU_ECC: it has none for its ECC; -1: it is no vGPU
 * host's. */
#define SIM_VGPU_ECC 0x100
int sim_faults_vgpu(int device);
/* What the driver says of a context for which it got no memory: result, CUDA_ERROR_OUT_OF_MEMORY as
 * a rule. */
int sim_faults_context(int result);
bool sim_faults_graphics(void);
/* nanoseconds */
uint64_t sim_faults_release(void);
/* nanoseconds that a steering call takes which was measured to take so many */
uint64_t sim_faults_control(uint64_t measured);
/* Whether this process may not steer channels. */
bool sim_faults_refuse_steering(void);
/* Counts a request for device memory: true if it is to be refused. */
bool sim_faults_refuse_memory(void);
/* Counts a call of an entry. Waits where slowness was asked for. The CUresult to return, 0 for
 * none; *ret_lost: a device that is now lost, else -1. */
int sim_faults_call(const char *entry, int *ret_lost);
bool sim_faults_missing(const char *entry);
/* True if any fault concerns calls. */
bool sim_faults_any_call(void);

/* Sleeps, or spins below 50 us. */
void sim_faults_delay(uint64_t nanoseconds);
