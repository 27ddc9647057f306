"""What weights alone do not say: the norm in front of a layer, and the share of its key bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Layer
from .interaction import fold_norm, key_bias_share, logit_terms, mean_similarity
from .report import Report
from .tokens import Seen, Source, all_tokens, observe

MOST_TOKENS = 256  # queries and keys, evenly spread, of which logits are compared


def add_image(
    report: Report, model: nn.Module, layers: list[Layer], run: Callable[[], Any]
) -> Report:
    """Add ``cos_avg_folded`` and ``key_bias_share`` to the report of a model.

    Args:
        report: Of :func:`~mmtoken.query_key.report.analyse`.
        model: The model.
        layers: Of the model.
        run: Calls the model on an image.

    Returns:
        The report; layers that did not run stay as they are.
    """
    seen, known = observe(model, layers, run, products=False), {one.name: one for one in layers}
    described = [
        replace(one, **_describe(model, known[one.name], seen[one.name]))
        if one.name in seen
        else one
        for one in report.layers
    ]
    return replace(report, layers=described)


def _describe(model: nn.Module, layer: Layer, seen: Seen) -> dict[str, list[float]]:
    own, found = layer.projections, {}
    norms = [_norm_of(model, sources[0]) for sources in (seen.queries, seen.keys)]
    if all(norms):
        (wq, _), (wk, _) = (
            fold_norm(weight, bias, norm.weight.detach(), getattr(norm, 'bias', None))
            for weight, bias, norm in zip((own.wq, own.wk), (own.bq, own.bk), norms)
        )
        found['cos_avg_folded'] = mean_similarity(wq, wk).tolist()
    if layer.rope is None:  # with rotary positions, further terms depend on the key
        x, c = (_some(all_tokens(sources)) for sources in (seen.queries, seen.keys))
        terms = logit_terms(x, c, own.wq, own.wk, own.bq, own.bk)
        found['key_bias_share'] = key_bias_share(terms).tolist()
    return found


def _norm_of(model: nn.Module, source: Source) -> nn.Module | None:
    norm = model.get_submodule(source.norm) if source.norm else None
    weight = getattr(norm, 'weight', None)
    return norm if isinstance(weight, Tensor) and weight.shape == source.tokens.shape[-1:] else None


def _some(tokens: Tensor) -> Tensor:
    count = min(len(tokens), MOST_TOKENS)
    return tokens[torch.linspace(0, len(tokens) - 1, count).round().long()]
