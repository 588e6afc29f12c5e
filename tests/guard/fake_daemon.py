#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A daemon of fifty lines, to test the guard alone: one tenant whose pages it serves to whoever says
hello. `FakeDaemon(directory, {uuid bytes: limit bytes})`; used(), held(slot), set_limit()."""
import mmap
import os
import socket
import struct
import sys
import threading
import time

MAGIC_MESSAGE, MAGIC_GRANT, MAGIC_USAGE = 0x4D564C43, 0x544E415247564C43, 0x4547415355564C43
GRANT_BYTES, SLOT_BYTES, SLOTS, HEAD = 4096, 4096, 4096, 4096
UNIT = 4096
TENANT = 0x1122334455667788


class FakeDaemon:
    def __init__(self, directory, devices, refuse=0):
        self.refuse = refuse
        self.notices = []
        self.hellos = 0
        grant = os.memfd_create("grant")
        usage = os.memfd_create("usage")
        os.ftruncate(grant, GRANT_BYTES)
        os.ftruncate(usage, HEAD + SLOTS * SLOT_BYTES)
        self.grant = mmap.mmap(grant, GRANT_BYTES)
        self.usage = mmap.mmap(usage, HEAD + SLOTS * SLOT_BYTES)
        self.fds = [grant, usage]
        struct.pack_into("<QIIQII", self.grant, 0, MAGIC_GRANT, 1, 1088, TENANT, len(devices), 1)
        for i, (uuid, limit) in enumerate(devices.items()):
            struct.pack_into("<16sQQ", self.grant, 64 + 64 * i, uuid, limit // UNIT, limit // UNIT)
        struct.pack_into("<QIIIIQ", self.usage, 0, MAGIC_USAGE, 1, HEAD + SLOTS * SLOT_BYTES, SLOTS,
                         SLOT_BYTES, TENANT)
        path = os.path.join(directory, "guard.sock")
        if os.path.exists(path):
            os.unlink(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(path)
        self.socket.listen(512)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            peer, _ = self.socket.accept()
            threading.Thread(target=self.session, args=(peer,), daemon=True).start()

    def session(self, peer):
        hello = peer.recv(4096)
        if len(hello) != 80:
            peer.close()
            return
        observer = struct.unpack_from("<I", hello, 24)[0] & 2
        self.hellos += not observer
        if self.refuse:
            peer.send(struct.pack("<IHHIIII", MAGIC_MESSAGE, 1, 3, 24, 0, self.refuse, 0))
            peer.close()
            return
        slot = 0 if observer else self.hellos
        if slot:
            pid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            struct.pack_into("<II", self.usage, HEAD + slot * SLOT_BYTES, 1, pid)
            struct.pack_into("<I", self.usage, 32, slot + 1)
        message = struct.pack("<IHHIIQII", MAGIC_MESSAGE, 1, 2, 32, 0, TENANT, slot, 0)
        socket.send_fds(peer, [message], self.fds)
        while True:
            notice = peer.recv(4096)
            if not notice:
                return
            self.notices.append(struct.unpack("<IHHIIIIQQ", notice)[5:])

    def used(self, device=0):
        return (struct.unpack_from("<Q", self.usage, 128 + 8 * device)[0] >> 36) * UNIT

    def slot(self, index):
        at = HEAD + index * SLOT_BYTES
        held = struct.unpack_from("<16Q", self.usage, at + 40)
        peak = struct.unpack_from("<16Q", self.usage, at + 232)
        charges, refusals, unknown, groups, lost = struct.unpack_from("<QQQII", self.usage, at + 360)
        return {"held": [h * UNIT for h in held], "peak": [p * UNIT for p in peak],
                "charges": charges, "refusals": refusals, "unknown": unknown, "groups": groups,
                "lost": lost}

    def groups(self, index):
        at = HEAD + index * SLOT_BYTES + 480
        out = []
        for i in range(48):
            words = struct.unpack_from("<18I", self.usage, at + 72 * i)
            if words[0]:
                out.append({"handle": words[0], "client": words[1], "device": words[2],
                            "subdevice": words[3], "engine": words[4],
                            "channels": list(words[6:6 + words[5]])})
        return out

    def set_limit(self, limit, device=0):
        struct.pack_into("<Q", self.grant, 64 + 64 * device + 16, limit // UNIT)


def main():
    """fake_daemon.py DIRECTORY UUID LIMIT_MIB: serves until killed, prints what is used on change."""
    uuid = bytes.fromhex(sys.argv[2].replace("GPU-", "").replace("-", ""))
    daemon = FakeDaemon(sys.argv[1], {uuid: int(sys.argv[3]) << 20})
    last = None
    while True:
        now = (daemon.used(), daemon.hellos, len(daemon.notices))
        if now != last:
            print(f"used {now[0] / 2**20:.3f} MiB, hellos {now[1]}, notices {daemon.notices[-1:]}, "
                  f"slot {daemon.slot(max(1, now[1]))['refusals']} refusals, "
                  f"{[(hex(g['handle']), g['engine'], g['device'], len(g['channels'])) for g in daemon.groups(max(1, now[1]))]}",
                  flush=True)
        last = now
        time.sleep(0.002)


if __name__ == "__main__":
    main()
