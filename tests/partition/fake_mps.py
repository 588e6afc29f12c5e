#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A double of nvidia-cuda-mps-control: with -d a daemon with its pid file and socket in the pipe
directory, else a client that sends it standard input and prints the answers. With -p 3 the daemon
speaks version 3, as NVIDIA's guide has it: clients send their arguments. In the environment of the
daemon, FAKE_MPS may be: fail (does not start), deaf (takes no limit), hang (never answers a second
question), old (knows no -p), older (takes no notice of -p), full (has as many clients
as a server can have), fault or starting (its server is in that state), kill=N (whoever runs it is
killed at the N-th such point: before and after each answer)."""
import os
import signal
import socket
import sys

PIPE = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
SOCKET = os.path.join(PIPE, "control")
PID_FILE = os.path.join(PIPE, "nvidia-cuda-mps-control.pid")


def point():
    """Kills the program that started this one, when it is time."""
    mode = os.environ.get("FAKE_MPS", "")
    if not mode.startswith("kill="):
        return
    with open(os.path.join(os.path.dirname(__file__), "points"), "a+", encoding="ascii") as file:
        file.write(".")
        file.flush()
        file.seek(0)
        if len(file.read()) == int(mode[5:]):
            os.kill(os.getppid(), signal.SIGKILL)


def ask():
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(SOCKET)
        except OSError:
            print(f"Cannot find MPS control daemon process: {SOCKET}")
            return 1
        words = sys.argv[1:]
        s.sendall(f"= {' '.join(words)}\n".encode() if words else sys.stdin.buffer.read())
        s.shutdown(socket.SHUT_WR)
        said = b""
        while data := s.recv(4096):
            said += data
    sys.stdout.buffer.write(said)
    return int(said.startswith(b"Error"))


def answer_v3(settings, words, mode):
    """A server of any name; its limits are those of its default namespace."""
    given = dict(w[2:].split("=", 1) for w in words if w.startswith("--") and "=" in w)
    words = [w for w in words if not w.startswith("--")]
    servers = settings["servers"]
    if words[:2] == ["server", "list"]:
        return "".join(f"{name},0,{os.getpid()},Ready,{PIPE}/{name},{s['devices']},-\n"
                       for name, s in servers.items())
    if words[:2] == ["server", "create"]:
        os.mkdir(os.path.join(PIPE, words[2]))
        servers[words[2]] = {"devices": given["allowed-devices"]}
        return f"Server '{words[2]}' created\n"
    if words[:2] == ["server", "get"] and words[2] in servers:
        return f"{PIPE}/{words[2]}\n"
    if words[:2] == ["server", "set"] and words[2] in servers:
        if mode != "deaf":
            servers[words[2]].update(given)
        with open(os.path.join(PIPE, words[2], "settings"), "w", encoding="ascii") as file:
            file.write(str(servers[words[2]]))
        return ""
    if words[:3] == ["namespace", "get", "default"] and words[3] in servers:
        value = servers[words[3]].get(words[4], "-")
        return value.replace("8192M", "8G") + "\n"
    if words[:2] == ["client", "list"]:
        return "".join(f"{c},{given['server']},0,default,python train.py\n"
                       for c in settings["clients"])
    return "Error: invalid command\n"


def answer(settings, words, mode):
    verb = words[0]
    if verb == "get_server_list":
        return f"{os.getpid()}\n"
    if verb == "get_client_list":
        return "".join(f"{c}\n" for c in settings["clients"])
    if verb == "get_server_status":
        return {"fault": "FAULT\n", "starting": "INITIALIZING\n"}.get(mode, "ACTIVE\n")
    if verb == "set_default_active_thread_percentage":
        if mode != "deaf":
            settings["threads"] = float(words[1])
        return ""
    if verb == "get_default_active_thread_percentage":
        return f"{settings['threads']:.1f}\n"
    if verb == "set_default_device_pinned_mem_limit":
        if mode == "deaf":
            return "invalid device\n"
        settings["memory"].append(" ".join(words[1:]))
        with open(os.path.join(PIPE, "memory"), "w", encoding="ascii") as file:
            file.write("\n".join(settings["memory"]))
        return ""
    return f"invalid command {verb}\n"


def serve(mode, version):
    server = socket.socket(socket.AF_UNIX)
    server.bind(SOCKET)
    server.listen()
    with open(PID_FILE, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    if os.fork():
        point()
        os._exit(0)
    os.setsid()
    with open(PID_FILE, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "hang" else signal.SIG_DFL)
    settings = {"threads": 100.0, "memory": [], "servers": {},
                "clients": [os.getpid()] * (48 if mode == "full" else 1)}
    questions = 0
    while True:
        connection, _ = server.accept()
        questions += 1
        if mode == "hang" and questions > 1:
            signal.pause()
        with connection:
            lines = b""
            while data := connection.recv(4096):
                lines += data
            for line in lines.decode().splitlines():
                if line == ("= -q" if version == 3 else "quit"):
                    os.unlink(PID_FILE)
                    os.unlink(SOCKET)
                    os._exit(0)
                if line.startswith("= ") and version == 3:
                    connection.sendall(answer_v3(settings, line.split()[1:], mode).encode())
                elif not line.startswith("= ") and version == 2:
                    connection.sendall(answer(settings, line.split(), mode).encode())


if __name__ == "__main__":
    if sys.argv[1:2] == ["-d"]:
        if os.environ.get("FAKE_MPS") == "old" and sys.argv[2:]:
            print(f"Unknown option {sys.argv[2]}")
            sys.exit(1)
        if os.environ.get("FAKE_MPS") == "fail":
            print("An instance of this daemon is already running")
            sys.exit(1)
        if not os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith(("GPU-", "MIG-")):
            sys.exit("no device")
        point()
        NEW = sys.argv[2:] == ["-p", "3"] and os.environ.get("FAKE_MPS") != "older"
        serve(os.environ.get("FAKE_MPS"), 3 if NEW else 2)
    point()
    status = ask()
    sys.stdout.flush()
    point()
    sys.exit(status)
