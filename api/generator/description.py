# SPDX-License-Identifier: Apache-2.0
"""Reads and checks a description. The format is told at the top of cuda.api."""

import re

from .ctypes_header import Header

DIRECTIONS = ('in', 'out', 'inout', 'address', 'opaque')
SUFFIXES = ('ptds', 'ptsz')

_NAME = re.compile(r'[A-Za-z_]\w*$')
_LENGTH = re.compile(r'(count|bytes)\s*\(([^()]*)\)')


class Parameter:
    def __init__(self, name, ctype, stars, const, direction=None, makes=False, frees=False,
                 length_unit=None, length=None, string=False):
        self.name = name
        self.ctype = ctype              # the type without const and stars
        self.stars = stars
        self.const = const
        self.direction = direction      # one of DIRECTIONS; None: passed by value
        self.makes = makes
        self.frees = frees
        self.length_unit = length_unit  # count, bytes or None
        self.length = length            # terms: (sign, kind, value), kind number, value or pointee
        self.string = string

    def declaration(self):
        const = 'const ' if self.const else ''
        return f'{const}{self.ctype} {"*" * self.stars}{self.name}'


class Entry:
    """One exported symbol."""

    def __init__(self, symbol, function, version, parameters, result, line, suffix=None, of=None):
        self.symbol = symbol
        self.function = function
        self.version = version        # None: never served by the look-up
        self.parameters = parameters  # None: prototype not public
        self.result = result
        self.line = line
        self.suffix = suffix          # ptds, ptsz or None
        self.of = of                  # the entry whose suffixed variant this is
        self.index = None

    @property
    def cls(self):
        return self.function.cls

    def prototype(self):
        if not self.parameters:
            return f'{self.result} {self.symbol}(void)'.replace('* ', '*')
        return (f'{self.result} {self.symbol}('.replace('* ', '*') +
                ', '.join(p.declaration() for p in self.parameters) + ')')


class Function:
    """A base name with the entries that serve it."""

    def __init__(self, name, cls, section, line):
        self.name = name
        self.cls = cls
        self.section = section
        self.line = line
        self.entries = []


class Description:
    def __init__(self, path, types_path):
        self.path = path
        self._errors = []
        self.header = Header(types_path)
        self.functions = []
        self.result = None
        self.classes = []
        self.versioned = False
        self.handles = set()    # pointer types that are handles although what they point to is void
        self.addresses = set()  # TYPE.FIELD: pointers in structures that nobody follows
        self.numbers = set()    # types that are handles although they are plain numbers
        self.device_addresses = set()
        self.arrays = {}        # TYPE.FIELD: the field of TYPE that says how many it points to
        self._read()
        self._check()
        self.entries = sorted((e for f in self.functions for e in f.entries),
                              key=lambda e: e.symbol)
        for i, e in enumerate(self.entries):
            e.index = i

    @property
    def errors(self):
        """The mistakes, as FILE:LINE: error: SENTENCE, by line."""
        return [f'{self.path}:{line}: error: {sentence}' for line, sentence in sorted(self._errors)]

    def error(self, line, sentence):
        self._errors.append((line, sentence))

    # Reading

    def _read(self):
        section = ''
        function = bare = None
        pending, pending_line = '', 0
        number = 0
        for number, raw in enumerate(open(self.path, encoding='utf-8'), 1):
            text = raw.rstrip('\n')
            if pending:
                pending += ' ' + text.strip()
            elif text.startswith('## '):
                section = text[3:].strip()
                continue
            elif not text.strip() or text.startswith('#'):
                continue
            elif text.startswith('@'):
                bare = self._directive(text, number)
                continue
            elif not text[0].isspace():
                function = self._function(text, section, number)
                bare = None
                continue
            elif bare:
                self._bare(text.strip(), bare, section, number)
                continue
            else:
                pending, pending_line = text.strip(), number
            if pending.count('(') > pending.count(')'):
                continue
            if function is None:
                self.error(pending_line, 'an entry stands before any function')
            else:
                self._entry(function, pending, pending_line)
            pending = ''
        if pending:
            self.error(pending_line, 'a parenthesis is not closed')
        if not self.result:
            self.error(number or 1, '@result is missing')

    def _directive(self, text, line):
        """Returns the class of the bare names that follow, or None."""
        word, *rest = text[1:].split()
        if word == 'result' and len(rest) == 1:
            self.result = rest[0]
            if rest[0] not in self.header.types:
                self.error(line, f'unknown type {rest[0]!r}')
        elif word == 'classes' and rest:
            self.classes = rest
        elif word == 'versions' and not rest:
            self.versioned = True
        elif word == 'handles' and rest:
            for name in rest:
                if name not in self.header.types:
                    self.error(line, f'unknown type {name!r}')
            self.handles.update(rest)
        elif word == 'addresses' and rest:
            for name in rest:
                if name not in self._all_pointers(name.split('.')[0], line):
                    self.error(line, f'{name} is no pointer')
            self.addresses.update(rest)
        elif word in ('numbers', 'device_addresses') and rest:
            for name in rest:
                if name not in self.header.types:
                    self.error(line, f'unknown type {name!r}')
            (self.numbers if word == 'numbers' else self.device_addresses).update(rest)
        elif word == 'array' and len(rest) == 2:
            name, _, field = rest[0].partition('.')
            fields = {f.name: f for f in getattr(self.header.types.get(name), 'fields', ())}
            if field not in fields or fields[field].stars != 1 or rest[1] not in fields:
                self.error(line, f'{rest[0]} is no pointer, or {rest[1]} no field beside it')
            self.arrays[rest[0]] = rest[1]
        elif word == 'names' and len(rest) == 1 and rest[0] in self.classes:
            return rest[0]
        else:
            self.error(line, f'unknown or incomplete directive {text!r}')
        return None

    def _bare(self, name, cls, section, line):
        if not _NAME.match(name):
            self.error(line, f'expected one symbol, found {name!r}')
            return
        function = Function(name, cls, section, line)
        function.entries.append(Entry(name, function, None, None, self.result, line))
        self.functions.append(function)

    def _function(self, text, section, line):
        words = text.split()
        if len(words) == 1:
            if words[0] in self.classes:
                self.error(line, f'class {words[0]!r} stands without a function')
                return Function(None, words[0], section, line)
            self.error(line, f'{words[0]} has no class')
            words.insert(0, None)
        elif len(words) > 2:
            self.error(line, f'expected CLASS FUNCTION, found {text!r}')
        elif words[0] not in self.classes:
            self.error(line, f'unknown class {words[0]!r}')
        function = Function(words[1], words[0], section, line)
        self.functions.append(function)
        return function

    def _entry(self, function, text, line):
        m = re.match(r'([^(]*?)(\w+)\s*\((.*)\)\s*(?:returns\s+(.+))?$', text)
        if not m:
            self.error(line, f'cannot read the entry {text!r}')
            return
        tags, symbol, inner, result = m.groups()
        version, suffix, suffix_version = self._tags(tags.split(), line)
        if result and result.replace('const ', '').rstrip('* ') not in self.header.types:
            self.error(line, f'{symbol}: unknown type {result!r}')
        parameters = self._parameters(symbol, inner, line)
        entry = Entry(symbol, function, version, parameters, result or self.result, line)
        function.entries.append(entry)
        if suffix:
            function.entries.append(Entry(f'{symbol}_{suffix}', function, suffix_version,
                                          parameters, entry.result, line, suffix, entry))

    def _tags(self, words, line):
        if not self.versioned:
            if words:
                self.error(line, f'unexpected {" ".join(words)!r} before the symbol')
            return None, None, None
        if not words:
            self.error(line, 'the version is missing')
            return None, None, None
        version = None if words[0] == 'unserved' else self._version(words[0], line)
        suffix = suffix_version = None
        if len(words) == 3 and words[1] in SUFFIXES:
            suffix = words[1]
            suffix_version = self._version(words[2], line)
        elif len(words) != 1:
            self.error(line, f'expected VERSION [ptds|ptsz VERSION], found {" ".join(words)!r}')
        return version, suffix, suffix_version

    def _version(self, word, line):
        if not re.match(r'[1-9]\d{3,4}$', word):
            self.error(line, f'{word!r} is not a version')
            return None
        return int(word)

    def _parameters(self, symbol, inner, line):
        if inner.strip() == '...':
            return None
        if not inner.strip():
            return []
        parts, depth, part = [], 0, ''
        for c in inner:
            depth += {'(': 1, ')': -1}.get(c, 0)
            if c == ',' and depth == 0:
                parts.append(part)
                part = ''
            else:
                part += c
        parameters = []
        for text in parts + [part]:
            p = self._parameter(symbol, text.strip(), line)
            if p:
                parameters.append(p)
        return parameters

    def _parameter(self, symbol, text, line):
        where = f'{symbol}: {text!r}'
        unit = terms = None
        m = _LENGTH.search(text)
        if m:
            unit, terms = m.group(1), self._terms(m.group(2), where, line)
            text = (text[:m.start()] + text[m.end():]).strip()
        words = text.replace('*', ' * ').split()
        string = words and words[-1] == 'string'
        if string:
            words.pop()
        direction = makes = frees = None
        if words and words[0] in DIRECTIONS:
            direction = words.pop(0)
        while words and words[0] in ('makes', 'frees'):
            makes = makes or words[0] == 'makes'
            frees = frees or words[0] == 'frees'
            words.pop(0)
        if len(words) < 2 or not _NAME.match(words[-1]):
            self.error(line, f'{where}: expected [DIRECTION] TYPE NAME')
            return None
        name = words.pop()
        stars = words.count('*')
        const = words[0] == 'const'
        ctype = ' '.join(w for w in words if w not in ('const', '*'))
        if ctype not in self.header.types:
            first = ctype.split()[0] if ctype else ''
            if ' ' in ctype and ctype.split(' ', 1)[1] in self.header.types:
                self.error(line, f'{where}: unknown direction {first!r}')
                return None
            else:
                self.error(line, f'{where}: unknown type {ctype!r}')
        if stars and not direction:
            self.error(line, f'{where}: a pointer needs a direction')
        if direction and not stars:
            self.error(line, f'{where}: a direction belongs to a pointer')
        if direction in ('address', 'opaque') and (unit or string):
            self.error(line, f'{where}: {direction} has no length')
        if direction == 'out' and const and stars == 1 or direction == 'inout' and const:
            self.error(line, f'{where}: the callee cannot write through const')
        if makes and direction not in ('out', 'inout'):
            self.error(line, f'{where}: what a call makes comes out of it')
        if string and (ctype != 'char' or stars != 1):
            self.error(line, f'{where}: a string is a char *')
        followed = direction in ('in', 'out', 'inout')
        if ctype == 'void' and stars == 1 and followed and unit != 'bytes':
            self.error(line, f'{where}: the length of void * is in bytes(...)')
        return Parameter(name, ctype, stars, const, direction, bool(makes), bool(frees), unit,
                         terms, string)

    def _terms(self, text, where, line):
        terms = []
        for sign, term in re.findall(r'([+-]?)\s*([^+-]+)', text):
            term = term.strip()
            if term.isdigit():
                terms.append((sign or '+', 'number', int(term)))
            elif _NAME.match(term):
                terms.append((sign or '+', 'value', term))
            elif term.startswith('*') and _NAME.match(term[1:].strip()):
                terms.append((sign or '+', 'pointee', term[1:].strip()))
            else:
                self.error(line, f'{where}: cannot read the length {text!r}')
                return [('+', 'number', 0)]
        if len(terms) > 2:
            self.error(line, f'{where}: a length has at most two terms')
        if any(kind == 'number' and value > 32767 for _, kind, value in terms):
            self.error(line, f'{where}: the number is too large')
        if not terms:
            self.error(line, f'{where}: the length is empty')
        return terms

    # Pointers inside types

    def inner_pointers(self, ctype):
        """The pointers that a value of this type carries and that are neither handles nor bare
        addresses; `()` is a function."""
        return [p for p in self._pointers(ctype, ctype) if p not in self.addresses]

    def _all_pointers(self, ctype, line):
        if ctype not in self.header.types:
            self.error(line, f'unknown type {ctype!r}')
            return []
        return self._pointers(ctype, ctype)

    def _pointers(self, ctype, path):
        t = self.header.types.get(ctype)
        while t and t.kind == 'alias':
            if t.name in self.handles or self.header.is_handle_alias(t):
                return []
            if t.of.function:
                return ['()']
            if t.of.stars:
                return [path]
            t = t.of.type
        return self._record_pointers(t, path) if t else []

    def _record_pointers(self, t, path):
        found = []
        if t.name and t.kind in ('struct', 'union'):
            path = t.name
        for f in t.fields:
            inner = f'{path}.{f.name}' if f.name else path
            if f.function or f.stars:
                found.append(inner)
            elif f.type.name is None or f.type.kind in ('struct', 'union'):
                found += self._record_pointers(f.type, inner)
            else:
                found += self._pointers(f.type.name, inner)
        return found

    # Checks over the whole

    def _check(self):
        symbols, functions = {}, {}
        for f in self.functions:
            if f.name in functions:
                self.error(f.line, f'function {f.name} was described in line '
                                   f'{functions[f.name].line}')
            functions[f.name] = f
            if not f.entries:
                self.error(f.line, f'{f.name} has no entry')
            for e in f.entries:
                if e.symbol in symbols:
                    self.error(e.line, f'symbol {e.symbol} was described in line '
                                       f'{symbols[e.symbol].line}')
                symbols[e.symbol] = e
                if e.parameters and not e.of:
                    self._check_parameters(e)
            self._check_versions(f)

    def _check_versions(self, f):
        for suffix in (None,) + SUFFIXES:
            before = 0
            for e in f.entries:
                if e.suffix != suffix or e.version is None:
                    continue
                if e.version <= before:
                    self.error(e.line, f'{e.symbol}: version {e.version} does not rise above '
                                       f'{before}')
                before = e.version

    def _check_parameters(self, e):
        names = {}
        if len(e.parameters) > 20:
            self.error(e.line, f'{e.symbol}: more than 20 parameters')
        for p in e.parameters:
            if p.name in names:
                self.error(e.line, f'{e.symbol}: two parameters named {p.name}')
            names[p.name] = p
        for p in e.parameters:
            for _, kind, value in p.length or ():
                if kind == 'number':
                    continue
                of = names.get(value)
                if of is None:
                    self.error(e.line, f'{e.symbol}: the length of {p.name} names no parameter '
                                       f'{value!r}')
                elif kind == 'value' and of.stars:
                    self.error(e.line, f'{e.symbol}: the length of {p.name} is a pointer, '
                                       f'write *{value}')
                elif kind == 'pointee' and (of.stars != 1 or of.direction not in ('in', 'inout')):
                    self.error(e.line, f'{e.symbol}: the length of {p.name} is behind {value}, '
                                       f'which the callee does not read')
