"""The size of every model as the configs build it, and what the recipes say to the optimizer."""

from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from shipped import build_on_meta, load

FOLDER = Path(__file__).resolve().parents[2] / 'configs/maxvit'
# ours, in millions: of whole models nothing was published
SIZES = {
    'mask-rcnn_maxvit-tiny_fpn_1x_coco': 50.291,
    'mask-rcnn_maxvit-small_fpn_1x_coco': 87.841,
    'cascade-mask-rcnn_maxvit-tiny_fpn_1x_coco': 83.219,
    'cascade-mask-rcnn_maxvit-small_fpn_1x_coco': 120.769,
    'mask-rcnn_maxvit-tiny_fpn_1xb4-10e_nuclei-crop128': 31.348,
    'maxvit-tiny_upernet_8xb2-160k_ade20k-512x512': 60.447,
    'maxvit-small_upernet_8xb2-160k_ade20k-512x512': 99.988,
    'maxvit-tiny_upernet_1xb8-10e_camvid-crop160': 32.824,
    'td-hm_maxvit-tiny_8xb32-210e_coco-256x192': 34.34,
    'td-hm_maxvit-tiny_1xb16-25e_lsp-extended-128x128': 3.85,
}
# learning rate and decay; poses are trained as the host trains Swin
RATES = dict(coco=(1e-4, 0.05), ade20k=(6e-5, 0.01))
TABLE = 'backbone.stages.2.blocks.1.attn_grid.attn.rel_pos.relative_position_bias_table'
SPARED = (TABLE, 'backbone.stages.0.blocks.0.conv.norm2.weight')


NAMES = [pytest.param(n, marks=pytest.mark.slow) if 'small' in n else n for n in SIZES]


@pytest.mark.parametrize('name', NAMES)
def test_sizes_and_recipes(name):
    cfg = load(FOLDER / f'{name}.py')
    model = build_on_meta(cfg)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == SIZES[name]
    published = name.split('_')[-1] == 'coco' or 'ade20k' in name
    if not published:
        return
    assert cfg.model.backbone.drop_path_rate == (0.3 if 'small' in name else 0.2)
    assert cfg.sync_bn == 'torch'
    lr, decay = RATES['ade20k' if 'ade20k' in name else 'coco']
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    names = {id(p): key for key, p in model.named_parameters()}
    found = {names[id(p)]: g for g in optimizer.param_groups for p in g['params']}
    assert {group['lr'] for group in found.values()} == {lr}
    for key in SPARED:
        assert found[key]['weight_decay'] == 0
    assert found['backbone.stages.0.blocks.0.conv.conv2_kxk.weight']['weight_decay'] == decay


def test_every_config_is_tested():
    """The classifiers are in ``contracts/test_classifiers.py``."""
    stems = {path.stem for path in FOLDER.glob('*.py')}
    assert {stem for stem in stems if not stem.endswith('_in1k')} == set(SIZES)
