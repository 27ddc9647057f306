"""Collect token assignments, scores and attention while a model runs, and only then.

Models stay free of debugging returns: they call :func:`record_stage` and
:func:`record_attention`, which do nothing unless a :func:`record_tokens` block is open around
the call. Hooks, drawings and analysis read the recorder and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class ForwardRecord:
    """What one forward pass of a backbone left behind.

    Args:
        stages: Stage number, counted from 1, to what the backbone recorded there; for token
            clustering ``tokens`` (a TokenSet), and where tokens were merged ``assign_idx``
            ``(B, N)``, ``center_idx`` ``(B, M)`` and ``token_score`` ``(B, N, 1)``; for soft
            clusters ``hw``, the grid, and where there are clusters ``assign`` ``(B, M, N)`` of
            the first clustering of the stage and ``assign_by_block``, block number to the same;
            for semantic tokens ``units``, a dict for each unit with ``hw``, ``padded_hw`` (that of
            whole windows), ``semantic_hw`` and the ``semantic_tokens`` ``(B, S, C)``; where
            attention is collected also ``generate`` and ``refine`` ``(B, S, N)``, what semantic
            tokens gather from patches, and ``recover`` ``(B, N, S)``, what patches take from
            them; means over the heads. A row sums to at most 1: the rest falls on padding or, in
            generation, on semantic tokens.
        attention: Qualified module name to attention weights ``(B, h, N, M)``.
    """

    stages: dict[int, dict[str, Any]] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)


class TokenRecorder:
    """Receives what the models record; made by :func:`record_tokens`.

    Args:
        attention: Collect attention weights too (memory: ``B*h*N*M`` numbers per block).
    """

    def __init__(self, attention: bool = True) -> None:
        self.forwards: list[ForwardRecord] = []
        self.collects_attention = attention
        self._path: list[str] = []

    @property
    def stages(self) -> dict[int, dict[str, Any]]:
        """Stages of the first forward pass (flip tests run a second one)."""
        return self._first().stages

    @property
    def attention(self) -> dict[str, Tensor]:
        """Attention weights of the first forward pass, by module name."""
        return self._first().attention

    def _leave(self) -> None:
        """A module is done. Returns nothing: what a forward hook returns replaces its output."""
        self._path.pop()

    def _first(self) -> ForwardRecord:
        if not self.forwards:
            raise ValueError(
                'nothing was recorded: no token-clustering backbone ran inside record_tokens; '
                'call the recorded model inside the with-block'
            )
        return self.forwards[0]


# The recorder that listens at present; a stack, because record_tokens blocks may nest.
_ACTIVE: list[TokenRecorder] = []


def _detach(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detach(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_detach(inner) for inner in value]
    if hasattr(value, 'with_x'):
        return value.with_x(value.x.detach())
    return value


def start_record() -> None:
    """Open the record of one backbone forward pass; backbones call it first."""
    if _ACTIVE:
        _ACTIVE[-1].forwards.append(ForwardRecord())


def record_stage(stage: int, **values: Any) -> None:
    """Hand values of a stage (counted from 1) to the open recorder, if there is one."""
    if _ACTIVE and _ACTIVE[-1].forwards:
        entry = _ACTIVE[-1].forwards[-1].stages.setdefault(stage, {})
        entry.update({name: _detach(value) for name, value in values.items()})


def is_recording_attention() -> bool:
    """Whether attention has to take the explicit path for an open recorder."""
    return bool(_ACTIVE) and _ACTIVE[-1].collects_attention


def is_recording() -> bool:
    """Whether a recorder listens, so that it is worth while to prepare something for it."""
    return bool(_ACTIVE) and bool(_ACTIVE[-1].forwards)


def last_attention() -> Tensor | None:
    """The weights that were recorded last; None where nobody collects attention."""
    weights = _ACTIVE[-1].forwards[-1].attention if is_recording() else {}
    return next(reversed(weights.values()), None)


def record_attention(weights: Tensor) -> None:
    """Hand attention weights ``(B, h, N, M)`` over, under the name of the running module."""
    recorder = _ACTIVE[-1]
    if recorder.forwards and recorder._path:
        recorder.forwards[-1].attention[recorder._path[-1]] = weights.detach()


@contextmanager
def record_tokens(model: nn.Module, attention: bool = True) -> Iterator[TokenRecorder]:
    """Record token assignments, scores and attention of every forward pass inside the block.

    Args:
        model: A backbone of this package, or any model that contains one.
        attention: Collect attention weights too.

    Yields:
        The recorder: ``rec.stages[2]['tokens']``, ``rec.attention['block2.0.attn']``.

    Example:
        >>> with record_tokens(backbone) as rec:
        ...     backbone(images)
        >>> rec.stages[4]['tokens'].assign_idx  # (B, N0): who owns each stride-4 cell
    """
    recorder = TokenRecorder(attention)
    handles = []
    for name, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(
                lambda _module, _args, name=name: recorder._path.append(name)
            )
        )
        handles.append(
            module.register_forward_hook(lambda *_unused: recorder._leave(), always_call=True)
        )
    _ACTIVE.append(recorder)
    try:
        yield recorder
    finally:
        _ACTIVE.remove(recorder)
        for handle in handles:
            handle.remove()
