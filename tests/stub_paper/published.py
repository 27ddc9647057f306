"""The stub's authors count their stem twice."""

import contextlib
from dataclasses import replace

from .backbone import StubBackbone

RULES = 'Stub: the stem counts twice.'


def applies_to(module):
    return isinstance(module, StubBackbone)


@contextlib.contextmanager
def watched(model):
    stems = {f'{name}.stem'.lstrip('.') for name, m in model.named_modules() if applies_to(m)}

    def rewrite(operations):
        return [replace(op, macs=2 * op.macs) if op.module in stems else op for op in operations]

    yield rewrite
