# SPDX-License-Identifier: Apache-2.0
"""Mistakes in what the generator reads, told as FILE:LINE: error: SENTENCE."""


class DescriptionError(Exception):
    def __init__(self, path, line, sentence):
        super().__init__(f'{path}:{line}: error: {sentence}')


class Reporter:
    """Collects mistakes, so that one run shows them all."""

    def __init__(self):
        self.messages = []

    def error(self, path, line, sentence):
        self.messages.append(f'{path}:{line}: error: {sentence}')
