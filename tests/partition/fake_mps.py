#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A double of nvidia-cuda-mps-control: with -d a daemon with its pid file and socket in the pipe
directory, else a client that sends it standard input and prints the answers. In the environment of
the daemon, FAKE_MPS may be: fail (does not start), deaf (takes no limit), hang (never answers a
second question), kill=N (whoever runs it is killed at the N-th such point: before and after each
answer)."""
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
        s.sendall(sys.stdin.buffer.read())
        s.shutdown(socket.SHUT_WR)
        while data := s.recv(4096):
            sys.stdout.buffer.write(data)
    return 0


def answer(settings, words, mode):
    verb = words[0]
    if verb == "get_server_list":
        return f"{os.getpid()}\n"
    if verb == "get_client_list":
        return "".join(f"{c}\n" for c in settings["clients"])
    if verb == "set_default_active_thread_percentage":
        if mode != "deaf":
            settings["threads"] = float(words[1])
        return ""
    if verb == "get_default_active_thread_percentage":
        return f"{settings['threads']:.1f}\n"
    if verb == "set_default_device_pinned_mem_limit":
        settings["memory"] = words[1:]
        with open(os.path.join(PIPE, "memory"), "w", encoding="ascii") as file:
            file.write(" ".join(words[1:]))
        return ""
    return f"invalid command {verb}\n"


def serve(mode):
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
    settings = {"threads": 100.0, "memory": None, "clients": [os.getpid()]}
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
                if line == "quit":
                    os.unlink(PID_FILE)
                    os.unlink(SOCKET)
                    os._exit(0)
                connection.sendall(answer(settings, line.split(), mode).encode())


if __name__ == "__main__":
    if sys.argv[1:] == ["-d"]:
        if os.environ.get("FAKE_MPS") == "fail":
            print("An instance of this daemon is already running")
            sys.exit(1)
        if not os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith(("GPU-", "MIG-")):
            sys.exit("no device")
        point()
        serve(os.environ.get("FAKE_MPS"))
    point()
    status = ask()
    sys.stdout.flush()
    point()
    sys.exit(status)
