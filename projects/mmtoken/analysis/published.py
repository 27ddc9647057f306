"""Count a model with its authors' arithmetic, to compare with published figures.

The package of a module may have a module ``published`` with

    RULES                one sentence on what differs from the ``exact`` convention
    applies_to(module)   whether the rules concern a module
    watched(model)       a context manager; the model runs once inside it. It yields a function
                         from the counted operations to those of the authors' arithmetic

Every package that concerns some module of the model takes part, so that mixed models count right.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import nn

from .counting import Complexity, count_complexity, sum_by_row


def published_modules(model: nn.Module) -> list[ModuleType]:
    """The ``published`` modules that concern a model, each once."""
    packages = dict.fromkeys(
        type(module).__module__.rpartition('.')[0] for module in model.modules()
    )
    names = [f'{package}.published' for package in packages if package]
    found = [importlib.import_module(name) for name in names if find_spec(name)]
    return [paper for paper in found if any(map(paper.applies_to, model.modules()))]


def count_as_published(
    model: nn.Module, run: Callable[[], Any], rows: dict[str, str] | None = None
) -> Complexity:
    """:func:`~mmtoken.analysis.counting.count_complexity` with the authors' arithmetic.

    Args:
        model: Contains modules with published arithmetic.
        run: Calls it with one image.
        rows: See :func:`~mmtoken.analysis.counting.stage_rows`.

    Returns:
        The counts.

    Raises:
        ValueError: If no module of the model has published arithmetic.
    """
    papers = published_modules(model)
    if not papers:
        raise ValueError(
            "the convention 'original' needs a model with modules whose authors published their "
            f"counts, got a {type(model).__name__} without; use the convention 'exact'"
        )
    with contextlib.ExitStack() as stack:
        rewrites = [stack.enter_context(paper.watched(model)) for paper in papers]
        exact = count_complexity(model, run, rows)
    operations = list(exact.operations)
    for rewrite in rewrites:
        operations = rewrite(operations)
    macs = sum_by_row(model, operations, exact.params, rows)
    return replace(exact, macs=macs, operations=tuple(operations))
