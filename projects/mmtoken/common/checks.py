"""Argument checks that every constructor shares: the rule, the value, the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

HW = tuple[int, int]


def check_shape(name: str, value: Tensor, letters: str) -> None:
    """Raise unless a tensor has as many dimensions as there are letters (``'B C H W'``)."""
    if value.ndim != len(letters.split()):
        raise ValueError(
            f'{name} must have the shape ({letters.replace(" ", ", ")}), '
            f'got {tuple(value.shape)}; add or remove dimensions before the call'
        )


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise unless ``value`` is one of ``choices``; list them."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f'{name} must be one of {choices}, got {value!r}; choose one of them')


def check_divides(heads_name: str, num_heads: int, dim_name: str, dim: int) -> None:
    """Raise unless ``num_heads`` is positive and divides ``dim``."""
    if num_heads < 1 or dim % num_heads:
        raise ValueError(
            f'{heads_name} must divide {dim_name}, got {heads_name}={num_heads} and '
            f'{dim_name}={dim}; choose a divisor of {dim}'
        )


def check_length(name: str, value: Sequence, length: int, what: str) -> None:
    """Raise unless a sequence has one entry per ``what``."""
    if len(value) != length:
        raise ValueError(
            f'{name} needs one entry per {what}, got {len(value)} entries {tuple(value)} '
            f'for {length}; give {length} entries'
        )


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise unless ``low <= value < high``."""
    if not low <= value < high:
        raise ValueError(f'{name} must lie in [{low}, {high}), got {value}; choose it inside')


def check_image(image: Tensor, in_channels: int, min_side: int, reason: str) -> None:
    """Raise unless an image batch has the right channels and is large enough.

    Args:
        image: ``(B, C, H, W)``.
        in_channels: C that the model was built for.
        min_side: The smallest side in pixels that the arithmetic allows.
        reason: Where ``min_side`` comes from, for the message.
    """
    check_shape('the input', image, 'B C H W')
    if image.shape[1] != in_channels:
        raise ValueError(
            f'the input must have in_channels={in_channels} channels, got {image.shape[1]} '
            f'in {tuple(image.shape)}; build the model with in_channels={image.shape[1]} '
            'or convert the image'
        )
    height, width = image.shape[2:]
    if min(height, width) < min_side:
        raise ValueError(
            f'each side of the input must be at least {min_side} pixels ({reason}), got '
            f'{height}x{width}; resize the image or pad it '
            '(data_preprocessor.pad_size_divisor=32)'
        )
