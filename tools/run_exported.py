"""Run a file of export.py on pictures and draw the result, with onnxruntime, numpy and Pillow.

python tools/run_exported.py FILE.onnx IMAGE... --out-dir DIR [--bbox X Y W H]

Key points and labels are drawn, scores and other outputs are printed. --bbox is the person whose
joints a top-down pose estimator finds; without it the whole picture is taken for one.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw

MARGIN = 1.25  # of the crop around a person, as in training


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Run an exported model on pictures')
    add = parser.add_argument
    add('file', type=Path, help='FILE.onnx, written by export.py')
    add('images', nargs='+', type=Path, metavar='image', help='picture files')
    add('--out-dir', type=Path, default=Path(), metavar='DIR', help='folder for pictures (.)')
    add('--bbox', type=float, nargs=4, metavar=('X', 'Y', 'W', 'H'), help='person, in pixels')
    add('--threshold', type=float, default=0.2, help='lowest score of a joint (%(default)s)')
    args = parser.parse_args(argv)
    for path in (args.file, *args.images):
        if not path.is_file():
            raise ValueError(f'files must exist, got {str(path)!r}; correct the path')
    return args


def read_metadata(session: onnxruntime.InferenceSession) -> dict:
    """What export.py wrote about the model."""
    found = session.get_modelmeta().custom_metadata_map
    if 'input_size' not in found:
        raise ValueError(f'a file must have the metadata of export.py, got {sorted(found)}')
    return {key: json.loads(value) for key, value in found.items()}


def find_crop(size: tuple[int, int], about: dict, bbox: list[float] | None) -> tuple[float, ...]:
    """Left, top, right and bottom of the part of a picture that the model sees."""
    if about['host'] != 'mmpose':
        return (0, 0, *size)
    x, y, w, h = bbox or (0, 0, *size)
    aspect = about['input_size'][1] / about['input_size'][0]
    width, height = max(w, h * aspect) * MARGIN, max(h, w / aspect) * MARGIN
    left, top = x + w / 2 - width / 2, y + h / 2 - height / 2
    return left, top, left + width, top + height


def prepare(picture: Image.Image, crop: tuple[float, ...], about: dict) -> np.ndarray:
    """The input of the model: ``(1, 3, H, W)``, channels in the order that the file states."""
    height, width = about['input_size']
    left, top, right, bottom = crop
    steps = ((right - left) / width, (bottom - top) / height)
    # pixels outside the picture are black
    matrix = (steps[0], 0, left, 0, steps[1], top)
    seen = picture.transform((width, height), Image.Transform.AFFINE, matrix, Image.BILINEAR)
    x = np.asarray(seen, np.float32).transpose(2, 0, 1)
    if about['channel_order'] == 'BGR':
        x = x[::-1]
    if about['normalization'] == 'outside' and 'mean' in about:
        x = (x - np.float32(about['mean'])[:, None, None]) / np.float32(about['std'])[:, None, None]
    return np.ascontiguousarray(x[None], np.float32)


def find_joints(outputs: dict[str, np.ndarray], crop: tuple[float, ...]) -> np.ndarray:
    """Place in the picture and score of each joint, ``(K, 3)``."""
    if 'heatmaps' in outputs:
        maps = outputs['heatmaps'][0]
        padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), 'edge')
        joints = []
        for k, one in enumerate(maps):
            y, x = np.unravel_index(one.argmax(), one.shape)
            near = padded[k, y : y + 3, x : x + 3]
            # a quarter of a cell towards the larger neighbour, as the heads decode
            shift = np.sign([near[1, 2] - near[1, 0], near[2, 1] - near[0, 1]]) / 4
            joints.append((x + shift[0], y + shift[1], one.max()))
        sides = maps.shape[2], maps.shape[1]
    else:
        axes = [outputs[name][0] for name in ('simcc_x', 'simcc_y')]
        score = np.minimum(*(axis.max(1) for axis in axes))
        joints = np.stack([*(axis.argmax(1) for axis in axes), score], 1)
        sides = axes[0].shape[1], axes[1].shape[1]
    joints = np.array(joints, float)
    for axis in (0, 1):
        scale = (crop[axis + 2] - crop[axis]) / sides[axis]
        joints[:, axis] = crop[axis] + joints[:, axis] * scale
    return joints


def draw_joints(
    picture: Image.Image, joints: np.ndarray, about: dict, threshold: float
) -> Image.Image:
    """Joints as dots, limbs as lines; enlarges small pictures."""
    factor = max(1, round(512 / max(picture.size)))
    picture = picture.resize([side * factor for side in picture.size])
    draw = ImageDraw.Draw(picture)
    places = [tuple(joint[:2] * factor) for joint in joints]
    radius = max(picture.size) / 120
    for a, b in about.get('skeleton', []):
        if min(joints[a, 2], joints[b, 2]) >= threshold:
            draw.line([places[a], places[b]], (255, 160, 0), max(round(radius / 1.5), 1))
    for (x, y), score in zip(places, joints[:, 2]):
        if score >= threshold:
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], (40, 220, 80), (0, 0, 0))
    return picture


def draw_labels(picture: Image.Image, labels: np.ndarray, about: dict) -> Image.Image:
    """Classes as colours over the picture."""
    hues = np.random.default_rng(0).integers(0, 256, (int(labels.max()) + 1, 3))
    palette = np.array(about.get('palette') or hues, np.uint8)
    overlay = Image.fromarray(palette[labels]).resize(picture.size, Image.NEAREST)
    return Image.blend(picture, overlay, 0.5)


def run(session: onnxruntime.InferenceSession, path: Path, args: argparse.Namespace) -> None:
    """Run one picture; draw or print what comes out."""
    about, picture = read_metadata(session), Image.open(path).convert('RGB')
    crop = find_crop(picture.size, about, args.bbox)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {'image': prepare(picture, crop, about)})))
    drawn = None
    if 'heatmaps' in outputs or 'simcc_x' in outputs:
        joints = find_joints(outputs, crop)
        for k, (x, y, score) in enumerate(joints):
            name = about['keypoints'][k] if 'keypoints' in about else k
            print(f'{path.name}: {name} {x:.1f} {y:.1f} {score:.2f}')
        drawn = draw_joints(picture, joints, about, args.threshold)
    elif 'labels' in outputs or 'logits' in outputs:
        labels = outputs['labels'][0] if 'labels' in outputs else outputs['logits'][0].argmax(0)
        for k, count in zip(*np.unique(labels, return_counts=True)):
            name = about['classes'][k] if 'classes' in about else k
            print(f'{path.name}: {name} {count / labels.size:.1%}')
        drawn = draw_labels(picture, labels, about)
    elif 'scores' in outputs:
        for k in outputs['scores'][0].argsort()[::-1][:5]:
            name = about['classes'][k] if 'classes' in about else k
            print(f'{path.name}: {name} {outputs["scores"][0, k]:.3f}')
    else:
        for name, value in outputs.items():
            print(f'{path.name}: {name} {value.shape} mean {value.mean():.4f}')
    if drawn is not None:
        args.out_dir.mkdir(parents=True, exist_ok=True)
        drawn.save(args.out_dir / f'{path.stem}_result.png')
        print(args.out_dir / f'{path.stem}_result.png')


def main(argv: list[str] | None = None) -> None:
    """Run all pictures."""
    args = parse_args(argv)
    session = onnxruntime.InferenceSession(args.file, providers=['CPUExecutionProvider'])
    for path in args.images:
        run(session, path, args)


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:
        sys.exit(f'error: {error}')
