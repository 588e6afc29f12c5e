#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the descriptions with an installed CUDA toolkit and says what differs.

    compare.py [--toolkit DIR] [--cc CC]

Looked at: every name, every prototype, every version of cuGetProcAddress's names, every type's
size, every field's offset, every constant; NVML's too where nvml.h is installed. What both have
must be the same; what the toolkit has and we lack is a difference unless the toolkit is newer than
our description, then it is only listed. Exit status: 0 same, 1 different, 77 no toolkit here."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

from generator.description import Description

HERE = os.path.dirname(os.path.abspath(__file__))

# The toolkit's headers, what each needs, and which of our names live there (the rest: cuda.h).
CUDA_HEADERS = [
    ('PROFILER', 'cudaProfiler.h', 'cudaProfilerTypedefs.h', 'stdint.h',
     r'CUoutput_mode|CU_OUT_|cuProfiler'),
    ('GL', 'cudaGL.h', 'cudaGLTypedefs.h', 'GL/gl.h',
     r'CUGL|CU_GL_|GL(uint|enum)$|cuGL|cuGraphicsGL'),
    ('EGL', 'cudaEGL.h', 'cudaEGLTypedefs.h', 'EGL/eglext.h',
     r'CUegl|CU_EGL|CUDA_EGL|EGL|cuEGL|cuGraphics(EGL|ResourceGetMappedEgl)'),
    ('VDPAU', 'cudaVDPAU.h', 'cudaVDPAUTypedefs.h', 'vdpau/vdpau.h',
     r'Vdp|cuVDPAU|cuGraphicsVDPAU'),
]


class Comparison:
    def __init__(self, api, include, cc, work):
        self.api = api
        self.include = include
        self.cc = cc
        self.work = work
        self.description = Description(f'{HERE}/{api}.api', f'{HERE}/{api}_types.h')
        self.differences = []
        self.news = []
        if api == 'cuda':
            self.prologue = ['#define __CUDA_API_VERSION_INTERNAL', '#include <cuda.h>',
                             '#include <cudaTypedefs.h>', '#define HAVE_CUDA 1']
            for group, header, typedefs, needs, _ in CUDA_HEADERS:
                self.prologue += [f'#if __has_include(<{needs}>) && __has_include(<{header}>)',
                                  f'#include <{header}>', f'#if __has_include(<{typedefs}>)',
                                  f'#include <{typedefs}>', '#endif', f'#define HAVE_{group} 1',
                                  '#endif']
        else:
            self.prologue = ['#define NVML_NO_UNVERSIONED_FUNC_DEFS', '#include <nvml.h>',
                             '#define HAVE_CUDA 1']
        self.preprocessed = self._preprocess([])
        self.declared = set(re.findall(rf'\b({self.prefix}[A-Z]\w*)\s*\(', self.preprocessed))
        self.version = self._toolkit_version()

    @property
    def prefix(self):
        return 'cu' if self.api == 'cuda' else 'nvml'

    def _toolkit_version(self):
        name = 'CUDA_VERSION' if self.api == 'cuda' else 'NVML_API_VERSION'
        version = int(re.search(r'^version (\d+)', self._preprocess([f'version {name}']),
                                re.M).group(1))
        return version if self.api == 'cuda' else version * 1000

    def _preprocess(self, more):
        return self._run(['-E', '-P'], self.prologue + more, 'preprocessed.c').stdout

    def _run(self, flags, lines, name):
        path = os.path.join(self.work, name)
        with open(path, 'w', encoding='utf-8') as f:
            f.write('\n'.join(lines) + '\n')
        return subprocess.run([self.cc, '-w', '-std=gnu11', *flags, path], capture_output=True,
                              text=True)

    @staticmethod
    def group(name):
        for group, _, _, _, pattern in CUDA_HEADERS:
            if re.match(pattern, name):
                return group
        return 'CUDA'

    def lacks(self, what):
        (self.news if self.version > 13000 else self.differences).append(f'we lack {what}')

    # Names and prototypes

    def names(self):
        ours = {e.symbol for e in self.description.entries}
        theirs = {n for n in self.declared if not n.startswith('PFN_')}
        for symbol in self._library_names():
            theirs.add(symbol)
        not_linux = {'cuWGLGetDevice', 'cuEventCreateFromEGLSync'}
        for name in sorted(theirs - ours - not_linux):
            if re.match(r'cu[A-Z]|nvml[A-Z]', name):
                self.lacks(f'{name}')

    def _library_names(self):
        nm = shutil.which('nm')
        for folder in ('lib64/stubs', 'lib/stubs', 'targets/x86_64-linux/lib/stubs'):
            library = os.path.join(self.include, '..', folder,
                                   'libcuda.so' if self.api == 'cuda' else 'libnvidia-ml.so')
            if nm and os.path.exists(library):
                text = subprocess.run([nm, '-D', '--defined-only', library], capture_output=True,
                                      text=True).stdout
                return [line.split()[-1] for line in text.splitlines()]
        return []

    def prototypes(self):
        checks = []
        for e in self.description.entries:
            if e.parameters is None:
                continue
            pointer = re.sub(rf'\b{e.symbol}\(', '(*)(', e.prototype(), count=1)
            group = self.group(e.symbol)
            if e.symbol in self.declared:
                checks.append((group, e, f'__typeof__(&{e.symbol})', pointer))
            if self.api == 'cuda' and e.version is not None:
                pfn = f'PFN_{e.function.name}_v{e.version}' + (f'_{e.suffix}' if e.suffix else '')
                if re.search(rf'\*{pfn}\)', self.preprocessed):
                    checks.append((group, e, pfn, pointer))
                elif self.version >= e.version and self._typedefs_of(group):
                    self.differences.append(f'{e.symbol}: the toolkit has no {pfn}')
        text = list(self.prologue)
        for group, e, theirs, ours in checks:
            text += [f'#ifdef HAVE_{group}',
                     f'_Static_assert(__builtin_types_compatible_p({theirs}, {ours}), '
                     f'"{e.symbol}: {theirs} is not {ours}");', '#endif']
        self._errors(self._run(['-c', '-o', os.devnull], text, 'prototypes.c'), 'prototypes')
        return len(checks)

    def _typedefs_of(self, group):
        """Whether the header of PFN_ types that covers this group could be read here."""
        if group == 'CUDA':
            return True
        name = {'PROFILER': 'cuProfiler', 'GL': 'cuGL', 'EGL': 'cuEGL', 'VDPAU': 'cuVDPAU'}[group]
        return f'PFN_{name}' in self.preprocessed

    def versions(self):
        """Every PFN_ type of the toolkit names an entry of ours."""
        if self.api != 'cuda':
            return 0
        ours = {(e.function.name, e.version, e.suffix) for e in self.description.entries}
        found = set(re.findall(r'\*PFN_(cu\w+?)_v(\d+)(?:_(pt[ds][sz]))?\)', self.preprocessed))
        for name, version, suffix in sorted(found):
            if (name, int(version), suffix or None) not in ours and name not in (
                    'cuEventCreateFromEGLSync', 'cuWGLGetDevice'):
                self.lacks(f'{name} of version {version} {suffix}')
        return len(found)

    def _errors(self, result, what):
        if result.returncode:
            lines = re.findall(r'static assertion failed: "([^"]*)"|error: (.*)', result.stderr)
            for assertion, other in lines:
                self.differences.append(f'{what}: {assertion or other}')
            if not lines:
                self.differences.append(f'{what}: {result.stderr.strip()[:2000]}')

    # Types and constants

    def layouts(self):
        """One program, compiled with our header and with theirs, prints what it sees."""
        body = []
        header = self.description.header
        for name, t in header.types.items():
            behind, stars = header.resolve(name)
            if t.kind == 'basic' or behind.kind == 'opaque' and not stars or self._is_function(t):
                continue
            body += [f'#ifdef HAVE_{self.group(name)}',
                     f'        say("sizeof {name}", sizeof({name}));',
                     f'        say("alignof {name}", _Alignof({name}));']
            if behind.kind in ('struct', 'union') and not stars:
                for path in self._fields(behind, ''):
                    body += [f'        say("{name}.{path}", offsetof({name}, {path}));',
                             f'        say("sizeof {name}.{path}", sizeof((({name} *)0)->{path}));']
            body.append('#endif')
        for name in header.constants() + header.macros:
            if re.search(r'_FMT$|_H$|^CU_LAUNCH_PARAM_(END|BUFFER_POINTER|BUFFER_SIZE)$', name):
                continue
            body += [f'#ifdef HAVE_{self.group(name)}',
                     f'        say("{name}", (long long)(intptr_t)({name}));', '#endif']
        program = ['#include <stdio.h>', '#include <stddef.h>', '#include <stdint.h>',
                   'static void say(const char *what, long long value)', '{',
                   '        printf("%s = %lld\\n", what, value);', '}', 'int main(void)', '{',
                   *body, '}']
        asked = [f'#ifdef HAVE_{g}\nhave {g}\n#endif'
                 for g in ['CUDA'] + [h[0] for h in CUDA_HEADERS]]
        ours = [f'#define HAVE_{g} 1' for g in re.findall(r'have (\w+)', self._preprocess(asked))]
        ours += [f'#include "{HERE}/{self.api}_types.h"']
        outputs = []
        for side, first in (('ours', ours), ('theirs', self.prologue)):
            exe = os.path.join(self.work, f'{self.api}_{side}')
            result = self._run(['-o', exe], first + program, f'{side}.c')
            self._errors(result, f'types, {side}')
            if result.returncode:
                return 0
            printed = subprocess.run([exe], capture_output=True, text=True, check=True).stdout
            outputs.append(printed.splitlines())
        for a, b in zip(*outputs):
            if a != b:
                self.differences.append(f'ours {a}, theirs {b}')
        return len(outputs[0])

    def _is_function(self, t):
        while t.kind == 'alias':
            if t.of.function:
                return True
            t = t.of.type
        return False

    def _fields(self, t, path):
        header = self.description.header
        for f in t.fields:
            inner = f.type
            if f.name is None:
                yield from self._fields(inner, path)
                continue
            yield path + f.name
            record = inner.name is None and inner.kind in ('struct', 'union')
            if record and not f.length and not f.stars:
                yield from self._fields(inner, path + f.name + '.')

    def constants(self):
        """Enum constants of the toolkit that we lack; for NVML we describe a part only."""
        if self.api != 'cuda':
            return
        ours = set(self.description.header.constants())
        for body in re.findall(r'\benum\b[^;{]*\{([^}]*)\}', self.preprocessed):
            for name in re.findall(r'(?:^|,)\s*((?:CU|CUDA|NVCL)_\w+)', body):
                if name not in ours:
                    self.lacks(f'the constant {name}')


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--toolkit', default=os.environ.get('CUDA_HOME', '/usr/local/cuda'))
    p.add_argument('--cc', default=os.environ.get('CC', 'cc'))
    a = p.parse_args()
    include = os.path.join(a.toolkit, 'include')
    if not os.path.exists(os.path.join(include, 'cudaTypedefs.h')):
        print(f'no CUDA toolkit at {a.toolkit}')
        return 77
    os.environ['CPATH'] = os.pathsep.join(filter(None, [include, os.environ.get('CPATH')]))
    differences = 0
    for api, header in (('cuda', 'cuda.h'), ('nvml', 'nvml.h')):
        if not os.path.exists(os.path.join(include, header)):
            print(f'{api}: no {header} in {include}, not compared')
            continue
        with tempfile.TemporaryDirectory() as work:
            c = Comparison(api, include, a.cc, work)
            c.names()
            prototypes = c.prototypes()
            versions = c.versions()
            c.constants()
            facts = c.layouts()
        for line in c.differences:
            print(f'{api}: {line}')
        for line in c.news:
            print(f'{api}: newer toolkit: {line}')
        print(f'{api}: {len(c.description.entries)} entries; {prototypes} prototypes, '
              f'{versions} versions, {facts} sizes, offsets and values compared with version '
              f'{c.version}; {len(c.differences)} differences')
        differences += len(c.differences)
    return 1 if differences else 0


if __name__ == '__main__':
    sys.exit(main())
