"""Attention of any layer on one image, laid out on the grids of its queries and keys.

Letters as in tokens.py; H x W cells of the queries, H' x W' cells of the keys, R key tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..common.checks import HW
from ..common.records import Heats, Regions
from .adapters import Layer
from .maps import count_prefix, grid_size
from .tokens import Product, Seen, arrange, observe

MOST_NUMBERS = 2**18  # of the attention maps of one layer, if queries are thinned out


@dataclass(frozen=True)
class Group:
    """Attention weights of tokens that attend to each other.

    Args:
        weights: ``(h, N, M)``.
        rows: ``(N,)`` numbers of the query tokens; -1 for padding.
        columns: ``(M,)`` numbers of the key tokens; -1 for padding.
    """

    weights: Tensor
    rows: Tensor
    columns: Tensor


@dataclass(frozen=True)
class GridAttention:
    """Attention of one layer on one image.

    Args:
        groups: Everything that attends to each other, e.g. windows.
        queries: ``(H, W)``, the query token of each cell.
        keys: ``(H', W')``, the key token of each cell, or the patch if keys are clusters.
        clusters: ``(R, N)``, weights of the patches in each key token, if those are clusters.
    """

    groups: list[Group]
    queries: Tensor
    keys: Tensor
    clusters: Tensor | None = None

    @property
    def num_heads(self) -> int:
        """Number of heads."""
        return len(self.groups[0].weights)

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        """Query token to its group and row."""
        return {
            token: (g, n)
            for g, group in enumerate(self.groups)
            for n, token in enumerate(group.rows.tolist())
            if token >= 0
        }

    @cached_property
    def _areas(self) -> Tensor:
        """Number of cells of the key token of each cell, ``(H', W')``."""
        return self.keys.flatten().bincount()[self.keys]

    def of_token(self, token: int) -> Tensor:
        """Attention of a query token to each cell, ``(h, H', W')``.

        A token that owns several cells spreads its weight evenly. NaN outside the window of the
        token. What fell on padding and on tokens that are no patches is left out.
        """
        g, n = self._places[token]
        group = self.groups[g]
        inside = group.columns >= 0
        weights, columns = group.weights[:, n, inside], group.columns[inside]
        if self.clusters is not None:
            found = weights @ self.clusters[columns]
        else:
            size = 1 + max(int(columns.max()), int(self.keys.max()))
            found = weights.new_full((self.num_heads, size), torch.nan)
            found[:, columns] = weights
        return found[:, self.keys] / self._areas

    def pictures(
        self, name: str, title: str, input_hw: HW, most: int = MOST_NUMBERS
    ) -> tuple[Regions, Heats]:
        """Attention of all query tokens, as the two neutral drawables.

        Args:
            name: Of the pictures.
            title: Of the pictures.
            input_hw: Size of the model's input.
            most: Numbers to return at most. If there are more, the cells in the middle of squares
                are drawn for all cells of the squares.

        Returns:
            The number of the map of each cell, and the maps in percent, means over heads.
        """
        tokens, labels = self.queries.unique(return_inverse=True)
        boxes = None
        if len(tokens) == labels.numel() or len(tokens) * self.keys.numel() > most:
            labels, cells = thin_out(tuple(self.queries.shape), most // self.keys.numel())
            tokens = self.queries[cells[:, 0], cells[:, 1]]
            boxes = torch.cat((cells, cells + 1), 1)
        values = torch.stack([100 * self.of_token(token).mean(0) for token in tokens.tolist()])
        return (
            Regions(name, title, labels, _stride(input_hw, self.queries)),
            Heats(name, title, values, _stride(input_hw, self.keys), boxes),
        )


class AttentionReader:
    """Read the attention of layers on one image after the other.

    A second pass over noise, once per image size, shows which tokens windows hold: tokens of noise
    are all different.

    Args:
        model: A backbone.
        layers: Of this model.

    Attributes:
        refused: Name of a layer to the reason why its attention cannot be drawn.
        seen: What each layer read and compared last.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self.model, self.layers = model, layers
        self.refused: dict[str, str] = {}
        self.seen: dict[str, Seen] = {}
        self._prefix = count_prefix(model)
        self._probes: dict[torch.Size, dict[str, Seen]] = {}

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> dict[str, GridAttention]:
        """Attention by name of the layer, of a batch of one image; keeps ``seen``."""
        if inputs.shape not in self._probes:
            noise = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(0))
            self._probes = {inputs.shape: self._observe(noise.to(inputs))}
        probes, found = self._probes[inputs.shape], {}
        self.seen = self._observe(inputs)
        for name, seen in self.seen.items():
            layer = next(layer for layer in self.layers if layer.name == name)
            try:
                found[name] = self._lay_out(layer, seen, probes[name], tuple(inputs.shape[2:]))
            except ValueError as error:
                self.refused[name] = str(error)
        return found

    def _observe(self, inputs: Tensor) -> dict[str, Seen]:
        return observe(self.model, self.layers, lambda: self.model(inputs))

    def _lay_out(self, layer: Layer, seen: Seen, probe: Seen, input_hw: HW) -> GridAttention:
        if not seen.products:
            raise ValueError(f'{layer.name} must compare queries and keys, got no product of them')
        groups = [
            Group(*one)
            for product, same in zip(seen.products, probe.products)
            for one in zip(_weights(product), *arrange(layer, probe, same))
        ]
        clusters = None
        if 'keys are clusters' in layer.projections.notes:
            clusters = seen.output[1][0]
            count = clusters.shape[1]
        queries = self._labels(layer, seen, probe, 0, input_hw)
        if clusters is None:
            return GridAttention(groups, queries, self._labels(layer, seen, probe, 1, input_hw))
        keys = torch.arange(count).unflatten(0, _size(layer, count, input_hw, 0))
        return GridAttention(groups, queries, keys, clusters)

    def _labels(self, layer: Layer, seen: Seen, probe: Seen, place: int, input_hw: HW) -> Tensor:
        """The token of each cell, as the projection counts them."""
        given = seen.inputs[place] if len(seen.inputs) > place else None
        source = (probe.queries, probe.keys)[place][0]
        normed = source.normed[0]
        if len(getattr(given, 'assign_idx', ())) and given.x.shape[1] == normed.shape[0]:
            return given.assign_idx[0].unflatten(0, tuple(given.init_hw))
        size = tuple(normed.shape[:-1])
        if len(size) == 1:
            size = _size(layer, size[0], input_hw, self._prefix)
        rows = normed.flatten(0, -2)[-math.prod(size) :]
        known = {row.tobytes(): i for i, row in enumerate(source.tokens.flatten(0, -2).numpy())}
        labels = [known.get(row.tobytes(), -1) for row in rows.numpy()]
        if min(labels) < 0:
            raise ValueError(f'{layer.name} must project all tokens of its grid, got a part')
        return torch.tensor(labels).unflatten(0, size)


def _weights(product: Product) -> Tensor:
    return product.logits.float().softmax(-1)


def _size(layer: Layer, count: int, input_hw: HW, prefix: int) -> HW:
    size = grid_size(count, input_hw, prefix)
    if size is None:
        raise ValueError(
            f'the tokens of {layer.name} must lie on a grid, got {count} for an input of '
            f'{input_hw[0]}x{input_hw[1]}'
        )
    return size


def _stride(input_hw: HW, cells: Tensor) -> int:
    return max(-(-side // count) for side, count in zip(input_hw, cells.shape))


def thin_out(size: HW, most: int) -> tuple[Tensor, Tensor]:
    """Cut a grid into at most ``most`` squares: the square and, by square, the middle cell."""
    step = 1
    while math.prod(-(-side // step) for side in size) > max(most, 1):
        step += 1
    rows, cols = (torch.arange(side) // step for side in size)
    labels = rows[:, None] * (cols[-1] + 1) + cols
    middle = [(torch.arange(0, s, step) + step // 2).clamp(max=s - 1) for s in size]
    return labels, torch.cartesian_prod(*middle)
