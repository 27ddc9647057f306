"""The three host formats: COCO keypoints, COCO instances with masks, index-mask segmentation."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from .backgrounds import BACKGROUNDS
from .poses import JOINTS
from .scene import THINGS, Scene

SEGMENTATION_CLASSES = (*BACKGROUNDS, *THINGS)  # the index in an index mask
IGNORE = 255  # pixels of things too small to be annotated
MIN_AREA = 48  # pixels; what shows less of itself is not annotated
MAX_IMAGES = 999_999  # per split, so that ids of train and val stay apart
ID_STEP = 100  # annotation ids per image

# one shade per class, for drawing
PALETTE = (
    (135, 190, 235), (200, 180, 160), (140, 150, 95), (120, 140, 150), (220, 60, 70),
    (190, 130, 70), (150, 90, 180), (245, 140, 40), (50, 120, 60), (90, 90, 100), (110, 70, 50),
)  # fmt: skip

# pairs of joints, counted from 1 as in COCO
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip

SPLITS = ('train', 'val')


def image_id(split: str, index: int) -> int:
    """Return the id of an image, the same however many images there are."""
    return SPLITS.index(split) * (MAX_IMAGES + 1) + index + 1


def file_name(split: str, index: int) -> str:
    """Return the name of an image and of its index mask inside the folder of the split."""
    return f'{image_id(split, index):012d}.png'


def thing_category(name: str) -> dict[str, Any]:
    """Return the COCO category of a class with instances; ids count from 1, person first."""
    group = 'person' if name == 'person' else 'thing'
    return {'id': THINGS.index(name) + 1, 'name': name, 'supercategory': group}


def person_category() -> dict[str, Any]:
    """Return the COCO keypoints category."""
    return {
        **thing_category('person'),
        'keypoints': list(JOINTS),
        'skeleton': [*map(list, SKELETON)],
    }


def annotations(scene: Scene, image: int) -> list[dict[str, Any]]:
    """Return a COCO annotation for each thing that shows enough of itself, ids ascending.

    People also have ``keypoints`` and ``num_keypoints``. Box and area belong to the mask of the
    visible pixels.
    """
    found = []
    for k, instance in enumerate(scene.instances):
        mask = scene.owner == k
        if np.count_nonzero(mask) < MIN_AREA:
            continue
        encoded = rle.encode(np.asfortranarray(mask, np.uint8))
        found.append(
            {
                'id': image * ID_STEP + len(found),
                'image_id': image,
                'category_id': THINGS.index(instance.category) + 1,
                'bbox': [float(v) for v in rle.toBbox(encoded)],
                'area': int(rle.area(encoded)),
                'iscrowd': 0,
                'segmentation': {**encoded, 'counts': encoded['counts'].decode()},
            }
        )
        if instance.joints is not None:
            found[-1]['num_keypoints'] = int(np.count_nonzero(instance.joints[:, 2]))
            found[-1]['keypoints'] = flat_joints(instance.joints)
    return found


def flat_joints(joints: NDArray) -> list[float]:
    """Return x, y, visibility of ``(17, 3)`` joints as one list."""
    return [v for x, y, seen in joints.tolist() for v in (round(x, 2), round(y, 2), int(seen))]


def index_mask(scene: Scene) -> NDArray:
    """Return the class of each pixel ``(H, W)``, uint8: an index into SEGMENTATION_CLASSES."""
    lookup = np.full(len(scene.instances) + 1, IGNORE, np.uint8)  # the last entry serves owner -1
    sizes = np.bincount(scene.owner.ravel() + 1, minlength=len(scene.instances) + 1)[1:]
    for k, instance in enumerate(scene.instances):
        if sizes[k] >= MIN_AREA:
            lookup[k] = SEGMENTATION_CLASSES.index(instance.category)
    return np.where(scene.owner < 0, scene.background, lookup[scene.owner])


def write_scene(root: Path, split: str, index: int, scene: Scene) -> list[dict[str, Any]]:
    """Write picture and index mask below ``root``; return the annotations."""
    name = file_name(split, index)
    write_png(root / 'img_dir' / split / name, scene.picture[..., ::-1])
    write_png(root / 'ann_dir' / split / name, index_mask(scene))
    return annotations(scene, image_id(split, index))


def write_png(path: Path, pixels: NDArray) -> None:
    """Write BGR or index pixels without loss."""
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 2]):
        raise OSError(f'cannot write {path}; check the free space and the permissions there')


def write_annotations(
    root: Path, split: str, count: int, hw: tuple[int, int], things: list[dict[str, Any]]
) -> None:
    """Write the two COCO files of a split; ``things`` are the annotations of all its images."""
    images = [
        {
            'id': image_id(split, k),
            'file_name': file_name(split, k),
            'height': hw[0],
            'width': hw[1],
        }
        for k in range(count)
    ]
    plain = [{k: v for k, v in thing.items() if 'keypoints' not in k} for thing in things]
    people = [thing for thing in things if 'keypoints' in thing]
    categories = [thing_category(name) for name in THINGS]
    write_coco(root / f'annotations/instances_{split}.json', images, plain, categories)
    write_coco(
        root / f'annotations/person_keypoints_{split}.json', images, people, [person_category()]
    )


def write_coco(
    path: Path,
    images: list[dict[str, Any]],
    things: list[dict[str, Any]],
    categories: list[dict[str, Any]],
) -> None:
    """Write one COCO file."""
    info = {'description': 'MMToken demo data: drawn people and things'}
    content = {
        'info': info,
        'licenses': [],
        'images': images,
        'annotations': things,
        'categories': categories,
    }
    path.write_text(json.dumps(content, separators=(',', ':')))


def expected_files(num_train: int, num_val: int) -> set[str]:
    """Return the paths of all files of a data set relative to its root."""
    files = {'meta.json'}
    for split, count in zip(SPLITS, (num_train, num_val)):
        files |= {f'annotations/{kind}_{split}.json' for kind in ('instances', 'person_keypoints')}
        names = [file_name(split, k) for k in range(count)]
        files |= {f'{folder}/{split}/{name}' for folder in ('img_dir', 'ann_dir') for name in names}
    return files
