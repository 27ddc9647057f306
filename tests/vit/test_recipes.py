"""What the published recipes say about learning rates, weight decay and drop path, as built."""

from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from shipped import build_on_meta, load

FOLDER = Path(__file__).resolve().parents[2] / 'configs/vit'


def groups(name):
    """The config, and of each parameter its learning rate and weight decay."""
    (path,) = FOLDER.glob(f'{name}*.py')
    cfg = load(path)
    model = build_on_meta(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults['betas'] == (0.9, 0.999)
    by_id = {id(p): group for group in optimizer.param_groups for p in group['params']}
    found = {key: by_id[id(p)] for key, p in model.named_parameters() if p.requires_grad}
    return cfg, {key: (group['lr'], group['weight_decay']) for key, group in found.items()}


@pytest.mark.parametrize(
    'name, lr, rate, decay, depth, drop_path, decays_bias',
    [
        ('mask-rcnn_vit-base', 1e-4, 0.7, 0.1, 12, 0.1, True),
        ('mask-rcnn_vit-large', 1e-4, 0.8, 0.1, 24, 0.4, True),
        ('vit-base-mae', 1e-4, 0.65, 0.05, 12, 0.1, False),
        ('td-hm_vit-small', 5e-4, 0.8, 0.1, 12, 0.1, False),
        ('td-hm_vit-base', 5e-4, 0.75, 0.1, 12, 0.3, False),
        ('td-hm_vit-large', 5e-4, 0.8, 0.1, 24, 0.5, False),
    ],
)
def test_layer_decay(name, lr, rate, decay, depth, drop_path, decays_bias):
    cfg, found = groups(name)
    assert cfg.model.backbone.drop_path_rate == drop_path
    biased = decay if decays_bias else 0
    scale = {
        'patch_embed.proj.weight': (depth + 1, decay),
        'patch_embed.proj.bias': (depth + 1, biased),
        'pos_embed': (depth + 1, 0),
        'blocks.0.attn.qkv.weight': (depth, decay),
        'blocks.0.norm1.weight': (depth, 0),
        f'blocks.{depth - 1}.mlp.fc2.bias': (1, biased),
    }
    for key, (exponent, expected) in scale.items():
        got = found[f'backbone.{key}']
        assert got == (pytest.approx(lr * rate**exponent), expected), key
    heads = {lr for key, (lr, _) in found.items() if not key.startswith('backbone.')}
    assert heads == {lr}


def test_windows_of_vitdet():
    """Global attention closes each quarter of the blocks."""
    for name, depth in (('base', 12), ('large', 24)):
        cfg, _ = groups(f'mask-rcnn_vit-{name}')
        windows = {*cfg.model.backbone.window_block_indexes}
        assert {*range(depth)} - windows == {depth * i // 4 - 1 for i in (1, 2, 3, 4)}
    assert cfg.train_cfg.max_epochs == 100
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 64


def test_dinov2_is_frozen():
    cfg, found = groups('vit-base-dinov2')
    trained = {key for key in found if key.startswith('backbone.')}
    assert trained == {'backbone.norm.weight', 'backbone.norm.bias'}
    assert {lr for lr, _ in found.values()} == {1e-3}
    assert {decay for _, decay in found.values()} == {0.0, 1e-4}
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 40000
