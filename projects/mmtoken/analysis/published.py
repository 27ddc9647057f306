"""Count a model as its authors' code computes it, to compare with the figures they published.

A paper's package may have a module ``published`` with

    RULES                what differs from the ``exact`` convention, in a sentence
    applies_to(module)   whether a module is the paper's
    watched(model)       a context; while it is open the model runs once, and it yields a function
                         from the counted operations to those of the authors' arithmetic

Every package that applies to some module of the model takes part, so mixed models count right.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

from torch import nn

import mmtoken

from .counting import Complexity, count_complexity, sum_by_row


def published_modules() -> list[ModuleType]:
    """The ``published`` module of every paper that has one."""
    found = []
    for entry in pkgutil.iter_modules(mmtoken.__path__, 'mmtoken.'):
        if entry.ispkg and entry.name != __package__:
            package = importlib.import_module(entry.name)
            if any(m.name == 'published' for m in pkgutil.iter_modules(package.__path__)):
                found.append(importlib.import_module(f'{entry.name}.published'))
    return found


def published_rules() -> list[str]:
    """The ``RULES`` of every paper."""
    return [module.RULES for module in published_modules()]


def count_as_published(
    model: nn.Module, run: Callable[[], Any], rows: dict[str, str] | None = None
) -> Complexity:
    """:func:`~mmtoken.analysis.counting.count_complexity` with the authors' arithmetic.

    Args:
        model: Contains modules of at least one paper with published arithmetic.
        run: Calls it with one image.
        rows: See :func:`~mmtoken.analysis.counting.stage_rows`.

    Returns:
        The counts.

    Raises:
        ValueError: If no paper's published arithmetic applies to the model.
    """
    papers = [p for p in published_modules() if any(map(p.applies_to, model.modules()))]
    if not papers:
        known = ', '.join(p.__name__.split('.')[-2] for p in published_modules())
        raise ValueError(
            f"the convention 'original' needs a model with a part of {known}, got a "
            f"{type(model).__name__} without any; use the convention 'exact'"
        )
    with contextlib.ExitStack() as stack:
        rewrites = [stack.enter_context(paper.watched(model)) for paper in papers]
        exact = count_complexity(model, run, rows)
    operations = list(exact.operations)
    for rewrite in rewrites:
        operations = rewrite(operations)
    macs = sum_by_row(model, operations, exact.params, rows)
    return replace(exact, macs=macs, operations=tuple(operations))
