"""Log what attention heads compare while a model trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from ..common.checks import check_int
from .adapters import Layer, find_layers
from .interaction import effective_rank, singular_values, trace
from .report import find_layer


@HOOKS.register_module()
class QKInteractionHook(Hook):
    """Send ``cos_avg`` and the effective rank of attention layers to the visualizer's backends.

    Scalars are named ``query_key/cos_avg/blocks.0.attn`` and ``query_key/effective_rank/...``; they
    are means over heads.

    Args:
        interval: Iterations between two logs; the first is before training.
        layers: Names or numbers of layers, see ``tools/analysis/query_key.py analyze``; None for
            all.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 500, layers: Sequence[str | int] | None = None) -> None:
        check_int('interval', interval)
        if layers is not None and (
            isinstance(layers, str)
            or not isinstance(layers, Sequence)
            or not layers
            or not all(isinstance(one, (str, int)) for one in layers)
        ):
            raise ValueError(f'layers must be a list of names or numbers, or None, got {layers!r}')
        self.interval = interval
        self.layers = layers

    def before_train(self, runner: Any) -> None:
        """Find the layers, and log untrained weights."""
        self._log(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log every ``interval`` iterations."""
        if self.every_n_train_iters(runner, self.interval):
            self._log(runner)

    def _log(self, runner: Any) -> None:
        scalars = {}
        for layer in self._chosen(runner.model):
            wq, wk = layer.projections.wq, layer.projections.wk
            strengths = singular_values(wq, wk)
            cos = (trace(wq, wk) / strengths.sum(-1)).mean()
            scalars[f'query_key/cos_avg/{layer.name}'] = cos.item()
            rank = effective_rank(strengths).mean()
            scalars[f'query_key/effective_rank/{layer.name}'] = rank.item()
        runner.visualizer.add_scalars(scalars, step=runner.iter)

    def _chosen(self, model: nn.Module) -> list[Layer]:
        """Layers of the backbone, read again because their weights have changed."""
        model = model.module if is_model_wrapper(model) else model
        layers, _ = find_layers(getattr(model, 'backbone', model))
        if self.layers is None:
            return layers
        return [find_layer(layers, str(wanted)) for wanted in self.layers]
