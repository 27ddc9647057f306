"""Every fast path against its twin in loops: outputs and gradients, in float64, at odd sizes."""

import pytest
import stvit_tiny
import torch
from mmtoken import STViTR
from mmtoken.stvit import reference
from mmtoken.stvit.recovery import attend_tiles, plan_recovery
from mmtoken.stvit.semantic_tokens import (
    Geometry,
    attend_neighborhood,
    plan_neighborhood,
    pool_windows,
    real_semantic_tokens,
)
from mmtoken.stvit.stage import UNIT, SemanticStage
from mmtoken.stvit.swin import PatchMerging, SwinBlock, shift_mask

# a part of a window, one whole one, one and a bit, padding on one side, on both, on none, long
SIZES = [(1, 3), (7, 7), (4, 9), (8, 14), (9, 10), (14, 14), (3, 45)]
MASKS = ['released', 'exact', 'none']
CPU = (torch.device('cpu'), torch.float64)


def run(block, *args):
    return block(*args)


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def check_equal(got, want, tensors):
    """Compare outputs, then gradients of a random projection to each named tensor."""
    torch.testing.assert_close(got, want, atol=1e-10, rtol=0)
    weight = torch.randn_like(want)
    grads = [
        torch.autograd.grad((out * weight).sum(), tensors.values(), allow_unused=True)
        for out in (got, want)
    ]
    for name, a, b in zip(tensors, *grads):
        zero = torch.zeros_like(tensors[name])
        torch.testing.assert_close(
            zero if a is None else a,
            zero if b is None else b,
            atol=1e-9,
            rtol=1e-7,
            msg=lambda m, n=name: f'gradient of {n}: {m}',
        )


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('ignore_padding', [False, True])
def test_pool_windows(hw, ignore_padding):
    geometry, x = Geometry(hw), rand(2, *hw, 3)
    got = pool_windows(x, geometry, ignore_padding)
    check_equal(got, reference.pool_windows(x, geometry, ignore_padding), dict(x=x))


def test_real_semantic_tokens():
    for hw in SIZES:
        geometry = Geometry(hw)
        real = real_semantic_tokens(geometry, CPU[0])
        for row, col in reference.windows(geometry.semantic_hw):
            assert real[row, col] == reference.is_real(geometry, 'semantic', row, col)


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('kernel', [7, 14, 21])
def test_attend_neighborhood(hw, mask, kernel):
    geometry = Geometry(hw)
    q, kv, outside = rand(2, *geometry.semantic_hw, 4), rand(2, *hw, 8), rand(8)
    got = attend_neighborhood(q, kv, outside, 2, plan_neighborhood(geometry, kernel, mask, *CPU))
    want = reference.attend_neighborhood(q, kv, outside, 2, geometry, kernel, mask)
    check_equal(got, want, dict(q=q, kv=kv, outside=outside))


@pytest.mark.parametrize('hw', [*SIZES, (36, 22)])
@pytest.mark.parametrize(
    ('mask', 'kernel'),
    [('released', 27), *((mask, k) for mask in ('exact', 'none') for k in (3, 6, 27, None))],
)
@pytest.mark.parametrize('tile', [1, 4, 99])
def test_attend_tiles(hw, mask, kernel, tile):
    geometry = Geometry(hw)
    q, kv, outside = rand(1, *hw, 4), rand(1, *geometry.semantic_hw, 8), rand(8)
    tiles = plan_recovery(geometry, kernel, mask, *CPU, tile=tile)
    got = attend_tiles(q, kv, outside, 2, tiles)
    want = reference.attend_tiles(q, kv, outside, 2, geometry, kernel, mask)
    check_equal(got, want, dict(q=q, kv=kv, outside=outside))


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('flavour', ['dense', 'classification'])
@pytest.mark.parametrize('mask', MASKS)
def test_units(randomize, flavour, mask, hw):
    units = 2 if hw == (9, 10) else 1
    model = SemanticStage(
        number=3,
        dim=8,
        num_heads=2,
        steps=UNIT * units,
        drop_paths=[0.0] * 6 * units,
        flavour=flavour,
        mask=mask,
        residual=flavour == 'dense',
        use_global_center=flavour == 'classification',
        merges=False,
    )
    model = randomize(model).double().eval()
    x = rand(2, hw[0] * hw[1], 8)
    want, center = x, model.semantic_token2
    for first in range(0, 6 * units, 6):
        names = model.steps[first : first + 6]
        blocks = dict(zip(names, model.blocks[first : first + 6]))
        want, center = reference.semantic_unit(model, blocks, want, hw, center), None
    check_equal(model(x, hw, run), want, dict(model.named_parameters(), x=x))


@pytest.mark.parametrize('hw', [(1, 2), (7, 7), (9, 15), (14, 8)])
@pytest.mark.parametrize('shift', [0, 3])
def test_swin_block(randomize, hw, shift):
    block = randomize(SwinBlock(8, 2)).double()
    x = rand(2, hw[0] * hw[1], 8)
    mask = shift_mask(hw, 7, shift, *CPU) if shift else None
    got, want = block(x, hw, shift, mask), reference.swin_block(block, x, hw, shift)
    check_equal(got, want, dict(block.named_parameters(), x=x))


@pytest.mark.parametrize('hw', [(1, 1), (4, 6), (5, 3)])
def test_patch_merging(randomize, hw):
    module, x = randomize(PatchMerging(8)).double(), rand(2, hw[0] * hw[1], 8)
    (got, size), (want, expected) = module(x, hw), reference.patch_merging(module, x, hw)
    assert size == expected
    check_equal(got, want, dict(module.named_parameters(), x=x))


@pytest.mark.parametrize('flavour', ['dense', 'classification'])
def test_whole_backbone(randomize, flavour):
    model = randomize(STViTR(stvit_tiny.TINY, flavour)).double().eval()
    image = rand(1, 3, 99, 116)
    got, want = model(image), reference.stvit_r(model, image)
    check_equal(
        torch.cat([m.flatten() for m in got]),
        torch.cat([m.flatten() for m in want]),
        dict(model.named_parameters(), image=image),
    )


@pytest.mark.parametrize('mask', MASKS)
def test_gradcheck(mask):
    geometry = Geometry((3, 2), window_size=2, semantic_window=1)
    q, kv, outside = rand(1, *geometry.semantic_hw, 2), rand(1, 3, 2, 4), rand(4)
    near = plan_neighborhood(geometry, 3, mask, *CPU)
    assert torch.autograd.gradcheck(
        lambda q, kv, o: attend_neighborhood(q, kv, o, 1, near), (q, kv, outside)
    )
    tiles = plan_recovery(geometry, 3, mask, *CPU, tile=1)
    q, kv = rand(1, 3, 2, 2), rand(1, *geometry.semantic_hw, 4)
    assert torch.autograd.gradcheck(
        lambda q, kv, o: attend_tiles(q, kv, o, 1, tiles), (q, kv, outside)
    )
