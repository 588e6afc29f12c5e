# SPDX-License-Identifier: Apache-2.0
"""Reads a header of plain C types (cuda_types.h, nvml_types.h) as far as a generator must know it:
which names exist, which are pointers or functions, and what a structure is made of.

The header keeps to typedefs, structs, unions and enums without conditionals; anything else is an
error."""

import re

from .errors import DescriptionError

_TOKEN = re.compile(r'''
    (?P<space>[ \t]+)
  | (?P<newline>\n)
  | (?P<comment>/\*.*?\*/)
  | (?P<directive>\#(?:\\\n|[^\n])*)
  | (?P<word>[A-Za-z_]\w*)
  | (?P<number>0[xX][0-9a-fA-F]+[uUlL]*|\d+[uUlL]*)
  | (?P<punct><<|>>|\.\.\.|[{}()\[\];,*=+\-|~&])
''', re.X | re.S)

BASIC = {
    'void', 'char', 'signed char', 'unsigned char', 'short', 'unsigned short', 'int', 'unsigned',
    'unsigned int', 'long', 'unsigned long', 'long long', 'signed long long',
    'unsigned long long', 'float', 'double',
    'size_t', 'int8_t', 'uint8_t', 'int16_t', 'uint16_t', 'int32_t', 'uint32_t', 'int64_t',
    'uint64_t',
}
_BASIC_WORDS = {w for b in BASIC for w in b.split()}


class Type:
    """What a name stands for. kind: basic, alias, enum, struct, union, function, opaque.

    An alias has `of` (a Declared); a struct or union has `fields` (Declared each)."""

    def __init__(self, name, kind, of=None, fields=None, constants=None, line=0, tag=None):
        self.name = name
        self.kind = kind
        self.of = of
        self.fields = fields or []
        self.constants = constants or []
        self.line = line
        self.tag = tag


class Declared:
    """A name of some type: a structure's field or what a typedef makes."""

    def __init__(self, name, type, stars=0, length=None, function=False):
        self.name = name
        self.type = type
        self.stars = stars
        self.length = length
        self.function = function


class Header:
    def __init__(self, path):
        self.path = path
        self.types = {b: Type(b, 'basic') for b in BASIC}
        self.tags = {}
        self.macros = []
        self._read(open(path, encoding='utf-8').read())

    def constants(self):
        """Every enum constant, in the header's order."""
        seen = []
        for t in list(self.types.values()) + list(self.tags.values()):
            if t.kind == 'enum':
                seen += [c for c in t.constants if c not in seen]
        return seen

    def resolve(self, name):
        """The type behind a name, with the pointer levels that aliases add on the way."""
        stars = 0
        t = self.types[name]
        while t.kind == 'alias':
            if t.of.function:
                return t, stars
            stars += t.of.stars
            t = t.of.type
        return t, stars

    @staticmethod
    def is_handle_alias(t):
        """Whether this typedef is a pointer to a structure that stays incomplete: a handle."""
        return t.kind == 'alias' and t.of.stars == 1 and t.of.type.kind == 'opaque'

    # The parser: recursive descent over a token list.

    def _read(self, text):
        self._tokens = []
        line, at = 1, 0
        while at < len(text):
            m = _TOKEN.match(text, at)
            if not m:
                raise DescriptionError(self.path, line, f'cannot read {text[at]!r}')
            kind = m.lastgroup
            if kind == 'directive':
                d = re.match(r'#define\s+(\w+)\s+(.+)', m.group(), re.S)
                if d:
                    self.macros.append(d.group(1))
            elif kind not in ('space', 'newline', 'comment'):
                self._tokens.append((m.group(), line))
            line += m.group().count('\n')
            at = m.end()
        self._tokens.append(('', line))
        self._at = 0
        while self._peek():
            if self._peek() == 'typedef':
                self._next()
                self._typedef()
            elif self._peek() in ('struct', 'union', 'enum'):
                self._type()
                self._expect(';')
            else:
                self._fail(f'expected a typedef or a structure, found {self._peek()!r}')

    def _peek(self, ahead=0):
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)][0]

    def _next(self):
        t = self._peek()
        self._at += 1
        return t

    def _line(self):
        return self._tokens[min(self._at, len(self._tokens) - 1)][1]

    def _fail(self, sentence):
        if not self._peek():
            sentence = 'the file ends inside a declaration'
        raise DescriptionError(self.path, self._line(), sentence)

    def _expect(self, text):
        if self._peek() != text:
            self._fail(f'expected {text!r}, found {self._peek()!r}')
        self._next()

    def _typedef(self):
        line = self._line()
        base = self._type()
        d = self._declarator(base)
        self._expect(';')
        if d.stars == 0 and d.length is None and not d.function and base.name is None:
            base.name = d.name
            base.line = line
            self.types[d.name] = base
            return
        if d.name in self.types and self.types[d.name].kind != 'alias':
            self._fail(f'{d.name} is defined twice')
        self.types[d.name] = Type(d.name, 'alias', of=d, line=line)

    def _type(self):
        words = []
        while self._peek() == 'const':
            self._next()
        if self._peek() in ('struct', 'union'):
            return self._record(self._next())
        if self._peek() == 'enum':
            return self._enum()
        while self._peek() in _BASIC_WORDS:
            words.append(self._next())
        name = ' '.join(words) or self._next()
        while self._peek() == 'const':
            self._next()
        if name not in self.types:
            self._fail(f'unknown type {name!r}')
        return self.types[name]

    def _record(self, kind):
        tag = self._next() if self._peek() not in ('{',) else None
        if self._peek() != '{':
            return self.tags.setdefault(tag, Type(None, 'opaque', tag=tag))
        self._next()
        t = self.tags.setdefault(tag, Type(None, kind, tag=tag)) if tag else Type(None, kind)
        t.kind = kind
        while self._peek() != '}':
            if self._peek() == '_Alignas':
                self._next()
                self._parameters()
            base = self._type()
            if self._peek() == ';':
                t.fields.append(Declared(None, base))
            while self._peek() != ';':
                t.fields.append(self._declarator(base))
                if self._peek() == ',':
                    self._next()
            self._expect(';')
        self._expect('}')
        return t

    def _enum(self):
        self._next()
        tag = self._next() if self._peek() != '{' else None
        t = Type(None, 'enum', tag=tag)
        if tag:
            t = self.tags.setdefault(tag, t)
        self._expect('{')
        while self._peek() != '}':
            t.constants.append(self._next())
            depth = 0
            while not (depth == 0 and self._peek() in (',', '}')):
                depth += {'(': 1, ')': -1}.get(self._peek(), 0)
                if not self._next():
                    self._fail('an enum does not end')
            if self._peek() == ',':
                self._next()
        self._expect('}')
        return t

    def _declarator(self, base):
        stars = 0
        while self._peek() in ('*', 'const'):
            stars += self._next() == '*'
        if self._peek() == '(':  # a pointer to a function
            self._next()
            self._expect('*')
            name = self._next()
            self._expect(')')
            self._parameters()
            return Declared(name, base, stars, function=True)
        name = self._next()
        if not re.match(r'[A-Za-z_]\w*$', name):
            self._fail(f'expected a name, found {name!r}')
        if self._peek() == '(':  # a function type
            self._parameters()
            return Declared(name, base, stars, function=True)
        length = None
        while self._peek() == '[':
            self._next()
            length = (length or '') + '[' + ' '.join(self._until(']')) + ']'
        return Declared(name, base, stars, length)

    def _until(self, end):
        out = []
        while self._peek() != end:
            if not self._peek():
                self._fail(f'expected {end!r}')
            out.append(self._next())
        self._next()
        return out

    def _parameters(self):
        self._expect('(')
        depth = 1
        while depth:
            t = self._next()
            if not t:
                self._fail('a parameter list does not end')
            depth += {'(': 1, ')': -1}.get(t, 0)
