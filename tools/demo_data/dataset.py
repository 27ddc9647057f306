"""Write a data set as a whole: check the arguments, never harm what is there, rename at the end."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .backgrounds import BACKGROUNDS
from .formats import (
    IGNORE,
    MAX_IMAGES,
    PALETTE,
    SEGMENTATION_CLASSES,
    SPLITS,
    expected_files,
    write_annotations,
    write_scene,
)
from .poses import JOINTS
from .scene import THINGS, draw_scene

GENERATOR = 'mmtoken demo data'
VERSION = 1  # raise it whenever the same arguments would give other files
SIDE_LIMITS = (64, 2048)  # pixels


def write_demo_data(
    out_dir: str | os.PathLike,
    num_train: int = 300,
    num_val: int = 60,
    hw: tuple[int, int] = (256, 320),
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write drawn scenes as COCO keypoints, COCO instances and index masks.

    Image i of a split depends on ``hw``, ``seed``, the split and i alone.

    Args:
        out_dir: Folder to make. One that holds the same data already is left as it is.
        num_train: Number of training images, 1 or more.
        num_val: Number of validation images, 1 or more.
        hw: Height and width of the images, pixels.
        seed: 0 or more.
        overwrite: Replace a folder that an earlier run made and nobody added to.
        progress: Called with the images done and the number of all images after each image.

    Returns:
        True if the data were written, False if they were there already.
    """
    meta = describe(num_train, num_val, hw, seed)
    out_dir = Path(out_dir)
    if already_there(out_dir, meta, overwrite):
        return False
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out_dir.name}-', dir=out_dir.parent) as scratch:
        made, old = Path(scratch, 'made'), Path(scratch, 'old')
        write_files(made, meta, progress or (lambda done, total: None))
        if out_dir.exists():
            out_dir.rename(old)
        made.rename(out_dir)
    return True


def describe(num_train: int, num_val: int, hw: tuple[int, int], seed: int) -> dict[str, Any]:
    """Check the arguments and return what ``meta.json`` will say."""
    for name, count in (('num_train', num_train), ('num_val', num_val)):
        if not 1 <= count <= MAX_IMAGES:
            raise ValueError(
                f'{name} must be between 1 and {MAX_IMAGES}, got {name}={count}; '
                'choose the number of images to draw'
            )
    if len(hw) != 2:
        raise ValueError(f'hw must be a height and a width, got {hw=}; write for example 256, 320')
    low, high = SIDE_LIMITS
    for name, side in zip(('height', 'width'), hw):
        if not low <= side <= high:
            raise ValueError(
                f'{name} must be between {low} and {high} pixels, got {name}={side}; '
                'people in smaller images have no joints to see, larger ones take too long'
            )
    if seed < 0:
        raise ValueError(f'seed must be 0 or more, got {seed=}; choose another')
    return {
        'generator': GENERATOR,
        'version': VERSION,
        'num_train': int(num_train),
        'num_val': int(num_val),
        'hw': [int(side) for side in hw],
        'seed': int(seed),
        'thing_classes': list(THINGS),
        'background_classes': list(BACKGROUNDS),
        'segmentation_classes': list(SEGMENTATION_CLASSES),
        'palette': [list(colour) for colour in PALETTE],
        'ignore_index': IGNORE,
        'joints': list(JOINTS),
    }


def already_there(out_dir: Path, meta: dict[str, Any], overwrite: bool) -> bool:
    """Tell whether ``out_dir`` holds these very data; raise if it may not be replaced."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return False
    found = read_meta(out_dir)
    if found is None:
        raise FileExistsError(
            f'the output folder must be new, empty or made by this generator, got '
            f'{out_dir=!s} with other content; choose another folder'
        )
    if overwrite:
        refuse_foreign_files(out_dir, found)
        return False
    if found != meta:
        other = [k for k in meta if found.get(k) != meta[k]]
        raise FileExistsError(
            f'{out_dir} holds demo data made with other arguments ('
            + ', '.join(f'{k}: {found.get(k)} there, {meta[k]} asked for' for k in other)
            + '); choose another folder or replace it with --overwrite'
        )
    missing = sorted(expected_files(meta['num_train'], meta['num_val']) - files_below(out_dir))
    if missing:
        raise FileExistsError(
            f'{out_dir} holds incomplete demo data, {len(missing)} files are missing '
            f'({missing[0]} ...); make them anew with --overwrite'
        )
    return True


def read_meta(out_dir: Path) -> dict[str, Any] | None:
    """Return the description of a folder of ours, or None if it is not ours."""
    try:
        meta = json.loads((out_dir / 'meta.json').read_text())
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) and meta.get('generator') == GENERATOR else None


def refuse_foreign_files(out_dir: Path, meta: dict[str, Any]) -> None:
    """Raise if a folder of ours holds files that the generator did not write."""
    ours = expected_files(meta.get('num_train', 0), meta.get('num_val', 0))
    foreign = sorted(files_below(out_dir) - ours)
    if foreign:
        raise FileExistsError(
            f'--overwrite replaces only what the generator wrote, got {len(foreign)} other files '
            f'in {out_dir} ({foreign[0]} ...); move them away or choose another folder'
        )


def files_below(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, relative to it."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if not p.is_dir()}


def write_files(root: Path, meta: dict[str, Any], progress: Callable[[int, int], None]) -> None:
    """Write everything below ``root``, ``meta.json`` last."""
    hw, counts = tuple(meta['hw']), (meta['num_train'], meta['num_val'])
    (root / 'annotations').mkdir(parents=True)
    done = 0
    for number, (split, count) in enumerate(zip(SPLITS, counts)):
        for folder in ('img_dir', 'ann_dir'):
            (root / folder / split).mkdir(parents=True)
        things = []
        for k in range(count):
            scene = draw_scene(np.random.default_rng((meta['seed'], number, k)), hw)
            things += write_scene(root, split, k, scene)
            done += 1
            progress(done, sum(counts))
        write_annotations(root, split, count, hw, things)
    (root / 'meta.json').write_text(json.dumps(meta, indent=1) + '\n')
