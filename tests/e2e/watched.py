#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A tenant that is looked at from inside, with other people's programs.

usage: watched.py MIB NVTOP NVITOP NVIDIA_SMI      an empty name: not that one

Takes MIB of device memory in a child, and prints a line of JSON: the child's pid, the CUDA result, and
what nvtop's screen, nvitop's table and nvidia-smi say. Then it waits for the end of its standard
input."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS, COLUMNS = 40, 160
PATIENCE = 30


def screen(path, until):
    """What nvtop has drawn once the pattern is there: words with blanks between."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(path, ["nvtop"], dict(os.environ, TERM="xterm", LINES=str(ROWS),
                                        COLUMNS=str(COLUMNS)))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    drawn, end = b"", time.monotonic() + PATIENCE
    text = ""
    while time.monotonic() < end and not re.search(until, text):
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                drawn += os.read(terminal, 65536)
            except OSError:
                break
        text = drawn.decode(errors="replace")
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]|\x1b[=>]|[\r\n]", " ", text)
        text = re.sub(" +", " ", text)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    return text


def main():
    mib, nvtop, nvitop, smi = sys.argv[1:]
    with subprocess.Popen([sys.executable, os.path.join(HERE, "cuda_tool.py")], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tool:
        said = {"pid": json.loads(tool.stdout.readline())}
        print("alloc", mib, file=tool.stdin, flush=True)
        said["result"] = json.loads(tool.stdout.readline())
        if nvtop:
            said["nvtop"] = screen(nvtop, rf"\b{said['pid']} .* \d+MiB ")
        if nvitop:
            done = subprocess.run(nvitop.split() + ["-1", "--ascii"], text=True, capture_output=True,
                                  env=dict(os.environ, COLUMNS=str(COLUMNS)), timeout=PATIENCE,
                                  check=False)
            said["nvitop"] = done.stdout + done.stderr
        if smi:
            said["nvidia-smi"] = "".join(
                subprocess.run([smi, query, "--format=csv,noheader,nounits"], text=True, check=False,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               timeout=PATIENCE).stdout
                for query in ("--query-gpu=memory.used,memory.total",
                              "--query-compute-apps=pid,used_memory"))
        print(json.dumps(said), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
