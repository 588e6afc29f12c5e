#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a program sees of the multiprocessors that it has, as JSON; knows nothing of Cleave. With a
number of contexts, it makes so many and ends them one by one at each line on standard input, or says
what waiting for the current one gives, at "sync". With "runtime", it begins as the CUDA runtime does."""
import ctypes
import json
import sys
import threading

cuda = ctypes.CDLL("libcuda.so.1")
P = ctypes.c_void_p


def must(result, what):
    if result:
        print(json.dumps({"error": result, "what": what}), flush=True)
        sys.exit(1)


def call(name, *arguments):
    must(getattr(cuda, name)(*arguments), name)


def new(name, *arguments):
    value = P()
    call(name, ctypes.byref(value), *arguments)
    return value


def attribute(number):
    value = ctypes.c_int()
    call("cuDeviceGetAttribute", ctypes.byref(value), number, 0)
    return value.value


def resource(name, *arguments):
    room = (ctypes.c_uint * 64)()
    call(name, *arguments, ctypes.byref(room), 1)
    return room


def views():
    primary = new("cuDevicePrimaryCtxRetain", 0)
    seen = {"again": new("cuDevicePrimaryCtxRetain", 0).value == primary.value}
    call("cuDevicePrimaryCtxRelease_v2", 0)
    call("cuCtxSetCurrent", primary)
    seen["current"] = new("cuCtxGetCurrent").value == primary.value
    seen["count"] = attribute(16)
    whole = resource("cuDeviceGetDevResource", 0)
    seen["resource"] = whole[24]
    seen["of the context"] = resource("cuCtxGetDevResource", None)[24]
    # a program that divides the device itself divides its own part
    groups, n, rest = (ctypes.c_uint * (64 * 36))(), ctypes.c_uint(40), (ctypes.c_uint * 64)()
    call("cuDevSmResourceSplitByCount", None, ctypes.byref(n), ctypes.byref(whole), None, 0, 8)
    seen["groups"] = n.value
    affinity = (ctypes.c_uint * 4)()
    call("cuCtxGetExecAffinity", ctypes.byref(affinity), 0)
    seen["affinity"] = affinity[1]
    stream = new("cuStreamCreate", 0)
    context, green = P(), P(1)
    call("cuStreamGetCtx_v2", stream, ctypes.byref(context), ctypes.byref(green))
    seen["stream's"] = context.value == primary.value and not green.value
    call("cuStreamGetGreenCtx", stream, ctypes.byref(green))
    seen["stream's green"] = bool(green.value)
    pointer = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(4096))
    call("cuPointerGetAttribute", ctypes.byref(context), 1, pointer)
    seen["memory's"] = context.value == primary.value
    # a context of its own has the same part, and ends as any other
    made = new("cuCtxCreate_v2", 0, 0)
    seen["made is another"] = made.value != primary.value
    seen["made has"] = resource("cuCtxGetDevResource", made)[24]
    call("cuCtxDestroy_v2", made)
    seen["current after"] = new("cuCtxGetCurrent").value == primary.value
    seen["destroying the primary one"] = cuda.cuCtxDestroy_v2(primary)
    call("cuMemFree_v2", pointer)
    return seen


def runtime():
    """As the CUDA runtime begins: it has the driver's primary context by a table without names, and
    in each thread it makes that current; the first one retains it afterwards."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        path = next(word for word in maps.read().split()
                    if "/libcuda.so" in word and "guard" not in word)
    driver, hidden = ctypes.CDLL(path), P()
    must(driver.cuDevicePrimaryCtxRetain(ctypes.byref(hidden), 0), "the driver's")
    must(driver.cuDevicePrimaryCtxRelease_v2(0), "the driver's")

    def begins(retains):
        call("cuCtxSetCurrent", hidden)
        if retains:
            new("cuDevicePrimaryCtxRetain", 0)
        current = new("cuCtxGetCurrent")
        return current.value, resource("cuCtxGetDevResource", None)[24]

    def in_a_thread():
        seen.append(begins(False))
    seen = [begins(True)]
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    call("cuDevicePrimaryCtxReset_v2", 0)
    after = new("cuCtxGetCurrent").value
    seen.append(begins(True))
    return {"sms": [sms for _, sms in seen], "one context": seen[0][0] == seen[1][0],
            "it is the driver's": seen[0][0] == hidden.value, "after a reset": after}


must(cuda.cuInit(0), "cuInit")
if sys.argv[1:] == ["runtime"]:
    print(json.dumps(runtime()), flush=True)
elif len(sys.argv) > 1:
    contexts = [new("cuCtxCreate_v2", 0, 0) for _ in range(int(sys.argv[1]))]
    print(json.dumps({"count": resource("cuCtxGetDevResource", contexts[-1])[24]}), flush=True)
    for line in sys.stdin:
        if line == "sync\n":
            print(json.dumps({"result": cuda.cuCtxSynchronize()}), flush=True)
            continue
        if contexts:
            call("cuCtxDestroy_v2", contexts.pop())
        print(json.dumps({"left": len(contexts)}), flush=True)
else:
    print(json.dumps(views()), flush=True)
