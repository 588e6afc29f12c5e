#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon from outside: over its two sockets, with a driver that says what the test wants."""

import json
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest

from harness import *


def ended(pid):
    """Whether the process has ended, waited for or not: in a container nobody may wait for orphans."""
    try:
        with open('/proc/%d/stat' % pid, encoding='ascii', errors='replace') as stat:
            return stat.read().rpartition(')')[2].split()[0] == 'Z'
    except OSError:
        return True


class Case(unittest.TestCase):
    CONFIG = ''
    DEVICES = 1

    def setUp(self):
        self.daemons = []
        self.daemon = self.make_daemon(self.CONFIG, devices=self.DEVICES)

    def make_daemon(self, *args, **kwargs):
        daemon = Daemon(*args, **kwargs)
        self.daemons.append(daemon)
        return daemon

    def tearDown(self):
        for daemon in self.daemons:
            if 'CLEAVE_TEST_LOG' in os.environ:
                sys.stderr.write(daemon.log())
            daemon.stop()

    def assertRefused(self, code, method, daemon=None, **params):
        with self.assertRaises(Refused) as caught:
            (daemon or self.daemon).call(method, **params)
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        return caught.exception

    def device(self, daemon=None, index=0):
        return (daemon or self.daemon).call('device.list')['devices'][index]


class Accounts(Case):
    def test_a_tenant_lives_and_ends(self):
        tenant = Tenant(self.daemon, 8 * GIB, start=False, name='train')
        made = tenant.made['tenant']
        self.assertEqual((made['name'], made['state'], made['uid']),
                         ('train', 'starting', os.getuid()))
        self.assertEqual(made['devices'][0]['memory'], 8 * GIB)
        self.assertEqual(tenant.made['environment']['CLEAVE_TENANT'], tenant.id)
        self.assertEqual([os.path.basename(path) for path in tenant.made['preload']],
                         ['libcuda.so.1', 'libnvidia-ml.so.1'])
        self.assertEqual(self.device()['granted'], 8 * GIB)
        tenant.start()
        self.assertEqual(tenant.hello()[1:], [tenant.id, '1', str(8 * GIB >> 12)])
        self.assertEqual(tenant.process.do('charge 0 256'), ['ok', '256'])
        self.assertEqual(tenant.process.do('charge 0 %d' % (8 * GIB >> 12)), ['refused', '12'])
        self.daemon.driver.hold(tenant.process.pid, MIB)
        seen = tenant.inspect()
        self.assertEqual(seen['state'], 'running')
        self.assertEqual(seen['pid'], tenant.process.pid)
        self.assertEqual(seen['devices'][0]['memory_used'], MIB)
        self.assertEqual(seen['devices'][0]['memory_driver'], MIB)
        self.assertEqual(seen['devices'][0]['refusals'], 1)
        self.assertEqual(seen['processes'][0]['memory'], [MIB])
        self.assertEqual(seen['processes'][0]['guard_version'], 'fake')
        self.assertEqual(self.device()['used_by_tenants'], MIB)
        self.assertEqual(self.device()['used_by_others'], 0)
        tenant.end(status=256)
        eventually(lambda: not self.daemon.call('tenant.list')['tenants'])
        self.assertEqual(self.device()['granted'], 0)
        kinds = [e['kind'] for e in self.daemon.events()]
        self.assertEqual(kinds, ['daemon-started', 'tenant-created', 'process-joined',
                                 'process-left', 'memory-returned', 'tenant-ended'])
        self.assertEqual(self.daemon.events('tenant-ended')[0]['detail'],
                         {'name': 'train', 'status': 256})
        self.assertRefused('no-such-tenant', 'tenant.inspect', tenant='train')

    def test_memory_returns_when_the_driver_says_so(self):
        tenant = Tenant(self.daemon, 70 * GIB)
        other = Tenant(self.daemon, 1 * GIB)
        tenant.hello()
        tenant.process.do('charge 0 1000')
        self.daemon.driver.hold(tenant.process.pid, 1000 << 12)
        tenant.process.kill()
        eventually(lambda: tenant.inspect()['devices'][0]['memory_returning'] == 1000 << 12)
        tenant.connection.call('tenant.exit', tenant=tenant.id, status=9)
        self.assertEqual(tenant.inspect()['state'], 'ending')
        self.assertRefused('no-room', 'tenant.create', command=['x'],
                           devices=[{'device': '0', 'memory': 70 * GIB}])
        # and within a tenth of a second of that it can be granted again
        times = []
        self.daemon.driver.forget(tenant.process.pid)
        begun = time.monotonic()
        control = self.daemon.control()
        while True:
            try:
                control.call('tenant.create', command=['x'],
                             devices=[{'device': '0', 'memory': 70 * GIB}])
                break
            except Refused as refused:
                self.assertEqual(refused.code, 'no-room')
        self.assertLess(time.monotonic() - begun, 0.1)
        self.assertEqual(other.inspect()['devices'][0]['memory'], GIB)

    def test_a_process_killed_in_the_middle_of_a_change(self):
        tenant = Tenant(self.daemon, 8 * GIB)
        tenant.hello()
        tenant.process.do('charge 0 100')
        tenant.process.do('intend 0 50')
        self.assertEqual(tenant.process.do('held 0'), ['ok', '100', '150'])
        tenant.process.kill()
        eventually(lambda: tenant.inspect()['processes'] == [])
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 0)
        self.assertEqual(self.daemon.events('page-damaged'), [])
        self.assertEqual(self.daemon.events('memory-returned')[0]['detail']['memory'], [150 << 12])

    def test_slots_are_given_anew(self):
        tenant = Tenant(self.daemon)
        first = Process(tenant.made['environment'])
        # of the same tenant by descent: what the command starts
        answer = tenant.process.do('hello')
        self.assertEqual(answer[2], '1')
        first.kill()
        tenant.process.do('charge 0 10')
        tenant.process.do('exec')
        answer = tenant.process.do('hello')
        # the program before it still returns, so this one has another slot
        self.assertEqual(answer[2], '2')
        eventually(lambda: len(tenant.inspect()['processes']) == 1)
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 0)
        tenant.process.do('charge 0 7')
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 7 << 12)

    def test_an_executed_program_that_uses_no_gpu(self):
        tenant = Tenant(self.daemon)
        tenant.hello()
        tenant.process.do('charge 0 10')
        tenant.process.do('exec')
        # without a HELLO: its mappings show that the program before it is gone
        eventually(lambda: tenant.inspect()['processes'] == [])
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 0)
        self.assertEqual(tenant.inspect()['state'], 'running')

    def test_a_socket_closed_by_a_process_that_goes_on(self):
        tenant = Tenant(self.daemon)
        tenant.hello()
        tenant.process.do('charge 0 10')
        tenant.process.do('close')
        time.sleep(0.5)
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 10 << 12)
        self.assertEqual(len(tenant.inspect()['processes']), 1)
        self.assertEqual(tenant.process.do('hello again 1')[2], '1')
        self.assertEqual(tenant.process.do('charge 0 10'), ['ok', '20'])

    def test_pages_cannot_be_changed_by_those_who_must_not(self):
        tenant = Tenant(self.daemon)
        tenant.hello()
        answer = tenant.process.do('grow')
        # EINVAL: opened for reading; EPERM: sealed; EACCES: cannot be mapped writable
        self.assertEqual(answer, ['ok', '22', '1', '13'])

    def test_a_scribbler_harms_itself_alone(self):
        tenant = Tenant(self.daemon, 8 * GIB)
        other = Tenant(self.daemon, 8 * GIB)
        other.hello()
        other.process.do('charge 0 5')
        for byte in (255, 0, 85):
            tenant.hello()
            tenant.process.do('scribble %d' % byte)
            self.daemon.driver.hold(tenant.process.pid, 3 * MIB)
            self.daemon.call('tenant.list')
            time.sleep(0.25)
            self.device()
            tenant.process.kill()
            self.daemon.driver.forget(tenant.process.pid)
            eventually(lambda: tenant.inspect()['processes'] == [])
            self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 0)
            tenant.process = Process(tenant.made['environment'])
            # a child of the maker's, as the command's own children are
            if byte != 85:
                self.assertIn(tenant.process.do('hello')[0], ('welcome', 'bad'))
        self.assertEqual(other.inspect()['devices'][0]['memory_used'], 5 << 12)
        self.assertEqual(self.device()['used_by_tenants'], 5 << 12)

    def test_a_counter_beyond_the_grant_is_not_believed(self):
        tenant = Tenant(self.daemon, 1 * GIB)
        tenant.hello()
        self.daemon.driver.hold(tenant.process.pid, 2 * MIB)
        tenant.process.do('poke 0 %d' % (60 * GIB >> 12))
        eventually(lambda: self.daemon.events('page-damaged'))
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 2 * MIB)
        self.assertEqual(self.device()['available'], 80 * GIB - 512 * MIB - GIB)
        time.sleep(0.5)
        self.assertEqual(len(self.daemon.events('page-damaged')), 1)


class Admission(Case):
    DEVICES = 2

    def want(self, memory, device='0', **more):
        return [dict(device=device, memory=memory, **more)]

    def create(self, memory, **more):
        return self.daemon.call('tenant.create', command=['x'], devices=self.want(memory), **more)

    def test_every_refusal_has_its_code_and_numbers(self):
        self.assertIn('79.5 GiB can be granted',
                      self.assertRefused('beyond-device', 'tenant.create', command=['x'],
                                         devices=self.want(80 * GIB)).message)
        self.daemon.driver.extra = ['used 0 %d' % (20 * GIB)]
        self.daemon.driver.hold(1, 30 * GIB, device=0)
        eventually(lambda: self.device()['used_by_others'] == 50 * GIB)
        self.assertEqual(self.device()['available'], 29 * GIB + 512 * MIB)
        self.assertIn('29.5 GiB are free',
                      self.assertRefused('no-room', 'tenant.create', command=['x'],
                                         devices=self.want(30 * GIB)).message)
        for devices, code in (
                ([], 'bad-request'),
                ([{'device': '0'}], 'bad-request'),
                ([{'memory': GIB}], 'bad-request'),
                ([{'device': '0', 'memory': 0}], 'bad-size'),
                ([{'device': '0', 'memory': -GIB}], 'bad-size'),
                ([{'device': '0', 'memory': GIB + 1}], 'bad-size'),
                ([{'device': '0', 'memory': GIB, 'memory_max': MIB}], 'bad-size'),
                ([{'device': '0', 'memory': 1.5}], 'bad-request'),
                ([{'device': '0', 'memory': '1G'}], 'bad-request'),
                ([{'device': '0', 'memory': 1 << 62}], 'beyond-device'),
                ([{'device': '0', 'memory': GIB, 'color': 1}], 'bad-request'),
                ([{'device': '2', 'memory': GIB}], 'no-such-device'),
                ([{'device': '-1', 'memory': GIB}], 'no-such-device'),
                ([{'device': 'GPU-1', 'memory': GIB}], 'no-such-device'),
                ([{'device': 'GPU-0', 'memory': GIB}], 'ambiguous'),
                ([{'device': '', 'memory': GIB}], 'no-such-device'),
                (self.want(GIB) * 2, 'bad-request'),
                (self.want(GIB) + self.want(GIB, UUID[0]), 'bad-request'),
                ([{'device': '0', 'memory': GIB}] * 17, 'bad-request'),
                ([7], 'bad-request'),
                ('0', 'bad-request')):
            self.assertRefused(code, 'tenant.create', command=['x'], devices=devices)
        for command in ([], 'x', [1], [['x']], ['a\0b'], ['x' * 300000], ['x'] * 5000, None):
            self.assertRefused('bad-request', 'tenant.create', command=command,
                               devices=self.want(GIB))
        for name in ('', '-x', 'a b', 'x' * 64, '0123456789abcdef', 'ä'):
            self.assertRefused('bad-name', 'tenant.create', command=['x'], name=name,
                               devices=self.want(GIB))
        self.assertEqual(self.daemon.call('tenant.list'), {'tenants': []})
        self.assertEqual(self.device()['granted'], 0)

    def test_devices_have_several_names(self):
        for device in ('1', 1, UUID[1], UUID[1].lower(), UUID[1][4:]):
            made = self.daemon.call('tenant.create', command=['x'],
                                    devices=[{'device': device, 'memory': GIB}])
            self.assertEqual(made['tenant']['devices'][0]['device'], UUID[1])

    def test_two_devices_at_once(self):
        tenant = Tenant(self.daemon, devices=self.want(GIB, '1') + self.want(2 * GIB, '0'))
        answer = tenant.hello()
        # in the order that was asked for
        self.assertEqual(answer[3:], [str(GIB >> 12), str(2 * GIB >> 12)])
        tenant.process.do('charge 1 9')
        devices = tenant.inspect()['devices']
        self.assertEqual([(d['index'], d['memory_used']) for d in devices], [(1, 0), (0, 9 << 12)])

    def test_names_are_the_users_own(self):
        first = Tenant(self.daemon, start=False, name='a')
        self.assertRefused('name-taken', 'tenant.create', command=['x'], name='a',
                           devices=self.want(GIB))
        made = Tenant(self.daemon, start=False, command=['/usr/bin/py thon!3.11', '-c'])
        self.assertEqual(made.name, 'python3.11')
        self.assertEqual(Tenant(self.daemon, start=False, command=['python3.11']).name,
                         'python3.11-2')
        self.assertEqual(Tenant(self.daemon, start=False, command=['/']).name, 'tenant')
        self.assertEqual(self.daemon.call('tenant.inspect', tenant=first.id[:6])['id'], first.id)
        self.assertRefused('no-such-tenant', 'tenant.inspect', tenant='b' * 100)
        self.assertRefused('bad-request', 'tenant.inspect', tenant='')
        first.connection.close()
        eventually(lambda: not any(t['name'] == 'a'
                                   for t in self.daemon.call('tenant.list')['tenants']))

    def test_those_who_wait_are_served_in_their_order(self):
        first = Tenant(self.daemon, 70 * GIB, start=False)
        waiting = []
        for memory in (60 * GIB, 10 * GIB, 5 * GIB):
            control = self.daemon.control()
            control.send('tenant.create', command=['x'], devices=self.want(memory), wait=True)
            eventually(lambda: len(self.daemon.events('tenant-waiting')) == len(waiting) + 1)
            waiting.append(control)
        # a request of no patience does not overtake them, and is told so
        refused = self.assertRefused('no-room', 'tenant.create', command=['x'],
                                     devices=self.want(GIB))
        self.assertIn('waits already', refused.message)
        self.assertRefused('beyond-device', 'tenant.create', command=['x'], wait=True,
                           devices=self.want(90 * GIB))
        self.assertEqual([t['state'] for t in self.daemon.call('tenant.list')['tenants']],
                         ['starting', 'waiting', 'waiting', 'waiting'])
        # the connection of one who waits is not held up
        self.assertEqual(waiting[0].call('daemon.info')['scope'], 'user')
        # the second gives up, the first is stopped
        waiting[1].close()
        eventually(lambda: len(self.daemon.call('tenant.list')['tenants']) == 3)
        stopped = self.daemon.call('tenant.list')['tenants'][1]
        self.assertEqual(self.daemon.call('tenant.stop', tenant=stopped['id']), {})
        with self.assertRaises(Refused) as caught:
            waiting[0].answer()
        self.assertEqual(caught.exception.code, 'stopping')
        # now nothing is before the third, and there is room for it
        self.assertEqual(waiting[2].answer()['tenant']['devices'][0]['memory'], 5 * GIB)
        control = self.daemon.control()
        control.send('tenant.create', command=['x'], devices=self.want(20 * GIB), wait=True)
        first.connection.call('tenant.exit', tenant=first.id, status=0)
        self.assertEqual(control.answer()['tenant']['devices'][0]['memory'], 20 * GIB)

    def test_one_waits_for_others_memory_too(self):
        self.daemon.driver.hold(1, 70 * GIB)
        eventually(lambda: self.device()['used_by_others'] == 70 * GIB)
        control = self.daemon.control()
        control.send('tenant.create', command=['x'], devices=self.want(20 * GIB), wait=True)
        eventually(lambda: self.daemon.events('tenant-waiting'))
        self.daemon.driver.forget(1)
        self.assertEqual(control.answer()['tenant']['devices'][0]['memory'], 20 * GIB)

    def test_grants_are_resized_while_in_use(self):
        tenant = Tenant(self.daemon, 10 * GIB)
        tenant.hello()
        tenant.process.do('charge 0 %d' % (6 * GIB >> 12))

        def resize(memory, **more):
            return self.daemon.call('tenant.set', tenant=tenant.id, devices=self.want(memory),
                                    **more)['tenant']

        self.assertEqual(resize(20 * GIB)['devices'][0]['memory'], 20 * GIB)
        self.assertEqual(tenant.process.do('limit 0')[1], str(20 * GIB >> 12))
        tenant.process.do('charge 0 %d' % (6 * GIB >> 12))
        with self.assertRaises(Refused) as caught:
            resize(5 * GIB)
        self.assertEqual(caught.exception.code, 'in-use')
        self.assertIn('12 GiB are in use', caught.exception.message)
        self.assertEqual(tenant.process.do('limit 0')[1], str(20 * GIB >> 12))
        resize(5 * GIB, force=True)
        self.assertEqual(tenant.process.do('limit 0')[1], str(5 * GIB >> 12))
        self.assertEqual(tenant.process.do('charge 0 1'), ['refused', '12'])
        # what it still uses is not given to others
        self.assertEqual(self.device()['available'], 80 * GIB - 512 * MIB - 12 * GIB)
        tenant.process.do('charge 0 -%d' % (8 * GIB >> 12))
        self.assertEqual(self.device()['available'], 80 * GIB - 512 * MIB - 5 * GIB)
        self.assertEqual(self.daemon.events('page-damaged'), [])
        for memory, code in ((90 * GIB, 'beyond-device'), (0, 'bad-size')):
            with self.assertRaises(Refused) as caught:
                resize(memory)
            self.assertEqual(caught.exception.code, code)
        self.assertRefused('no-such-device', 'tenant.set', tenant=tenant.id,
                           devices=self.want(GIB, '1'))
        self.assertEqual(len(self.daemon.events('tenant-changed')), 2)

    def test_memory_is_lent_between_guarantee_and_maximum(self):
        tenant = Tenant(self.daemon, devices=self.want(10 * GIB, memory_max=70 * GIB))
        tenant.hello()
        self.assertEqual(tenant.process.do('limit 0')[1], str(70 * GIB >> 12))
        tenant.process.do('charge 0 %d' % (30 * GIB >> 12))
        self.assertRefused('no-room', 'tenant.create', command=['x'], devices=self.want(50 * GIB))
        Tenant(self.daemon, 49 * GIB, start=False)
        limit = int(tenant.process.do('limit 0')[1]) << 12
        self.assertEqual(limit, 80 * GIB - 512 * MIB - 49 * GIB)
        self.assertEqual(tenant.process.do('charge 0 %d' % (GIB >> 12)), ['refused', '12'])

    def test_a_lost_device(self):
        self.daemon.driver.extra = ['lost 0']
        self.daemon.driver.write()
        self.assertEqual(self.device()['state'], 'lost')
        self.assertIsNone(self.device()['memory_used'])
        self.assertRefused('device-lost', 'tenant.create', command=['x'], devices=self.want(GIB))
        self.device()
        self.assertEqual(len(self.daemon.events('device-lost')), 1)
        self.daemon.driver.extra = []
        self.daemon.driver.write()
        self.assertEqual(self.device()['state'], 'ok')


class Identity(Case):
    def test_a_process_of_nobody_is_refused(self):
        Tenant(self.daemon)
        os.environ.pop('CLEAVE_TENANT', None)
        os.mkfifo(self.daemon.base + '/in')
        open(self.daemon.base + '/out', 'w').close()
        # neither below the maker's child nor in a cgroup
        stranger = subprocess.Popen(
            ['setsid', '--fork', 'sh', '-c', 'exec "$0" < "$1" > "$2"',
             BUILD + '/tests/daemon/fake_guard', self.daemon.base + '/in', self.daemon.base + '/out'],
            env=dict(os.environ, CLEAVE_RUNTIME_DIR=self.daemon.directory), stdin=subprocess.DEVNULL)
        stranger.wait()
        with open(self.daemon.base + '/in', 'w') as file:
            file.write('hello\n')
            file.flush()
            eventually(lambda: os.path.getsize(self.daemon.base + '/out'))
        with open(self.daemon.base + '/out') as file:
            self.assertEqual(file.read(), 'refused 2\n')
        events = self.daemon.events('process-refused')
        self.assertEqual(len(events), 1)
        self.assertIn('belongs to no tenant', events[0]['message'])

    def test_children_belong_to_their_parents_tenant(self):
        a, b = Tenant(self.daemon), Tenant(self.daemon)
        for tenant in (a, b):
            child = subprocess.Popen(['true'])
            child.wait()
            self.assertEqual(tenant.hello()[1], tenant.id)
        pid = int(a.process.do('fork')[1])
        self.daemon.driver.hold(pid, 5 * MIB)
        event = eventually(lambda: self.daemon.events('stranger'))[0]
        self.assertEqual((event['tenant'], event['pid']), (a.id, pid))
        os.kill(pid, signal.SIGKILL)

    def test_only_the_makers_child_can_be_the_command(self):
        tenant = Tenant(self.daemon, start=False)
        for pid, code in ((1, 'not-permitted'), (0, 'no-such-process'), (-5, 'no-such-process'),
                          (1 << 40, 'no-such-process'), (4194303, 'no-such-process'),
                          (os.getpid(), 'not-permitted')):
            with self.assertRaises(Refused) as caught:
                tenant.connection.call('tenant.start', tenant=tenant.id, pid=pid)
            self.assertEqual(caught.exception.code, code)
        tenant.start()
        with self.assertRaises(Refused):
            tenant.connection.call('tenant.start', tenant=tenant.id, pid=tenant.process.pid)
        # nor does another connection speak for it
        for method, params in (('tenant.start', {'pid': tenant.process.pid}),
                               ('tenant.exit', {'status': 0})):
            self.assertRefused('not-permitted', method, tenant=tenant.id, **params)
        self.assertRefused('not-permitted', 'tenant.attach', tenant=tenant.id, secret='0' * 32)

    def test_info_says_what_identity_is_in_force(self):
        info = self.daemon.call('daemon.info')
        self.assertIn(info['identity'], ('cgroup', 'process-tree'))
        self.assertTrue(info['identity_detail'])
        tenant = Tenant(self.daemon)
        self.assertEqual(tenant.made['identity'], info['identity'])
        if info['identity'] == 'cgroup':
            self.assertTrue(os.path.isdir(tenant.made['cgroup']))
            with open('/proc/%d/cgroup' % tenant.process.pid) as file:
                self.assertIn('cleave-' + tenant.id, file.read())
            tenant.hello()
            # out of the tree, but still in the cgroup
            pid = int(tenant.process.do('fork')[1])
            tenant.process.kill()
            self.daemon.driver.hold(pid, MIB)
            eventually(lambda: self.daemon.events('stranger'))
            os.kill(pid, signal.SIGKILL)
            self.daemon.driver.forget(pid)
            eventually(lambda: not os.path.exists('/proc/%d' % pid))
            tenant.connection.call('tenant.exit', tenant=tenant.id, status=0)
            eventually(lambda: not os.path.exists(tenant.made['cgroup']))


class DriverLimits(Case):
    """The driver's own limits by cgroup, beside ours."""

    def test_they_are_set_where_the_driver_has_them(self):
        tenant = Tenant(self.daemon, memory=8 * GIB)
        if not tenant.made['cgroup']:
            self.skipTest('no cgroup can be made here')
        # a driver that has none answers so
        self.assertEqual(self.daemon.call('daemon.info')['driver_limits']['state'], 'absent')
        path = self.daemon.base + '/limits'
        for answer, state in ((0, 'set'), (4, 'refused'), (6, 'refused'), (3, 'absent')):
            self.daemon.driver.extra = ['limits %s %d' % (path, answer)]
            self.daemon.driver.write()
            tenant = Tenant(self.daemon, memory=8 * GIB)
            self.assertEqual(self.daemon.call('daemon.info')['driver_limits']['state'], state)
            with open(path) as file:
                last = file.read().splitlines()[-1].split()
            self.assertEqual(last[:3], ['0', tenant.made['cgroup'], '0'])
            self.assertTrue(8 * GIB < int(last[3]) < 8.3 * GIB)
            tenant.end()

    def test_without_a_cgroup_none_is_set(self):
        daemon = self.make_daemon('[daemon]\ncgroups = no\nclaims = /tmp\n')
        path = daemon.base + '/limits'
        daemon.driver.extra = ['limits %s 0' % path]
        daemon.driver.write()
        Tenant(daemon)
        self.assertEqual(daemon.call('daemon.info')['driver_limits']['state'], 'available')
        self.assertFalse(os.path.exists(path))


class IdentityByTree(Identity):
    CONFIG = '[daemon]\ncgroups = no\n'

    def setUp(self):
        self.daemons = []
        self.daemon = self.make_daemon('[daemon]\ncgroups = no\nclaims = /tmp\n')

    def test_info_says_what_identity_is_in_force(self):
        self.assertEqual(self.daemon.call('daemon.info')['identity'], 'process-tree')
        tenant = Tenant(self.daemon)
        self.assertIsNone(tenant.made['cgroup'])
        tenant.hello()


class Audit(Case):
    def test_more_than_the_ledger_knows_is_told_once(self):
        tenant = Tenant(self.daemon)
        tenant.hello()
        tenant.process.do('charge 0 100')
        self.daemon.driver.hold(tenant.process.pid, 100 * MIB)
        event = eventually(lambda: self.daemon.events('over-quota'))[0]
        self.assertEqual(event['detail'], {'driver': 100 * MIB, 'ledger': 100 << 12})
        # the ledger keeps what the driver knows of
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 100 * MIB)
        time.sleep(0.7)
        self.assertEqual(len(self.daemon.events('over-quota')), 1)
        self.daemon.driver.hold(tenant.process.pid, 100 << 12)
        time.sleep(1.5)  # nothing has changed for so long that the driver may be asked once a second
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 100 << 12)
        self.daemon.driver.hold(tenant.process.pid, 200 * MIB)
        eventually(lambda: len(self.daemon.events('over-quota')) == 2)

    def test_a_little_more_is_tolerated(self):
        tenant = Tenant(self.daemon)
        tenant.hello()
        self.daemon.driver.hold(tenant.process.pid, 16 * MIB)
        time.sleep(0.7)
        self.assertEqual(self.daemon.events('over-quota'), [])

    def test_unknown_amounts_are_unknown(self):
        tenant = Tenant(self.daemon)
        tenant.hello()
        self.daemon.driver.hold(tenant.process.pid, 'unknown')
        self.assertIsNone(tenant.inspect()['devices'][0]['memory_driver'])
        time.sleep(0.5)
        self.assertEqual(self.daemon.events('over-quota', 'page-damaged'), [])

    def test_a_stranger_is_told_once(self):
        tenant = Tenant(self.daemon)
        self.daemon.driver.hold(tenant.process.pid, 5 * MIB)
        event = eventually(lambda: self.daemon.events('stranger'))[0]
        self.assertEqual((event['pid'], event['detail']['bytes']), (tenant.process.pid, 5 * MIB))
        time.sleep(0.7)
        self.assertEqual(len(self.daemon.events('stranger')), 1)
        self.assertEqual(self.daemon.events('stranger-killed'), [])
        self.assertIsNone(tenant.process.process.poll())

    def test_while_nothing_changes_the_driver_is_asked_rarely(self):
        path = self.daemon.base + '/asked'
        tenant = Tenant(self.daemon)
        tenant.hello()
        self.daemon.driver.extra = ['asked ' + path]
        self.daemon.driver.write()
        asked = lambda: os.path.getsize(path) if os.path.exists(path) else 0
        eventually(asked)
        per_audit = 2  # once how many there are, once which
        time.sleep(2)
        before = asked()
        time.sleep(3)
        self.assertLessEqual(asked() - before, 5 * per_audit)
        # what the tenant counts is compared at once: four times in a second and a half
        before, end = asked(), time.monotonic() + 1.5
        charged = 0
        while time.monotonic() < end:
            charged += 1000
            tenant.process.do('charge 0 %d' % charged)
            time.sleep(0.05)
        self.assertGreaterEqual(asked() - before, 4)
        # and nobody gets away with what is held besides
        time.sleep(2)
        pid = int(tenant.process.do('fork')[1])
        self.daemon.driver.hold(pid, 5 * MIB)
        event = eventually(lambda: self.daemon.events('stranger'))[0]
        self.assertEqual(event['pid'], pid)
        os.kill(pid, signal.SIGKILL)

    def test_notices_become_events(self):
        tenant = Tenant(self.daemon)
        tenant.hello()
        tenant.process.do('notice 1 0 1048576')
        tenant.process.do('notice 1 7 1048576')
        tenant.process.do('notice 3 0 0')
        tenant.process.do('notice 4 3 0')
        tenant.process.do('notice 99 0 0')
        eventually(lambda: len(self.daemon.events('memory-refused')) == 2)
        event = self.daemon.events('memory-refused')[0]
        self.assertEqual((event['device'], event['detail']), (UUID[0], {'bytes': MIB}))
        self.assertIn('cannot be seen', self.daemon.events('process-refused')[0]['message'])


class AuditKills(Case):
    CONFIG = '[audit]\npolicy = kill\ninterval = 50ms\n'

    def test_a_stranger_is_killed(self):
        tenant = Tenant(self.daemon)
        tenant.hello()
        pid = int(tenant.process.do('fork')[1])
        self.daemon.driver.hold(pid, 5 * MIB)
        self.daemon.driver.hold(os.getpid(), 5 * MIB)
        event = eventually(lambda: self.daemon.events('stranger-killed'))[0]
        self.assertEqual(event['pid'], pid)
        # not the process with a session, and nobody outside of the tenant
        self.assertIsNone(tenant.process.process.poll())


class Recovery(Case):
    def state(self):
        tenants = self.daemon.call('tenant.list')['tenants']
        return sorted(tenants, key=lambda t: t['id']), self.daemon.call('device.list')

    def test_a_killed_daemon_leaves_nothing_undone(self):
        tenants = [Tenant(self.daemon, (i + 1) * GIB) for i in range(4)]
        for i, tenant in enumerate(tenants):
            tenant.hello()
            tenant.process.do('charge 0 %d' % (1000 * (i + 1)))
            self.daemon.driver.hold(tenant.process.pid, 1000 * (i + 1) << 12)
        self.daemon.call('tenant.set', tenant=tenants[0].id,
                         devices=[{'device': '0', 'memory': 7 * GIB}])
        before = self.state()
        for _ in range(3):
            killed = self.daemon.kill()
            # whoever connects meanwhile waits in the socket's queue
            self.assertEqual(self.state(), before)
            self.assertNotEqual(self.daemon.pid(), killed)
        self.assertEqual(len(self.daemon.events('daemon-recovered')), 1)
        # changes made while nobody looked are seen, and limits can still be changed
        tenants[1].process.do('charge 0 24')
        self.assertEqual(tenants[1].inspect()['devices'][0]['memory_used'], 2024 << 12)
        self.daemon.call('tenant.set', tenant=tenants[1].id,
                         devices=[{'device': '0', 'memory': 3 * GIB}])
        self.assertEqual(tenants[1].process.do('limit 0')[1], str(3 * GIB >> 12))
        # guards find their slots again, new ones get theirs
        self.assertEqual(tenants[2].process.do('hello again 1')[2], '1')
        for tenant in tenants:
            tenant.connection = self.daemon.control()
            self.assertEqual(tenant.connection.call('tenant.attach', tenant=tenant.id,
                                                    secret=tenant.made['secret']), {})
            tenant.end()
        eventually(lambda: not self.daemon.call('tenant.list')['tenants'])
        self.assertEqual(self.device()['granted'], 0)
        self.assertEqual(self.device()['available'], 80 * GIB - 512 * MIB)

    def test_what_died_with_the_daemon_is_given_back(self):
        gone, stays = Tenant(self.daemon, 2 * GIB), Tenant(self.daemon, 2 * GIB)
        for tenant in (gone, stays):
            tenant.hello()
            tenant.process.do('charge 0 500')
            tenant.process.do('intend 0 7')
        self.daemon.kill()
        gone.process.kill()
        gone.connection.close()
        # its maker, this process, lives: it could come back and tell of the end
        eventually(lambda: gone.inspect()['processes'] == [])
        self.assertEqual(gone.inspect()['devices'][0]['memory_used'], 0)
        self.assertEqual(stays.inspect()['devices'][0]['memory_used'], 507 << 12)

    def test_the_end_of_a_command_is_seen_without_its_maker(self):
        script = '''
import os, sys
sys.path.insert(0, %r)
from harness import *
class D: pass
d = D(); d.control = lambda: Control(%r)
t = Tenant(d, GIB)
t.hello()
print(t.id, t.process.pid, flush=True)
os.read(0, 1)
os._exit(0)
''' % (os.path.dirname(os.path.abspath(__file__)), self.daemon.directory)
        maker = subprocess.Popen([sys.executable, '-c', script], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True)
        id, pid = maker.stdout.readline().split()
        pid = int(pid)
        self.daemon.kill()
        maker.kill()
        maker.wait()
        maker.stdin.close()
        maker.stdout.close()
        # without its maker's pipe the command ends too, or has by now
        eventually(lambda: ended(pid))
        eventually(lambda: not self.daemon.call('tenant.list')['tenants'])
        self.assertEqual(self.device()['granted'], 0)

    def test_a_torn_journal_loses_its_end_alone(self):
        first, second = Tenant(self.daemon, GIB), Tenant(self.daemon, 2 * GIB)
        journal = self.daemon.directory + '/journal'
        for tail in (b'12345678 {"t":"gone"', b'\0' * 100, os.urandom(1000), b'\n\n\n',
                     b'00000000 {"t":"gone","id":"%s"}\n' % first.id.encode()):
            with open(journal, 'ab') as file:
                file.write(tail)
            self.daemon.kill()
            self.assertEqual([t['id'] for t in self.daemon.call('tenant.list')['tenants']],
                             [first.id, second.id])
            self.assertIn('damaged', self.daemon.events('daemon-recovered')[-1]['message'])

    def test_random_kills(self):
        rng = random.Random(7)
        tenants = [Tenant(self.daemon, (i + 1) * GIB) for i in range(3)]
        counts = [0, 0, 0]
        for tenant in tenants:
            tenant.hello()
        stop = threading.Event()

        def work(i):
            r = random.Random(i)
            while not stop.is_set():
                delta = r.randint(-counts[i], 2000)
                if tenants[i].process.do('charge 0 %d' % delta)[0] == 'ok':
                    counts[i] += delta
                time.sleep(0.001)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(12):
            time.sleep(rng.random() * 0.08)
            try:
                self.daemon.kill()
            except (ConnectionError, OSError):
                # too many in a short time: the keeper has given up, the next caller starts it
                self.daemon.start()
        stop.set()
        for thread in threads:
            thread.join()
        eventually(lambda: self.up())
        for i, tenant in enumerate(tenants):
            seen = tenant.inspect()['devices'][0]
            self.assertEqual((seen['memory'], seen['memory_used']),
                             ((i + 1) * GIB, counts[i] << 12))
        self.assertEqual(self.device()['granted'], 6 * GIB)

    def up(self):
        try:
            return self.daemon.pid()
        except OSError:
            self.daemon.start()
            return False

    def test_a_stopped_daemon_is_taken_up_by_the_next(self):
        tenant = Tenant(self.daemon, GIB)
        tenant.hello()
        tenant.process.do('charge 0 5')
        self.assertRefused('busy', 'daemon.stop')
        self.daemon.call('daemon.stop', force=True)
        eventually(lambda: not os.path.exists(self.daemon.directory + '/control.sock'))
        # on purpose: nobody starts it again before somebody wants it
        time.sleep(0.2)
        with self.assertRaises(OSError):
            self.daemon.pid()
        self.assertEqual(tenant.process.do('charge 0 5'), ['ok', '10'])
        self.daemon.start()
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 10 << 12)

    def test_a_lost_keeper_is_told_and_bounded_by_the_driver(self):
        tenant = Tenant(self.daemon, 4 * GIB)
        tenant.hello()
        tenant.process.do('charge 0 5')
        self.daemon.driver.hold(tenant.process.pid, 3 * MIB)
        keepers = [int(p) for p in os.listdir('/proc') if p.isdigit() and self.is_keeper(p)]
        self.assertEqual(len(keepers), 1)
        os.kill(keepers[0], signal.SIGKILL)
        self.daemon.kill()
        self.daemon.start()
        seen = tenant.inspect()
        self.assertEqual(seen['devices'][0]['memory'], 4 * GIB)
        self.assertEqual(seen['devices'][0]['memory_used'], 3 * MIB)
        self.assertTrue(any('pages' in w for w in self.daemon.call('daemon.info')['warnings']))
        self.assertEqual(tenant.process.do('hello')[:2], ['refused', '4'])
        tenant.process.kill()
        self.daemon.driver.forget(tenant.process.pid)
        eventually(lambda: tenant.inspect()['processes'] == [])

    def is_keeper(self, pid):
        try:
            with open('/proc/%s/cmdline' % pid, 'rb') as file:
                words = file.read().split(b'\0')
            return words[1] == b'--keeper' and words[2].decode() == self.daemon.directory
        except (OSError, IndexError):
            return False


class Journal(Case):
    # little more than the first record: room for two tenants or so
    CONFIG = '[daemon]\njournal_limit = 2K\n'

    def setUp(self):
        self.daemons = []
        base = tempfile.mkdtemp(prefix='cleave-test-')
        self.daemon = self.make_daemon('[daemon]\njournal_limit = 2K\nclaims = %s/claims\n' % base,
                                       directory=base)

    def test_without_room_for_the_journal_nothing_new_is_granted(self):
        tenants = []
        with self.assertRaises(Refused) as caught:
            for _ in range(20):
                tenants.append(Tenant(self.daemon, GIB))
                tenants[-1].hello()
        self.assertEqual(caught.exception.code, 'journal-failed')
        self.assertIn('No space left', caught.exception.message)
        self.assertGreaterEqual(len(tenants), 1)
        self.assertEqual(len(self.daemon.events('journal-failed')), 1)
        self.assertEqual(self.daemon.call('daemon.info')['journal'], 'failed')
        # what runs goes on
        self.assertEqual(tenants[0].process.do('charge 0 5'), ['ok', '5'])
        self.assertEqual(self.device()['granted'], len(tenants) * GIB)
        before = self.device()['granted']
        # with room again, all goes on
        for tenant in tenants[1:]:
            tenant.end()
        eventually(lambda: len(self.daemon.call('tenant.list')['tenants']) == 1)
        if len(tenants) == 1:
            tenants[0].end()
        eventually(lambda: self.daemon.call('daemon.info')['journal'] == 'ok')
        Tenant(self.daemon, GIB, start=False)


class Protocol(Case):
    def exchange(self, data):
        control = self.daemon.control()
        control.raw(data)
        try:
            return control.line()
        finally:
            control.close()

    def test_garbage_is_answered_not_died_of(self):
        for data in (b'\n', b'x\n', b'{\n', b'[]\n', b'7\n', b'"a"\n', b'null\n', b'{}\n',
                     b'{"id":1}\n', b'{"method":"daemon.info"}\n', b'{"id":"1","method":"daemon.info"}\n',
                     b'{"id":1,"method":7}\n', b'{"id":1,"method":"daemon.info","params":[]}\n',
                     b'{"id":1,"method":"daemon.info","params":{"x":1}}\n',
                     b'{"id":1,"method":"daemon.info","extra":1}\n',
                     b'{"id":1,"id":2,"method":"daemon.info"}\n',
                     b'{"id":99999999999999999999999,"method":"daemon.info"}\n',
                     b'\xff\xfe\x00\n', b'\0\0\0\0\n', b'[' * 100000 + b'\n',
                     b'{"a":' * 5000 + b'\n',
                     b'{"id":1,"method":"tenant.inspect","params":{"tenant":"\\u0000"}}\n',
                     b'{"id":1,"method":"events.watch","params":{"since":-1}}\n'):
            answer = self.exchange(data)
            self.assertEqual(answer['error']['code'], 'bad-request', data[:60])
        answer = self.exchange(b'{"id":3,"method":"tenant.fly"}\n')
        self.assertEqual((answer['id'], answer['error']['code']), (3, 'no-such-method'))
        answer = self.exchange(b'x' * (1 << 20) + b'x')
        self.assertIn('longer than 1 MiB', answer['error']['message'])
        for i in range(50):
            control = self.daemon.control()
            control.raw(os.urandom(random.randint(1, 3000)))
            control.close()
        self.assertEqual(self.daemon.call('daemon.info')['version'], self.version())

    def version(self):
        out = subprocess.run([BUILD + '/cleaved', '--version'], capture_output=True, text=True)
        return out.stdout.split()[1]

    def test_requests_in_one_packet_and_in_pieces(self):
        control = self.daemon.control()
        control.raw(b'{"id":1,"method":"tenant.list"}\n{"id":2,"method":"tenant.list"}\n{"id":')
        self.assertEqual([control.line()['id'] for _ in range(2)], [1, 2])
        for byte in b'3,"method":"tenant.list","params":{"all":true}}\n':
            control.raw(bytes([byte]))
        self.assertEqual(control.line(), {'id': 3, 'result': {'tenants': []}})
        for i in range(2000):
            control.send('tenant.list')
        for i in range(2000):
            control.line()

    def test_one_who_does_not_read_is_given_up(self):
        control = self.daemon.control(timeout=1)
        for _ in range(20):
            control.raw(b'{"id":1,"method":"no"}\n' * 100)
        with self.assertRaises(OSError):
            # the daemon reads no more when its answers are not taken
            while True:
                control.raw(b'{"id":1,"method":"no"}\n' * 1000)
        self.assertEqual(self.daemon.call('tenant.list'), {'tenants': []})
        count = 0
        while True:
            try:
                control.line()
                count += 1
            except (OSError, ValueError):
                break
        self.assertGreater(count, 1000)

    def test_watchers_see_what_happens(self):
        control = self.daemon.control()
        control.send('events.watch', since=0, follow=True)
        self.assertEqual(control.line()['event']['kind'], 'daemon-started')
        # others are not held up on the same connection
        control.send('tenant.list')
        self.assertEqual(control.line(), {'id': 2, 'result': {'tenants': []}})
        Tenant(self.daemon, start=False)
        event = control.line()['event']
        self.assertEqual((event['kind'], event['serial']), ('tenant-created', 2))
        control.send('events.watch')
        self.assertEqual(control.line()['error']['code'], 'bad-request')
        self.assertEqual([e['serial'] for e in self.daemon.events(since=1)][:1], [2])
        self.assertEqual(self.daemon.events(since=10 ** 15), [])

    def test_stop_ends_a_tenant(self):
        tenant = Tenant(self.daemon)
        tenant.hello()
        control = self.daemon.control()
        control.send('tenant.stop', tenant=tenant.id)
        self.assertEqual(tenant.process.process.wait(5), -signal.SIGTERM)
        tenant.connection.call('tenant.exit', tenant=tenant.id, status=signal.SIGTERM)
        self.assertEqual(control.answer(), {})

    def test_stop_kills_what_does_not_end(self):
        tenant = Tenant(self.daemon, start=False)
        tenant.process = Process(tenant.made['environment'])
        # started by way of a shell that ignores the signal, as its children do
        tenant.process.kill()
        shell = subprocess.Popen(['sh', '-c', 'trap "" TERM; sleep 100 & sleep 100; sleep 100'],
                                 start_new_session=True)
        tenant.connection.call('tenant.start', tenant=tenant.id, pid=shell.pid)
        time.sleep(0.1)
        control = self.daemon.control()
        control.send('tenant.stop', tenant=tenant.id, timeout=0.3)
        self.assertEqual(shell.wait(5), -signal.SIGKILL)
        tenant.connection.call('tenant.exit', tenant=tenant.id, status=9)
        self.assertEqual(control.answer(), {})
        for bad in ({'signal': 0}, {'signal': 99}, {'timeout': -1}, {'timeout': 1e300}):
            other = Tenant(self.daemon, start=False)
            self.assertRefused('bad-request', 'tenant.stop', tenant=other.id, **bad)
            other.connection.close()

    def test_garbage_on_the_guards_socket(self):
        magic = b'CLVM'
        good = magic + struct.pack('<HHII', 1, 1, 80, 0) + b'\0' * 64
        tenant = Tenant(self.daemon)
        for packet, answer in (
                (b'', None), (b'x', 'closed'), (b'\0' * 80, 'closed'), (good[:-1], 'closed'),
                (good + b'\0', 'closed'), (os.urandom(400), 'closed'), (b'\xff' * 3000, 'closed'),
                (magic + struct.pack('<HHII', 9, 1, 80, 0) + b'\0' * 64, 'refused'),
                (magic + struct.pack('<HHII', 1, 9, 80, 0) + b'\0' * 64, 'closed'),
                (magic + struct.pack('<HHII', 1, 4, 40, 0) + b'\0' * 24, 'closed'),
                (magic + struct.pack('<HHII', 1, 1, 0xffffffff, 0) + b'\0' * 64, 'closed')):
            if answer is None:
                continue
            process = Process(dict(tenant.made['environment']))
            said = process.do('raw ' + packet.hex())
            self.assertIn(said[0], (answer, 'error'), packet[:20])
            process.kill()
        self.assertEqual(tenant.hello()[0], 'welcome')
        # after its HELLO too: the account stays
        tenant.process.do('charge 0 3')
        tenant.process.do('raw ' + b'nonsense'.hex())
        time.sleep(0.05)
        self.assertEqual(tenant.inspect()['devices'][0]['memory_used'], 3 << 12)


class Neighbours(Case):
    def test_two_daemons_share_a_device(self):
        other = self.make_daemon(driver=self.daemon.driver,
                                 config='[daemon]\nclaims = %s/claims\n' % self.daemon.base)
        mine = Tenant(self.daemon, 50 * GIB)
        self.assertEqual(self.device(other)['claimed_by_others'], 50 * GIB)
        self.assertEqual(self.device(other)['available'], 80 * GIB - 512 * MIB - 50 * GIB)
        self.assertRefused('no-room', 'tenant.create', daemon=other, command=['x'],
                           devices=[{'device': '0', 'memory': 30 * GIB}])
        # what the neighbour's tenants use is not counted beside what they claimed
        mine.hello()
        mine.process.do('charge 0 %d' % (40 * GIB >> 12))
        self.daemon.driver.hold(mine.process.pid, 40 * GIB)
        eventually(lambda: self.device(other)['available'] == 80 * GIB - 512 * MIB - 50 * GIB)
        waits = other.control()
        waits.send('tenant.create', command=['x'], wait=True,
                   devices=[{'device': '0', 'memory': 60 * GIB}])
        mine.end()
        self.assertEqual(waits.answer()['tenant']['devices'][0]['memory'], 60 * GIB)
        self.assertEqual(self.device()['claimed_by_others'], 60 * GIB)
        # a claim holds while the daemon is killed and starts anew
        other.kill()
        self.assertEqual(self.device()['claimed_by_others'], 60 * GIB)

    def test_many_at_once_are_never_granted_too_much(self):
        other = self.make_daemon(driver=self.daemon.driver,
                                 config='[daemon]\nclaims = %s/claims\n' % self.daemon.base)
        granted = []

        def ask(daemon):
            for _ in range(12):
                control = daemon.control()
                try:
                    control.call('tenant.create', command=['x'],
                                 devices=[{'device': '0', 'memory': 5 * GIB}])
                    granted.append(5)
                except Refused as refused:
                    assert refused.code == 'no-room', refused
        threads = [threading.Thread(target=ask, args=(d,)) for d in (self.daemon, other) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sum(granted), 75)


class Life(Case):
    def test_it_ends_when_nothing_is_left_to_do(self):
        daemon = self.make_daemon(arguments=['--idle-exit=300ms'])
        tenant = Tenant(daemon, start=False)
        pidfd = os.pidfd_open(daemon.pid())
        time.sleep(0.6)
        self.assertEqual(daemon.call('tenant.list')['tenants'][0]['id'], tenant.id)
        tenant.connection.close()
        import select
        self.assertTrue(select.select([pidfd], [], [], 5)[0])
        os.close(pidfd)
        eventually(lambda: not os.path.exists(daemon.directory + '/keeper.sock'))
        self.assertFalse(os.path.exists(daemon.directory + '/control.sock'))

    def test_it_ends_with_its_directory(self):
        daemon = self.make_daemon()
        Tenant(daemon, start=False)
        pidfd = os.pidfd_open(daemon.pid())
        # the daemon removes its sockets at the same time
        shutil.rmtree(daemon.directory, ignore_errors=True)
        import select
        self.assertTrue(select.select([pidfd], [], [], 5)[0])
        os.close(pidfd)

    def test_one_daemon_a_directory(self):
        pid = self.daemon.pid()
        starts = [subprocess.Popen(self.daemon.command(), env=self.daemon.environment())
                  for _ in range(4)]
        self.assertEqual([s.wait(10) for s in starts], [0] * 4)
        self.assertEqual(self.daemon.pid(), pid)

    def test_many_starts_at_once_make_one(self):
        daemon = self.make_daemon(start=False)
        starts = [subprocess.Popen(daemon.command(), env=daemon.environment()) for _ in range(8)]
        self.assertEqual([s.wait(10) for s in starts], [0] * 8)
        daemon.pid()

    def test_without_a_driver_it_says_why(self):
        for number, words in ((9, 'kernel driver is not loaded'), (18, 'different versions'),
                              (999, 'its error 999')):
            daemon = self.make_daemon(start=False)
            daemon.driver.extra = ['fail %d' % number]
            daemon.driver.write()
            daemon.start()
            info = daemon.call('daemon.info')
            self.assertEqual(info['backend'], 'null')
            self.assertIn(words, info['backend_detail'])
            self.assertEqual(daemon.call('device.list'), {'devices': []})
            error = self.assertRefused('no-driver', 'tenant.create', daemon=daemon, command=['x'],
                                       devices=[{'device': '0', 'memory': GIB}])
            self.assertIn(words, error.message)
        # and finds it once it is there
        daemon.driver.extra = []
        daemon.driver.write()
        eventually(lambda: daemon.call('device.list')['devices'])

    def test_bad_options_and_configurations_are_told(self):
        def run(*arguments):
            out = subprocess.run([BUILD + '/cleaved', *arguments], capture_output=True, text=True,
                                 timeout=10, env=self.daemon.environment())
            return out.returncode, out.stderr
        self.assertEqual(run('--fly')[0], 2)
        self.assertIn("one argument too many", run('x')[1])
        bad = self.daemon.base + '/bad.conf'
        with open(bad, 'w') as file:
            file.write('[audit]\npolicy = x\n[daemon]\nnonsense = 1\n')
        status, text = run('--user', '--config=' + bad)
        self.assertEqual(status, 2)
        self.assertIn(bad + ':2: policy = x: it is report or kill', text)
        self.assertIn(bad + ":4: [daemon] has no 'nonsense'", text)
        self.assertEqual(run('--user', '--config=/nonexistent')[0], 2)
        self.assertEqual(run('--user', '--idle-exit=never')[0], 2)
        status, text = run('--user', '--runtime-dir=/nonexistent/x')
        self.assertEqual(status, 1)
        self.assertIn('cannot make runtime directory', text)
        os.mkdir(self.daemon.base + '/open', 0o777)
        os.chmod(self.daemon.base + '/open', 0o777)
        status, text = run('--user', '--runtime-dir=' + self.daemon.base + '/open')
        self.assertEqual(status, 1)
        self.assertIn('can be written by others', text)

    def test_a_long_directory(self):
        base = tempfile.mkdtemp(prefix='cleave-test-' + 'x' * 90)
        daemon = Daemon(directory=base, start=False)
        self.daemons.append(daemon)
        daemon.start()
        self.assertTrue(os.path.exists(daemon.directory + '/control.sock'))


class Access(Case):
    """As root: what other users may do with the system's daemon."""

    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest('only root can be several users')
        super().setUp()

    def system(self, config):
        base = tempfile.mkdtemp(prefix='cleave-test-')
        os.chmod(base, 0o755)
        daemon = Daemon(config + '[daemon]\nclaims = %s/claims\n' % base, directory=base,
                        start=False)
        self.daemons.append(daemon)
        process = subprocess.Popen([a for a in daemon.command() if a != '--user'],
                                   env=daemon.environment(), stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        eventually(lambda: os.path.exists(daemon.directory + '/control.sock'))
        return daemon

    def as_user(self, daemon, uid, *calls):
        """Makes calls on one connection as that user; a list of results or error codes."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
                control = Control(daemon.directory)
                out = []
                for method, params in calls:
                    try:
                        out.append(control.call(method, **params))
                    except Refused as refused:
                        out.append(refused.code)
                os.write(write, json.dumps(out).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, 'rb') as file:
            data = file.read()
        os.waitpid(pid, 0)
        return json.loads(data)

    def test_ceilings_and_groups(self):
        daemon = self.system('[access]\nmemory = 8G\ntenants = 2\n[uid 4711]\nmemory = 16G\n')

        def want(memory):
            return ('tenant.create', dict(command=['x'], devices=[{'device': '0',
                                                                   'memory': memory}]))
        info, first = self.as_user(daemon, 4712, ('daemon.info', {}), want(8 * GIB))
        self.assertEqual(info['ceiling'], 8 * GIB)
        self.assertEqual(first['tenant']['uid'], 4712)
        self.assertEqual(self.as_user(daemon, 4712, want(9 * GIB)), ['beyond-ceiling'])
        self.assertEqual(self.as_user(daemon, 4711, want(17 * GIB)), ['beyond-ceiling'])
        self.assertEqual(self.as_user(daemon, 4711, want(16 * GIB))[0]['tenant']['uid'], 4711)
        self.assertEqual(self.as_user(daemon, 4711, ('tenant.list', {'all': True}),
                                      ('daemon.stop', {})), ['not-permitted', 'not-permitted'])
        daemon = self.system('[access]\ngroup = daemon\n')
        self.assertEqual(self.as_user(daemon, 4712, want(GIB)), ['not-permitted'])
        self.assertIsInstance(self.as_user(daemon, 1, want(GIB))[0], dict)

    def test_users_do_not_see_each_other(self):
        daemon = self.system('')
        tenant = Tenant(daemon, start=False, name='secret-project')
        answers = self.as_user(daemon, 4711, ('tenant.list', {}),
                               ('tenant.inspect', {'tenant': 'secret-project'}),
                               ('tenant.stop', {'tenant': tenant.id}),
                               ('tenant.set', {'tenant': tenant.id,
                                               'devices': [{'device': '0', 'memory': MIB}]}),
                               ('tenant.attach', {'tenant': tenant.id,
                                                  'secret': tenant.made['secret']}),
                               ('events.watch', {}))
        self.assertEqual(answers[:5], [{'tenants': []}] + ['no-such-tenant'] * 4)
        self.assertEqual(answers[5].get('kind'), 'daemon-started')
        self.assertNotIn('secret-project', json.dumps(answers))


if __name__ == '__main__':
    unittest.main()
