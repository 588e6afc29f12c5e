# SPDX-License-Identifier: Apache-2.0
"""A mistake after which reading cannot go on."""


class DescriptionError(Exception):
    """Told as FILE:LINE: error: SENTENCE."""

    def __init__(self, path, line, sentence):
        super().__init__(f'{path}:{line}: error: {sentence}')
