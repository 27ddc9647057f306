"""Names of other releases of a model: a convention turns their keys into ours.

A model lists its conventions in the class attribute ``conventions``, and how to recognise released
files in ``releases``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

T = TypeVar('T')
# From the keys of a file to our names of those that differ; empty for a file of another release.
Convention = Callable[[Collection[str]], Mapping[str, str]]


class Release(NamedTuple):
    """What released weights of a backbone look like.

    Args:
        name: For messages.
        present: Regular expressions; each matches a key at its start.
        absent: Regular expressions that match no key.
    """

    name: str
    present: tuple[str, ...]
    absent: tuple[str, ...] = ()


def find_release(keys: Collection[str], releases: Iterable[Release]) -> str:
    """Return the name of the first release that keys fit, or an empty string."""

    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in keys)

    fits = (
        release.name
        for release in releases
        if all(map(has, release.present)) and not any(map(has, release.absent))
    )
    return next(fits, '')


def rename_keys(state: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    """Rename keys.

    Args:
        state: Values by name.
        names: New name by old name; other keys stay.

    Returns:
        The values by their new names.

    Raises:
        ValueError: If two keys get one name.
    """
    origin: dict[str, str] = {}
    for key in state:
        first = origin.setdefault(names.get(key, key), key)
        if first != key:
            raise ValueError(
                f'each parameter must have one key, got {first!r} and {key!r} for '
                f'{names.get(key, key)!r}; remove one of them from the file'
            )
    return {name: state[key] for name, key in origin.items()}


def convert_keys(
    state: Mapping[str, T], conventions: Iterable[Convention]
) -> tuple[dict[str, T], tuple[str, ...]]:
    """Apply each convention in turn.

    Args:
        state: Values by the names of any release.
        conventions: Functions that look at the names and return ours.

    Returns:
        The values by our names, and the names that were not in ``state``.
    """
    converted = dict(state)
    for convention in conventions:
        converted = rename_keys(converted, convention(converted.keys()))
    return converted, tuple(name for name in converted if name not in state)
