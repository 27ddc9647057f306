"""Pictures that the demo shows: predictions drawn over validation scenes."""

from collections import Counter, defaultdict
from pathlib import Path

import cv2
import mmengine
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.visualization import Visualizer
from mmtoken.analysis.drawing import contact_sheet

NUM_SCENES = 6
ENLARGE = 2  # lines look finer on an enlarged scene


def read_people(data_dir: Path) -> list[tuple[Path, list[list[float]]]]:
    """Validation scenes and the boxes (left, top, width, height) in them, most people first."""
    content = mmengine.load(data_dir / 'annotations' / 'person_keypoints_val.json')
    boxes = defaultdict(list)
    for person in content['annotations']:
        boxes[person['image_id']].append(person['bbox'])
    folder = data_dir / 'img_dir' / 'val'
    scenes = [
        (folder / image['file_name'], boxes[image['id']])
        for image in content['images']
        if image['id'] in boxes
    ]
    return sorted(scenes, key=lambda scene: -len(scene[1]))


def first_person(data_dir: Path) -> tuple[Path, list[float]]:
    """The largest person of the validation scenes: file and box."""
    boxes = [(path, box) for path, boxes in read_people(data_dir) for box in boxes]
    return max(boxes, key=lambda entry: entry[1][2] * entry[1][3])


def make_visualizer(cfg: Config, **options: float) -> Visualizer:
    """Build the visualizer of a config, without making it the one that the hooks of a runner find.

    Args:
        cfg: Config with ``visualizer``.
        **options: Arguments that differ from the config.

    Returns:
        The visualizer, which writes nowhere by itself.
    """
    arguments = dict(cfg.visualizer, name='demo', vis_backends=[], **options)
    arguments.pop('_scope_', None)  # where the config found it
    with VISUALIZERS.switch_scope_and_registry(None) as registry:  # that of the host in use
        return registry.get(arguments.pop('type'))(**arguments)


def draw_poses(cfg: Config, checkpoint: str, data_dir: Path, out: Path) -> None:
    """Draw the predicted skeletons of everybody in a few scenes on one sheet.

    Args:
        cfg: Config of a top-down pose estimator.
        checkpoint: Its weights.
        data_dir: Folder of the generated data.
        out: PNG file to write.
    """
    from mmpose.apis import inference_topdown, init_model
    from mmpose.structures import merge_data_samples

    model = init_model(cfg, checkpoint, device='cpu')
    visualizer = make_visualizer(cfg, radius=4, line_width=3)
    visualizer.set_dataset_meta(model.dataset_meta)
    pictures = []
    for path, boxes in read_people(data_dir)[:NUM_SCENES]:
        image = cv2.imread(str(path))
        image = cv2.resize(image, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC)
        corners = np.array(boxes) * ENLARGE
        corners[:, 2:] += corners[:, :2]
        people = merge_data_samples(inference_topdown(model, image, corners))
        picture = visualizer.add_datasample(
            'demo', image[..., ::-1].copy(), people, draw_gt=False, draw_bbox=False, kpt_thr=0.2
        )
        pictures.append(visualizer.get_image() if picture is None else picture)
    cv2.imwrite(str(out), contact_sheet(pictures)[..., ::-1])


def scenes(data_dir: Path) -> list[Path]:
    """Validation scenes with instances, the most crowded first."""
    content = mmengine.load(data_dir / 'annotations' / 'instances_val.json')
    counts = Counter(one['image_id'] for one in content['annotations'])
    names = {image['id']: image['file_name'] for image in content['images']}
    order = sorted(names, key=lambda image: (-counts[image], image))
    return [data_dir / 'img_dir' / 'val' / names[image] for image in order]


def first_scene(data_dir: Path) -> Path:
    """The validation scene with the most instances."""
    return scenes(data_dir)[0]


def draw_detections(cfg: Config, checkpoint: str, data_dir: Path, out: Path) -> None:
    """Draw the predicted masks and boxes of a few scenes on one sheet.

    Args:
        cfg: Config of an instance segmentor.
        checkpoint: Its weights.
        data_dir: Folder of the generated data.
        out: PNG file to write.
    """
    from mmdet.apis import inference_detector, init_detector

    model = init_detector(cfg, checkpoint, palette='random', device='cpu')
    visualizer = make_visualizer(cfg)
    # the classes of the data set, which has no colours
    visualizer.dataset_meta = dict(cfg.metainfo, palette=palette(len(cfg.metainfo.classes)))
    pictures = []
    for path in scenes(data_dir)[:NUM_SCENES]:
        image = cv2.imread(str(path))
        image = cv2.resize(image, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC)
        found = inference_detector(model, image)
        visualizer.add_datasample(
            'demo', image[..., ::-1].copy(), found, draw_gt=False, pred_score_thr=0.4
        )
        pictures.append(visualizer.get_image())
    cv2.imwrite(str(out), contact_sheet(pictures)[..., ::-1])


def palette(count: int) -> list[tuple[int, int, int]]:
    """As many colours (RGB) as there are classes, evenly around the colour wheel."""
    hues = np.arange(count) * 179 // count
    hsv = np.stack([hues, np.full_like(hues, 220), np.full_like(hues, 230)], -1).astype(np.uint8)
    return [tuple(map(int, colour)) for colour in cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]]


def draw_segmentations(cfg: Config, checkpoint: str, data_dir: Path, out: Path) -> None:
    """Draw the predicted label maps of a few scenes on one sheet, with the names of the classes.

    Args:
        cfg: Config of a semantic segmentor.
        checkpoint: Its weights.
        data_dir: Folder of the generated data.
        out: PNG file to write.
    """
    from mmseg.apis import inference_model, init_model

    model = init_model(cfg, checkpoint, device='cpu')
    visualizer = make_visualizer(cfg, alpha=0.6)
    visualizer.dataset_meta = {**model.dataset_meta, **cfg.metainfo}
    pictures = []
    for path in scenes(data_dir)[:NUM_SCENES]:
        image = cv2.imread(str(path))
        image = cv2.resize(image, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC)
        visualizer.add_datasample(
            'demo', image[..., ::-1].copy(), inference_model(model, image), draw_gt=False
        )
        pictures.append(visualizer.get_image())
    cv2.imwrite(str(out), contact_sheet(pictures)[..., ::-1])
