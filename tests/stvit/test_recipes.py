"""What the recipes say about learning rates, weight decay and drop path, as built."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from shipped import build_optimizer, built, load

FOLDER = Path(__file__).resolve().parents[2] / 'configs/stvit'
CASCADES = sorted(FOLDER.glob('cascade-*-3x_coco.py'))
DETECTORS = sorted(FOLDER.glob('mask-rcnn_*_1x_coco.py'))
UPERNET = sorted(FOLDER.glob('*_upernet_*.py'))
DROP_PATH = {'tiny': 0.2, 'small': 0.2, 'base': 0.3}
# what is decayed, though a rule by kind of layer would spare it
DECAYED = ('patch_embed.proj.0.bn.weight', 'layers.2.blocks.1.layer_scale_1')
SPARED = ('layers.2.blocks.1.norm1.weight', 'norm3.bias')
TABLE = 'layers.0.blocks.0.attn.relative_position_bias_table'


def groups(cfg: Config, path: Path) -> dict[str, dict]:
    """Of each parameter the group that the optimizer put it into."""
    model = built(path)
    optimizer = build_optimizer(cfg, model).optimizer
    assert type(optimizer) is torch.optim.AdamW
    by_id = {id(p): group for group in optimizer.param_groups for p in group['params']}
    return {name: by_id[id(p)] for name, p in model.named_parameters()}


def size_of(path: Path) -> str:
    return next(size for size in DROP_PATH if f'-{size}_' in path.stem)


@pytest.mark.parametrize('path', CASCADES, ids=lambda path: path.stem)
def test_cascade_is_the_authors(path):
    cfg = load(path)
    found = groups(cfg, path)
    assert {group['lr'] for group in found.values()} == {1e-4}
    for name in DECAYED:
        assert found[f'backbone.{name}']['weight_decay'] == 0.05
    for name in (*SPARED, TABLE):
        assert found[f'backbone.{name}']['weight_decay'] == 0
    assert cfg.model.backbone.drop_path_rate == DROP_PATH[size_of(path)]
    assert cfg.model.backbone.get('mask', 'exact') == 'exact'
    assert cfg.train_cfg.max_epochs == 36
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (1e-3, 500, False)
    assert (list(steps.milestones), steps.gamma) == ([27, 33], 0.1)
    assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
    assert len(cfg.model.roi_head.bbox_head) == 3
    for head in cfg.model.roi_head.bbox_head:
        assert (head.type, head.num_shared_convs, head.num_shared_fcs) == ('ConvFCBBoxHead', 4, 1)
        assert head.norm_cfg.type == 'SyncBN' and head.reg_decoded_bbox
        assert not head.reg_class_agnostic
        assert (head.loss_bbox.type, head.loss_bbox.loss_weight) == ('GIoULoss', 10.0)
    assert cfg.model.data_preprocessor.pad_size_divisor == 32
    assert cfg.train_dataloader.batch_size == 2
    plain, cropped = cfg.train_dataloader.dataset.pipeline[3].transforms
    scales = [(side, 1333) for side in range(480, 801, 32)]
    assert [tuple(scale) for scale in plain[0].scales] == scales
    assert tuple(cropped[1].crop_size) == (384, 600)


@pytest.mark.parametrize('path', DETECTORS, ids=lambda path: path.stem)
def test_mask_rcnn_is_that_of_the_host(path):
    cfg = load(path)
    found = groups(cfg, path)
    assert {group['lr'] for group in found.values()} == {1e-4}
    assert {group['weight_decay'] for group in found.values()} == {0, 0.05}
    assert cfg.model.backbone.drop_path_rate == DROP_PATH[size_of(path)]
    assert cfg.model.backbone.get('init_cfg') is None
    assert cfg.train_cfg.max_epochs == 12
    assert list(cfg.param_scheduler[1].milestones) == [8, 11]


def test_plain_swin_differs_in_the_backbone_alone():
    for size in ('small', 'base'):
        ours, swin = (
            load(FOLDER / f'mask-rcnn_{kind}-{size}_fpn_1x_coco.py')._cfg_dict.to_dict()
            for kind in ('stvit-r', 'swin')
        )
        for cfg in (ours, swin):
            cfg['model'].pop('backbone')
        assert ours == swin


@pytest.mark.parametrize('path', UPERNET, ids=lambda path: path.stem)
def test_upernet_runs_160k_iterations(path):
    cfg = load(path)
    found = groups(cfg, path)
    assert {group['lr'] for group in found.values()} == {6e-5}
    for name in (*SPARED, TABLE):
        assert found[f'backbone.{name}']['weight_decay'] == 0
    assert found[f'backbone.{DECAYED[1]}']['weight_decay'] == 0.01
    assert cfg.model.backbone.drop_path_rate == DROP_PATH[size_of(path)]
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.train_dataloader.batch_size == 2


def test_poses_are_read_off_the_last_stage():
    cfg = load(FOLDER / 'td-hm_stvit-r-tiny_8xb32-210e_coco-256x192.py')
    assert tuple(cfg.model.backbone.out_indices) == (3,)
    assert cfg.train_dataloader.batch_size == 32
    assert cfg.train_cfg.max_epochs == 210
