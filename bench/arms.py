# SPDX-License-Identifier: Apache-2.0
"""Processes that measure by turns: each lives on one processor with the others and answers a line
by a line of JSON, so that all meet the same clocks. ChildProcessError: it failed or has ended."""
import json
import subprocess


class Arm:
    def __init__(self, command, environment, processor):
        self.process = subprocess.Popen(["taskset", "-c", str(processor), *command],
                                        env=environment, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.start = self.read()

    def read(self):
        line = self.process.stdout.readline()
        answer = json.loads(line) if line.startswith("{") else {"error": line or "it has ended"}
        if "error" in answer:
            raise ChildProcessError(f"{' '.join(self.process.args)}: {answer['error'].strip()}")
        return answer

    def turn(self, question=""):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.read()

    def end(self):
        self.process.stdin.close()
        self.process.wait()
