"""The size of every model, as the configs build it.

Backbones are those of the released code, exact. Whole models are ours, in millions: of them nothing
was published.
"""

from pathlib import Path

import pytest
from shipped import built

FOLDER = Path(__file__).resolve().parents[2] / 'configs/stvit'
BACKBONES = {'tiny': 27_552_558, 'small': 48_857_862, 'base': 86_789_128}
SWIN = {'tiny': 27_520_698, 'small': 48_838_602, 'base': 86_745_016}
MODELS_IN_MILLIONS = {
    'mask-rcnn_stvit-r-tiny_fpn_1x_coco': 47.826,
    'mask-rcnn_stvit-r-small_fpn_1x_coco': 69.132,
    'mask-rcnn_stvit-r-base_fpn_1x_coco': 107.186,
    'mask-rcnn_swin-small_fpn_1x_coco': 69.113,
    'mask-rcnn_swin-base_fpn_1x_coco': 107.142,
    'cascade-mask-rcnn_stvit-r-small_fpn_4conv1fc-giou_ms-crop-3x_coco': 106.967,
    'cascade-mask-rcnn_stvit-r-base_fpn_4conv1fc-giou_ms-crop-3x_coco': 145.021,
    'stvit-r-tiny_upernet_8xb2-160k_ade20k-512x512': 59.974,
    'stvit-r-small_upernet_8xb2-160k_ade20k-512x512': 81.279,
    'stvit-r-base_upernet_8xb2-160k_ade20k-512x512': 121.324,
    'td-hm_stvit-r-tiny_8xb32-210e_coco-256x192': 32.8,
    'mask-rcnn_stvit-r-tiny_fpn_1xb2-12e_coco-mini': 47.826,
    'mask-rcnn_stvit-r-tiny_fpn_1xb4-10e_nuclei-crop128': 28.791,
    'mask-rcnn_swin-tiny_fpn_1xb4-10e_nuclei-crop128': 28.76,
}


def build(name: str):
    return built(FOLDER / f'{name}.py')


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize('name', MODELS_IN_MILLIONS)
def test_size(name):
    model = build(name)
    sizes = SWIN if '_swin-' in name else BACKBONES
    size = next(size for size in sizes if f'-{size}_' in name)
    # poses are read off the last stage, and the others have no norm
    norms = 2 * (96 + 192 + 384) if name.startswith('td-hm') else 0
    assert count(model.backbone) == sizes[size] - norms
    assert round(count(model) / 1e6, 3) == MODELS_IN_MILLIONS[name]


def test_every_config_has_its_size():
    """The classifiers are in ``contracts/test_classifiers.py``."""
    stems = {path.stem for path in FOLDER.glob('*.py')}
    assert {stem for stem in stems if not stem.endswith('_in1k')} == set(MODELS_IN_MILLIONS)
