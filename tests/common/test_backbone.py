"""What the base class does for any backbone; that ours keep it is in tests/contracts."""

import pytest
import torch
from mmtoken.common.backbone import Backbone, resolve_arch
from torch import nn


class Toy(Backbone):
    """Two stages of convolution and batch norm."""

    def __init__(self, **arguments):
        super().__init__(2, (0, 1), **arguments)
        self.stem = nn.Conv2d(3, 4, 1)
        self.stage_modules = [['stem'], ['block1'], ['down2', 'block2', 'norm2']]
        self.block1 = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.down2 = nn.Conv2d(4, 4, 1)
        self.block2 = nn.ModuleList([nn.BatchNorm2d(4)])
        self.norm2 = nn.BatchNorm2d(4)
        self.depths = (2, 1)
        self.finish()


def test_norm_eval_keeps_statistics():
    model = Toy(norm_eval=True)
    model.train()
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert model.stem.training
    assert all(m.training for m in Toy().train().modules())


def test_frozen_norms_stay_in_eval():
    model = Toy(frozen_stages=1).train()
    assert not model.stem.training
    assert not model.block1[0].training
    assert model.block2[0].training
    assert not any(p.requires_grad for p in model.block1.parameters())
    assert all(p.requires_grad for p in model.down2.parameters())


def test_layer_depth_counts_blocks():
    model = Toy()
    depths = {name: model.get_layer_depth(name)[0] for name, _ in model.named_parameters()}
    assert depths['stem.weight'] == 0
    assert [depths[f'block1.{i}.weight'] for i in (0, 1)] == [1, 2]
    assert depths['down2.weight'] == depths['block2.0.weight'] == depths['norm2.weight'] == 3
    assert model.get_layer_depth('decode_head.weight') == (4, 5)


def test_sync_batch_norm_can_replace_the_norms():
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(Toy(norm_eval=True)).train()
    assert not any(m.training for m in converted.modules() if isinstance(m, nn.SyncBatchNorm))


def test_checkpointing_only_in_training():
    model, calls = Toy(with_cp=True), []

    def block(x):
        calls.append(torch.is_grad_enabled())
        return x * x

    x = torch.ones(1, requires_grad=True)
    model.run_block(block, x).sum().backward()
    assert len(calls) == 2  # once more in the backward pass
    model.eval()
    model.run_block(block, x)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        ('b', r"one of \['a'\] or a dict with the keys \('depth',\), got 'b'"),
        (dict(), r"missing \['depth'\]"),
        (dict(depth=1, width=2), r"unknown \['width'\]"),
    ],
)
def test_bad_arch(arch, message):
    with pytest.raises(ValueError, match=message):
        resolve_arch(arch, {'a': dict(depth=1)}, ('depth',))
