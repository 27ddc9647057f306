"""Collect records and attention weights while a model runs, and only then.

Models return nothing for debugging. They call :func:`record` and :func:`record_attention`, which
do nothing unless the model was passed to :func:`record_tokens` in the same thread.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from .records import Record

R = TypeVar('R', bound=Record)


@dataclass
class ForwardRecord:
    """Everything recorded during one forward pass.

    Args:
        records: In the order in which the model made them.
        attention: Qualified module name to attention weights ``(B, h, N, M)``.
    """

    records: list[Record] = field(default_factory=list)
    attention: dict[str, Tensor] = field(default_factory=dict)


class TokenRecorder:
    """Receives what one model records in one thread; created by :func:`record_tokens`.

    Args:
        attention: Collect attention weights too (``B * h * N * M`` numbers per block).

    Attributes:
        forwards: One entry per forward pass; flip tests run two.
    """

    def __init__(self, attention: bool = True) -> None:
        self.forwards: list[ForwardRecord] = []
        self.collects_attention = attention
        self.path: list[str] = []  # names of the running modules of the recorded model
        self.started: list[str] = []  # the same when the last forward pass started
        self._thread = threading.get_ident()

    @property
    def records(self) -> list[Record]:
        """Records of the first forward pass."""
        return self._first().records

    @property
    def attention(self) -> dict[str, Tensor]:
        """Attention weights of the first forward pass, by module name."""
        return self._first().attention

    def find(self, kind: type[R], stage: int) -> R:
        """The first record of a kind and a stage.

        Args:
            kind: Subclass of :class:`~mmtoken.common.records.Record`.
            stage: 1-based index.

        Returns:
            The record.

        Raises:
            ValueError: If there is no such record.
        """
        for found in self.records:
            if isinstance(found, kind) and found.stage == stage:
                return found
        known = sorted({(type(one).__name__, one.stage) for one in self.records})
        raise ValueError(f'record must be one of {known}, got {(kind.__name__, stage)}')

    def runs_here(self) -> bool:
        """Whether this thread is inside the recorded model."""
        return bool(self.path) and threading.get_ident() == self._thread

    def current(self) -> ForwardRecord:
        """The forward pass that runs; a head without one of our backbones starts it."""
        if not self.forwards:
            self.forwards.append(ForwardRecord())
        return self.forwards[-1]

    def enter(self, name: str) -> None:
        """Note that a module starts."""
        if threading.get_ident() == self._thread:
            self.path.append(name)

    def leave(self) -> None:
        """Note that a module is done. Returns None, or the hook would replace its output."""
        if threading.get_ident() == self._thread:
            self.path.pop()

    def _first(self) -> ForwardRecord:
        if not self.forwards:
            raise ValueError(
                'nothing was recorded: no module that records ran inside record_tokens; call the '
                'recorded model inside the with-block'
            )
        return self.forwards[0]


# Open recorders; record_tokens blocks may nest and run in several threads.
_OPEN: list[TokenRecorder] = []


def _active() -> TokenRecorder | None:
    """The innermost recorder whose model runs in this thread."""
    if not _OPEN:
        return None
    return next((recorder for recorder in reversed(_OPEN) if recorder.runs_here()), None)


def _detach(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, tuple):
        return tuple(map(_detach, value))
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **{name: _detach(v) for name, v in fields.items()})
    return value


def start_forward() -> None:
    """Start the record of a forward pass; backbones call it first.

    A backbone inside another one, as its stem, takes part in the record of the outer one.
    """
    recorder = _active()
    if recorder is None:
        return
    depth = len(recorder.started)
    is_inner = recorder.started == recorder.path[:depth] and 0 < depth < len(recorder.path)
    if not is_inner:
        recorder.started = list(recorder.path)
        recorder.forwards.append(ForwardRecord())


def is_recording() -> bool:
    """Whether a recorder is active."""
    return _active() is not None


def is_recording_attention() -> bool:
    """Whether attention has to take the explicit path for an active recorder."""
    recorder = _active()
    return recorder is not None and recorder.collects_attention


def record(value: Record) -> None:
    """Add a record, detached, to the forward pass that runs; without a recorder, do nothing."""
    recorder = _active()
    if recorder is not None:
        recorder.current().records.append(_detach(value))


def record_attention(weights: Tensor) -> None:
    """Add attention weights ``(B, h, N, M)`` under the name of the running module."""
    recorder = _active()
    if recorder is None or not recorder.collects_attention:
        return
    name = recorder.path[-1]
    if name in recorder.current().attention:  # a head that is called again
        recorder.forwards.append(ForwardRecord())
    recorder.current().attention[name] = weights.detach()


def last_attention() -> Tensor | None:
    """The weights recorded last; None if no attention is collected."""
    recorder = _active()
    weights = recorder.current().attention if recorder is not None else {}
    return next(reversed(weights.values()), None)


@contextmanager
def record_tokens(model: nn.Module, attention: bool = True) -> Iterator[TokenRecorder]:
    """Record every forward pass of a model in this thread.

    Args:
        model: A backbone of this package, or any model that contains one.
        attention: Collect attention weights too.

    Yields:
        The recorder: ``rec.records``, ``rec.attention['block2.0.attn']``.

    Example:
        >>> with record_tokens(backbone) as rec:
        ...     backbone(images)
        >>> [type(record).__name__ for record in rec.records]
    """
    recorder = TokenRecorder(attention)
    with ExitStack() as stack:  # leaving it removes the hooks
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(lambda *_, name=name: recorder.enter(name))
            after = module.register_forward_hook(lambda *_: recorder.leave(), always_call=True)
            stack.enter_context(before)
            stack.enter_context(after)
        _OPEN.append(recorder)
        stack.callback(_OPEN.remove, recorder)
        yield recorder
