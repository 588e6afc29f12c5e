# SPDX-License-Identifier: Apache-2.0
"""A double of the daemon's control socket, with fixed answers, for tests of the command line."""
import json
import os
import shutil
import socket
import tempfile
import threading

UUIDS = ["GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000"]
GIB = 1 << 30

DEVICES = [{
    "index": i, "uuid": UUIDS[i], "name": "NVIDIA H100", "vendor": "nvidia", "backend": "sim",
    "pci": f"0000:0{i}:00.0", "memory_total": 40 * GIB, "memory_reserved": 600 << 20,
    "memory_used": 10 * GIB, "granted": (8 if i == 0 else 0) * GIB, "used_by_tenants": 5 * GIB,
    "used_by_others": (0 if i == 0 else 1) * GIB, "claimed_by_others": None,
    "available": (30 + i) * GIB, "state": "ok", "driver_version": "580.159.04",
} for i in range(2)]

TENANT = {
    "id": "0123456789abcdef", "name": "train", "uid": 1000,
    "command": ["python", "a, b", "\""], "pid": 4242, "state": "running", "created": 1600000000.5,
    "sharing": "memory",
    "devices": [{"device": UUIDS[0], "index": 0, "memory": 8 * GIB, "memory_max": 8 * GIB,
                 "memory_used": 5 * GIB + (1 << 29), "memory_peak": 6 * GIB, "memory_returning": 0,
                 "memory_driver": None, "refusals": 3}],
    "processes": [{"pid": 4243, "command": "python a", "slot": 1, "state": "joined",
                   "memory": [5 * GIB], "guard_version": "0.1.0", "driver_version": "580.159.04",
                   "channel_groups": 2, "channels": 9}],
}
HOSTILE = {**TENANT, "id": "fedcba9876543210", "name": "hostile", "state": "waiting",
           "command": ["\033]0;owned\007", "\r\n\t"], "processes": []}

EVENTS = [
    {"serial": 1, "time": 1600000000.25, "kind": "tenant-created", "tenant": TENANT["id"],
     "device": None, "pid": None, "message": "tenant train was created", "detail": {}},
    {"serial": 2, "time": 1600000001.5, "kind": "memory-refused", "tenant": TENANT["id"],
     "device": UUIDS[0], "pid": 4243, "message": "train asked for 4 GiB, beyond its quota",
     "detail": {}},
]


class Refusal(Exception):
    """An error of the protocol: code and message."""


class FakeDaemon:
    """Listens in a directory of its own while the context lasts.

    raw: bytes to answer any request with before hanging up, instead of real answers.
    grant: what tenant.create gives beside the tenant; None: it refuses.
    """

    uuids = UUIDS

    def __init__(self, raw=None, grant=None):
        self.raw = raw
        self.grant = grant
        self.requests = []
        self.connections = []

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="cleave-test-")
        self.listen()
        return self

    def listen(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(self.directory, "control.sock"))
        self.listener.listen(16)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def hang_up(self):
        """As if the daemon had died."""
        os.unlink(os.path.join(self.directory, "control.sock"))
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        shutil.rmtree(self.directory)

    def asked(self, method):
        """Parameters of the last such request, or None."""
        found = [r.get("params") for r in self.requests if r["method"] == method]
        return found[-1] if found else None

    def accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                request = json.loads(line)
                if self.raw is not None:
                    stream.write(self.raw)
                    return
                self.requests.append(request)
                for reply in self.answer(request):
                    stream.write(json.dumps({"id": request["id"], **reply}).encode() + b"\n")
                stream.flush()

    def answer(self, request):
        params = request.get("params") or {}
        if request["method"] == "events.watch":
            for event in EVENTS:
                yield {"event": event}
            yield {"result": {"last": EVENTS[-1]["serial"]}}
            return
        try:
            yield {"result": self.result(request["method"], params)}
        except Refusal as refusal:
            code, message = refusal.args
            yield {"error": {"code": code, "message": message, "hint": None}}

    @staticmethod
    def check(params):
        if params["tenant"] not in (TENANT["id"], TENANT["name"]):
            raise Refusal("no-such-tenant", f"there is no tenant {params['tenant']}")

    def result(self, method, params):
        if method == "daemon.info":
            return {"version": "0.1.0", "pid": os.getpid(), "scope": "user", "backend": "sim",
                    "identity": "process-tree", "warnings": []}
        if method == "device.list":
            return {"devices": DEVICES}
        if method == "tenant.list":
            if params.get("all"):
                raise Refusal("not-permitted", "only root may see the tenants of others")
            return {"tenants": [TENANT, HOSTILE]}
        if method == "tenant.create" and self.grant is not None:
            return {"tenant": TENANT, "secret": "open sesame", "environment": {}, "cgroup": None,
                    "library_path": None, "identity": "process-tree", **self.grant}
        if method in ("tenant.start", "tenant.exit", "tenant.attach"):
            return {}
        if method == "tenant.create":
            if params["name"] and " " in params["name"]:
                raise Refusal("bad-name", f"'{params['name']}' is no name")
            raise Refusal("beyond-device", "500 GiB were asked for, the device has 40 GiB")
        self.check(params)
        if method == "tenant.inspect":
            return TENANT
        if method == "tenant.set":
            if params["devices"][0]["memory"] < TENANT["devices"][0]["memory_used"]:
                raise Refusal("in-use", "train holds 5.5 GiB, so 1 GiB is too little")
            return {"tenant": TENANT}
        if method == "tenant.stop":
            return {}
        raise Refusal("no-such-method", f"there is no method {method}")
