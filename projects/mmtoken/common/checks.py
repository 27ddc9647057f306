"""Argument checks that all constructors share. Messages state the rule, the value, the remedy."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

HW = tuple[int, int]


def check_int(name: str, value: object, low: int = 1) -> None:
    """Raise unless ``value`` is a whole number of at least ``low``; booleans are none."""
    is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_int or value < low:
        raise ValueError(f'{name} must be a whole number >= {low}, got {value!r}')


def check_range(
    name: str, value: object, low: float = -math.inf, high: float = math.inf, ends: str = '[)'
) -> None:
    """Raise unless ``value`` is a finite number between ``low`` and ``high``.

    Args:
        name: Of the argument.
        value: Of the argument; booleans are not numbers.
        low: Lower end.
        high: Upper end.
        ends: Whether each end is allowed, ``'['`` or ``']'``, or not, ``'('`` or ``')'``.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if (
        not is_number
        or not math.isfinite(value)
        or not (low <= value <= high)
        or (ends[0] == '(' and value == low)
        or (ends[1] == ')' and value == high)
    ):
        raise ValueError(
            f'{name} must be a number in {ends[0]}{low:g}, {high:g}{ends[1]}, got {value!r}'
        )


def check_bool(name: str, value: object) -> None:
    """Raise unless ``value`` is a boolean."""
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, got {value!r}')


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    choices = list(choices)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f'{name} must be one of {choices}, got {value!r}')


def check_length(name: str, value: object, length: int, what: str) -> None:
    """Raise unless ``value`` is a sequence of numbers with one entry per ``what``."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f'{name} needs {length} entries, one per {what}, got {value!r}')
    if len(value) != length:
        raise ValueError(
            f'{name} needs {length} entries, one per {what}, got {len(value)}: {tuple(value)}'
        )


def check_ints(name: str, values: object, length: int, what: str, low: int = 1) -> None:
    """Raise unless ``values`` has one whole number of at least ``low`` per ``what``."""
    check_length(name, values, length, what)
    for value in values:
        check_int(name, value, low)


def count_entries(value: object) -> int:
    """Length of a sequence, at least 1; 1 for anything else, which :func:`check_length` refuses."""
    return max(len(value), 1) if isinstance(value, Sequence) else 1


def check_config(name: str, value: object, may_be_list: bool = False) -> None:
    """Raise unless ``value`` is None or a dict with a type, or a list of such dicts if allowed."""
    configs = value if may_be_list and isinstance(value, (list, tuple)) else [value]
    is_valid = configs and all(isinstance(one, dict) and 'type' in one for one in configs)
    if value is not None and not is_valid:
        kind = 'dict(type=...)' + (' or a list of these' if may_be_list else '')
        raise ValueError(f'{name} must be {kind}, got {value!r}')


@contextlib.contextmanager
def building(name: str, value: object) -> Iterator[None]:
    """Turn every error inside, of a registry or a host, into one that names the argument."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f'{name} must describe a module that can be built, got {value!r}: {error}'
        ) from error


def check_divides(heads_name: str, num_heads: int, dim_name: str, dim: int) -> None:
    """Raise unless both are positive whole numbers and ``num_heads`` divides ``dim``."""
    check_int(heads_name, num_heads)
    check_int(dim_name, dim)
    if dim % num_heads:
        raise ValueError(
            f'{heads_name} must divide {dim_name}, got {heads_name}={num_heads} and '
            f'{dim_name}={dim}'
        )


def check_shape(name: str, value: Tensor, letters: str) -> None:
    """Raise unless a tensor has as many dimensions as there are letters (``'B C H W'``)."""
    if value.ndim != len(letters.split()):
        raise ValueError(
            f'{name} must have the shape ({letters.replace(" ", ", ")}), got {tuple(value.shape)}'
        )


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
            f'{height}x{width}; resize the image or pad it in the data_preprocessor: '
            'pad_size_divisor=32, in mmseg test_cfg=dict(size_divisor=32)'
        )
