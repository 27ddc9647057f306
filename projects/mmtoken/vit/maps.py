"""Attention of a block as pictures: of the class token by head, and of each patch.

Letters: B batch, n heads, T tokens of which the last N = h * w are patches, K windows of w * w.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.checks import HW
from ..common.records import Heats, Record, Regions
from ..common.windows import WindowOrder


@dataclass(frozen=True)
class BlockAttention(Record):
    """Attention weights of a block.

    Args:
        stage: 1-based index of the block.
        hw: h and w.
        stride: Side of a patch in pixels.
        weights: ``(B, n, T, T)``, or ``(B * K, n, w * w, w * w)`` of a block with windows.
        has_class_token: Whether the first token is the class token.
        order: Of the patches in windows.
    """

    hw: HW
    stride: int
    weights: Tensor
    has_class_token: bool
    order: WindowOrder | None = None

    def of_class_token(self, sample: int) -> Tensor:
        """From the class token to the patches -> ``(n, h, w)``."""
        count = self.hw[0] * self.hw[1]
        return self.weights[sample, :, 0, -count:].unflatten(-1, self.hw)

    def of_patches(self, sample: int) -> Tensor:
        """From each patch to all patches, the mean over heads -> ``(N, h, w)``.

        NaN outside the window of the patch. What fell on padding and on tokens that are no patches
        is left out.
        """
        count = self.hw[0] * self.hw[1]
        if self.order is None:
            return self.weights[sample, :, -count:, -count:].mean(0).unflatten(-1, self.hw)
        size = self.order.window_size**2
        windows = len(self.order.patches) // size
        weights = self.weights.unflatten(0, (-1, windows))[sample].mean(1)  # K w*w w*w
        window, inside = self.order.places // size, self.order.places % size
        spread = weights[window[:, None], inside[:, None], inside]
        spread[window[:, None] != window] = torch.nan
        return spread.unflatten(-1, self.hw)

    def pictures(self, sample: int) -> list[Regions | Heats]:
        """Patches that attend most to the same one, the class token by head, and each patch.

        A box marks the patch whose attention is drawn.
        """
        name, title = f'block{self.stage}', f'block {self.stage}'
        patches = self.of_patches(sample)
        strongest = patches.flatten(1).nan_to_num(-1).argmax(1).unflatten(0, self.hw)
        y, x = torch.meshgrid(*map(torch.arange, self.hw), indexing='ij')
        boxes = torch.stack((y, x, y + 1, x + 1), -1).flatten(0, 1)
        text = f'{title}: regions whose patches attend most to the same patch'
        found = [Regions(name, text, strongest, self.stride)]
        if self.has_class_token:
            heads = self.of_class_token(sample)
            text = f'{title}: attention of the class token, one map per head'
            found.append(Heats(f'{name}_class', text, heads, self.stride))
        text = f'{title}: attention of each patch, mean over {self.weights.shape[1]} heads'
        return [*found, Heats(f'{name}_patches', text, patches, self.stride, boxes)]
