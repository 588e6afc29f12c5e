# SPDX-License-Identifier: Apache-2.0
"""A daemon of one's own, a driver that says what the test wants, and processes that do."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import shutil

BUILD = os.environ['CLEAVE_BUILD']
MIB = 1 << 20
GIB = 1 << 30
UUID = ['GPU-00000000-1111-2222-3333-4444444444%02x' % i for i in range(8)]


class Refused(Exception):
    def __init__(self, error):
        super().__init__('%s: %s' % (error['code'], error['message']))
        self.code, self.message, self.hint = error['code'], error['message'], error['hint']


class Control:
    """A connection to control.sock."""

    def __init__(self, directory, timeout=10):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(directory + '/control.sock')
        self.file = self.socket.makefile('rb')
        self.id = 0

    def send(self, method, **params):
        self.id += 1
        request = {'method': method, 'id': self.id}
        if params:
            request['params'] = params
        self.socket.sendall(json.dumps(request).encode() + b'\n')
        return self.id

    def raw(self, data):
        self.socket.sendall(data)

    def line(self):
        line = self.file.readline()
        if not line:
            raise ConnectionResetError('the daemon closed the connection')
        return json.loads(line)

    def answer(self):
        line = self.line()
        if 'error' in line:
            raise Refused(line['error'])
        return line.get('result', line.get('event'))

    def call(self, method, **params):
        self.send(method, **params)
        return self.answer()

    def events(self, since=0):
        self.send('events.watch', since=since)
        events = []
        while True:
            line = self.line()
            if 'event' not in line:
                return events
            events.append(line['event'])

    def close(self):
        self.file.close()
        self.socket.close()


class Process:
    """A process of a tenant: fake_guard."""

    living = set()

    def __init__(self, environment):
        self.process = subprocess.Popen([BUILD + '/tests/daemon/fake_guard'], text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env=dict(os.environ, **environment))
        self.pid = self.process.pid
        Process.living.add(self)

    def do(self, line):
        self.process.stdin.write(line + '\n')
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if not answer:
            raise EOFError('the process ended at: ' + line)
        return answer

    def kill(self):
        if self in Process.living:
            Process.living.remove(self)
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()


class Tenant:
    """What `cleave run` does, but for the waiting."""

    def __init__(self, daemon, memory=GIB, device='0', start=True, connection=None, **params):
        self.daemon = daemon
        self.connection = connection or daemon.control()
        if 'devices' not in params:
            params['devices'] = [{'device': device, 'memory': memory}]
        params.setdefault('command', ['python', 'train.py'])
        self.made = self.connection.call('tenant.create', **params)
        self.id = self.made['tenant']['id']
        self.name = self.made['tenant']['name']
        self.process = None
        if start:
            self.start()

    def start(self):
        self.process = Process(self.made['environment'])
        self.connection.call('tenant.start', tenant=self.id, pid=self.process.pid)

    def hello(self):
        answer = self.process.do('hello')
        assert answer[0] == 'welcome', answer
        return answer

    def inspect(self):
        control = self.daemon.control()
        try:
            return control.call('tenant.inspect', tenant=self.id)
        finally:
            control.close()

    def end(self, status=0):
        """The command ends, and is reported."""
        if self.process:
            self.process.kill()
            self.daemon.driver.forget(self.process.pid)
        self.connection.call('tenant.exit', tenant=self.id, status=status)


class Driver:
    """The state of the fake driver."""

    def __init__(self, path, devices=1, total=80 * GIB, reserved=512 * MIB):
        self.path = path
        self.version = '580.0'
        self.devices = [(UUID[i], total, reserved) for i in range(devices)]
        self.processes = {}
        self.extra = []
        self.write()

    def write(self):
        with open(self.path + '.new', 'w') as file:
            file.write('driver %s\n' % self.version)
            for device in self.devices:
                file.write('device %s %d %d\n' % device)
            for (index, pid), amount in self.processes.items():
                file.write('process %d %d %s\n' % (index, pid, amount))
            for line in self.extra:
                file.write(line + '\n')
        os.rename(self.path + '.new', self.path)

    def hold(self, pid, amount, device=0):
        self.processes[device, pid] = amount
        self.write()

    def forget(self, pid):
        for key in [k for k in self.processes if k[1] == pid]:
            del self.processes[key]
        self.write()


class Daemon:
    def __init__(self, config='', arguments=(), devices=1, total=80 * GIB, reserved=512 * MIB,
                 directory=None, driver=None, start=True):
        self.base = directory or tempfile.mkdtemp(prefix='cleave-test-')
        self.directory = self.base + '/run'
        os.makedirs(self.base + '/claims', exist_ok=True)
        self.driver = driver or Driver(self.base + '/driver', devices, total, reserved)
        if '[device]' not in config:
            config += '\n[device]\nnvml = %s/tests/daemon/libfake-nvml.so\n' % BUILD
        if 'claims' not in config:
            config += '[daemon]\nclaims = %s/claims\n' % self.base
        self.config = self.base + '/cleave.conf'
        with open(self.config, 'w') as file:
            file.write(config)
        self.arguments = list(arguments)
        self.connections = []
        if start:
            self.start()

    def command(self, *more):
        return [BUILD + '/cleaved', '--user', '--runtime-dir=' + self.directory,
                '--config=' + self.config, *self.arguments, *more]

    def environment(self):
        environment = dict(os.environ, FAKE_NVML=self.driver.path)
        environment.pop('CLEAVE_SIM', None)
        return environment

    def start(self):
        """As `cleave` starts it: in the background, back when it serves."""
        return subprocess.run(self.command(), env=self.environment(), check=True, timeout=20,
                              stdin=subprocess.DEVNULL)

    def control(self, timeout=10):
        connection = Control(self.directory, timeout)
        self.connections.append(connection)
        return connection

    def call(self, method, **params):
        connection = Control(self.directory)
        try:
            return connection.call(method, **params)
        finally:
            connection.close()

    def events(self, *kinds, since=0):
        connection = Control(self.directory)
        try:
            return [e for e in connection.events(since) if not kinds or e['kind'] in kinds]
        finally:
            connection.close()

    def pid(self):
        return self.call('daemon.info')['pid']

    def kill(self):
        """SIGKILL, and wait until it is gone."""
        pid = self.pid()
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        import select
        select.select([pidfd], [], [], 10)
        os.close(pidfd)
        return pid

    def log(self):
        try:
            with open(self.directory + '/cleaved.log') as file:
                return file.read()
        except FileNotFoundError:
            return ''

    def stop(self):
        """Ends it and all that it started, by the processes' own directory argument."""
        for process in list(Process.living):
            process.kill()
        for connection in self.connections:
            connection.close()
        try:
            self.call('daemon.stop', force=True)
        except (OSError, Refused):
            pass
        for entry in os.listdir('/proc'):
            if not entry.isdigit():
                continue
            try:
                with open('/proc/%s/cmdline' % entry, 'rb') as file:
                    words = file.read().decode(errors='replace').split('\0')
            except OSError:
                continue
            if words[0].endswith('cleaved') and any(self.directory in w for w in words):
                try:
                    os.kill(int(entry), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        shutil.rmtree(self.base, ignore_errors=True)


def eventually(check, timeout=5, what='it did not come true'):
    """The first true value of check(), tried until then."""
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(what)
        time.sleep(0.005)
