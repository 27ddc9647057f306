"""Scenes as files: COCO keypoints, COCO instances with masks, index masks, and crops by class."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle
from tqdm import tqdm

from .canvas import BACKGROUNDS, Canvas
from .poses import JOINTS
from .scene import draw_scene
from .things import THINGS

VERSION = 3  # raise it whenever the same arguments would give other files
INSTANCES = ('person', *THINGS)
CLASSES = (*BACKGROUNDS, *INSTANCES)  # the index in an index mask
IGNORE = 255  # pixels of things too small to be annotated
CROP_MARGIN = 0.1  # of the longer side of a box, on all sides of its crop
MIN_AREA = 48  # pixels; what shows less of itself is not annotated
ID_STEPS = (1_000_000, 100)  # images per split and annotations per image, so that ids stay apart
COUNTS, PIXELS = (1, ID_STEPS[0] - 1), (64, 2048)
LIMITS = dict(num_train=COUNTS, num_val=COUNTS, height=PIXELS, width=PIXELS, seed=(0, 2**63))
SKELETON = (  # pairs of joints, counted from 1
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9)),
    *((8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
)
CATEGORIES = [{'id': k, 'name': name} for k, name in enumerate(INSTANCES, 1)]
PERSON = {**CATEGORIES[0], 'keypoints': JOINTS, 'skeleton': SKELETON}


def write_demo_data(
    out_dir: str | os.PathLike,
    num_train: int = 300,
    num_val: int = 60,
    hw: tuple[int, int] = (256, 320),
    seed: int = 0,
) -> bool:
    """Write images of ``hw`` pixels (64 to 2048) with annotations; False if they exist already.

    Image i of a split depends on ``hw``, ``seed``, the split and i alone. An interruption leaves
    nothing behind.
    """
    meta = dict(zip(LIMITS, map(int, (num_train, num_val, *hw, seed))))
    for name, (low, high) in LIMITS.items():
        if not low <= meta[name] <= high:
            raise ValueError(f'{name} must be between {low} and {high}, got {meta[name]}')
    meta |= {'version': VERSION, 'classes': list(CLASSES)}
    out_dir = Path(out_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        known = out_dir / 'meta.json'
        found = json.loads(known.read_text()) if known.is_file() else {}
        other = [f'{k}={found.get(k)} instead of {v}' for k, v in meta.items() if v != found.get(k)]
        if not other:
            return False
        rule = f'the output folder must be new, empty or hold the same data, got {out_dir} with'
        raise FileExistsError(f'{rule} {", ".join(other)}; delete it or choose another folder')
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out_dir.name}-', dir=out_dir.parent) as scratch:
        made = Path(scratch, 'made')
        for number, split in enumerate(('train', 'val')):
            write_split(made, number, split, meta)
        (made / 'meta.json').write_text(json.dumps(meta, indent=1))
        made.rename(out_dir)
    return True


def write_split(root: Path, number: int, split: str, meta: dict[str, Any]) -> None:
    """Draw and write the images and annotations of a split."""
    crops = [f'crops/{split}/{name}' for name in INSTANCES]
    for folder in (f'img_dir/{split}', f'ann_dir/{split}', 'annotations', *crops):
        (root / folder).mkdir(parents=True, exist_ok=True)
    size = {side: meta[side] for side in ('height', 'width')}
    images, found = [], []  # disable=None: no progress bar unless stderr is a terminal
    for k in tqdm(range(meta[f'num_{split}']), f'drawing {split}', disable=None):
        rng = np.random.default_rng((meta['seed'], number, k))
        canvas = draw_scene(rng, tuple(size.values()))
        key = number * ID_STEPS[0] + k + 1
        name = f'{key:012d}.png'
        entries, labels = annotate(canvas, key)
        images.append({'id': key, 'file_name': name, **size})
        found += entries
        picture = canvas.picture(rng)
        files = {f'img_dir/{split}/{name}': picture, f'ann_dir/{split}/{name}': labels}
        for entry in entries:
            folder = f'crops/{split}/{INSTANCES[entry["category_id"] - 1]}'
            files[f'{folder}/{entry["id"]:014d}.png'] = crop(picture, entry['bbox'])
        for file, pixels in files.items():
            Image.fromarray(pixels).save(root / file, compress_level=2)
    for kind, categories in (('person_keypoints', [PERSON]), ('instances', CATEGORIES)):
        entries = [one for one in found if one['category_id'] <= len(categories)]
        content = {'images': images, 'annotations': entries, 'categories': categories}
        (root / f'annotations/{kind}_{split}.json').write_text(json.dumps(content))


def crop(picture: NDArray, box: list[float]) -> NDArray:
    """The part of a picture around a box."""
    margin = round(CROP_MARGIN * max(box[2:]))
    left, top, width, height = map(round, box)
    rows = slice(max(0, top - margin), top + height + margin)
    return np.ascontiguousarray(picture[rows, max(0, left - margin) : left + width + margin])


def annotate(canvas: Canvas, image: int) -> tuple[list[dict[str, Any]], NDArray]:
    """COCO annotations, and the class ``(H, W)`` of each pixel: an index into CLASSES or IGNORE."""
    owners, found = canvas.owner_map(), []
    lookup = np.arange(len(canvas.owners), dtype=np.uint8)  # correct for the backgrounds
    for owner in range(len(BACKGROUNDS), len(canvas.owners)):
        visible = owners == owner
        if np.count_nonzero(visible) < MIN_AREA:
            lookup[owner] = IGNORE
            continue
        category = canvas.owners[owner]
        lookup[owner] = CLASSES.index(category)
        mask = rle.encode(np.asfortranarray(visible, np.uint8))
        entry = {
            'id': image * ID_STEPS[1] + len(found),
            'image_id': image,
            'category_id': INSTANCES.index(category) + 1,
            'bbox': rle.toBbox(mask).tolist(),
            'area': int(rle.area(mask)),
            'iscrowd': 0,
            'segmentation': {**mask, 'counts': mask['counts'].decode()},
        }
        if owner in canvas.bodies:
            joints = canvas.keypoints(owner)
            entry['num_keypoints'] = int(np.count_nonzero(joints[:, 2]))
            entry['keypoints'] = joints.ravel().tolist()
        found.append(entry)
    return found, lookup[owners]
