"""The size of every published model, as the configs build it, against its measured size.

Backbones are exact. Whole detectors and segmentors are given in millions to three digits, as built
from the released code; where the released README says otherwise, its number is noted beside ours.
"""

from pathlib import Path

import pytest
from shipped import built

FOLDER = Path(__file__).resolve().parents[2] / 'configs/paca_vit'
DETECTOR = 'mask-rcnn_paca-vit-{}_fpn_1x_coco'
PACAHEAD = 'paca-vit-{}_pacahead_8xb2-160k_ade20k-512x512'
UPERNET = 'paca-vit-{}_upernet_8xb2-160k_ade20k-512x512'

# variant: backbone with its own number of clusters, then in millions Mask R-CNN and segmentor; None
# where the segmentor is the one of 'small' or 'small-m100x4' (all have 200 clusters on ADE20K)
SIZES = {
    'tiny': (11_815_680, 31.975, 13.327),
    'small': (21_652_704, 41.812, 23.164),
    'base': (46_398_304, 66.607, 47.965),
    'small-mlp': (22_252_268, 42.411, 23.946),
    'small-m2': (21_593_120, 41.752, None),  # README: 41.6
    'small-m49': (21_621_696, 41.781, None),
    'small-m49-100': (21_842_560, 42.002, None),
    'small-m100-49': (21_825_696, 41.985, None),
    'small-m100x4': (21_860_448, 42.020, 23.410),
    'small-blockwise': (23_806_944, 43.966, 25.779),
    'tiny-teacher': (12_098_672, 32.258, 13.649),
    'small-teacher': (20_690_064, 40.849, 22.240),
    'base-teacher': (47_146_192, 67.355, 48.764),  # README: 61.4
}
PACAHEAD_SIZES = {variant: size for variant, (*_, size) in SIZES.items() if size is not None}
UPERNET_SIZES = {'tiny': 41.562, 'small': 51.399, 'base': 77.183}


def build(name: str):
    return built(FOLDER / f'{name}.py')


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def millions(module) -> float:
    return round(count(module) / 1e6, 3)


@pytest.mark.parametrize('variant', SIZES)
def test_mask_rcnn(variant):
    backbone, detector, _ = SIZES[variant]
    model = build(DETECTOR.format(variant))
    assert count(model.backbone) == backbone
    assert millions(model) == detector


@pytest.mark.parametrize('variant', PACAHEAD_SIZES)
def test_segmentor_with_paca_head(variant):
    model = build(PACAHEAD.format(variant))
    assert millions(model) == PACAHEAD_SIZES[variant]
    base = variant.startswith('base')
    assert millions(model.decode_head) == (1.499 if base else 1.450)


@pytest.mark.parametrize('variant', UPERNET_SIZES)
def test_segmentor_with_upernet(variant):
    assert millions(build(UPERNET.format(variant))) == UPERNET_SIZES[variant]


def test_cascade_has_the_backbone_of_mask_rcnn():
    model = build('cascade-mask-rcnn_paca-vit-small_fpn_1x_coco')
    assert count(model.backbone) == SIZES['small'][0]
    assert len(model.roi_head.bbox_head) == 3


def test_every_published_recipe_has_its_size():
    named = [DETECTOR.format(variant) for variant in SIZES]
    named += [PACAHEAD.format(variant) for variant in PACAHEAD_SIZES]
    named += [UPERNET.format(variant) for variant in UPERNET_SIZES]
    named += ['cascade-mask-rcnn_paca-vit-small_fpn_1x_coco']
    there = [*FOLDER.glob('*_1x_coco.py'), *FOLDER.glob('*_ade20k-*.py')]
    assert sorted(path.stem for path in there) == sorted(named)
