"""STViT on DeiT: twin of pooling and of the whole, sizes, arguments, published multiply-adds."""

import pytest
import torch
from mmtoken import STViTDeiT, record_tokens
from mmtoken.analysis.counting import count_complexity
from mmtoken.common import reference as common
from mmtoken.stvit import reference
from mmtoken.stvit.plan import Geometry
from mmtoken.stvit.stvit_deit import WINDOW, SpatialPooling, TransformerBlock
from parity import check_equal, rand
from stvit import smallest
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

DEIT = smallest.DEIT


def pool(module, x, hw):
    """Token by token: the patches that are there, weighed by a network that sees the window."""
    size, tokens = WINDOW, []
    before = [(-side % size) // 2 for side in hw]
    for top in range(-before[0], hw[0], size):
        for left in range(-before[1], hw[1], size):
            window = x.new_zeros(len(x), x.shape[-1], size, size)
            there = []
            for r in range(max(top, 0), min(top + size, hw[0])):
                for c in range(max(left, 0), min(left + size, hw[1])):
                    there.append((r - top, c - left))
                    window[:, :, r - top, c - left] = x[:, r * hw[1] + c]
            scores = module.score(
                F.gelu(module.norm(module.dwconv(window).permute(0, 2, 3, 1)))
            )  # B w w 1
            scores = scores - 100.0
            for r, c in there:
                scores[:, r, c] = scores[:, r, c] + 100.0
            weights = scores.flatten(1).softmax(-1)
            tokens.append((weights[:, None] * window.flatten(2)).sum(-1))
    return torch.stack(tokens, 1)


@pytest.mark.parametrize('hw', [(14, 14), (1, 5), (6, 4), (13, 9)])
def test_pooling_equals_its_twin(randomize, hw):
    module, x = randomize(SpatialPooling(6)).double(), rand(2, hw[0] * hw[1], 6)
    check_equal(module(x, hw), pool(module, x, hw), dict(module.named_parameters(), x=x))


def test_block_equals_its_formula(randomize):
    block = randomize(TransformerBlock(8, 2)).double()
    x = rand(2, 5, 8)
    q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, -1)
    want = x + block.attn.proj(common.multi_head_attention(q, k, v, 2))
    want = want + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(want))))
    check_equal(block(x), want, dict(block.named_parameters(), x=x))


@pytest.mark.parametrize('hw', [(224, 224), (80, 110)])
def test_equals_its_twin(randomize, hw):
    model = randomize(STViTDeiT(DEIT)).double().eval()
    image = rand(1, 3, *hw)
    padded = F.pad(image, (0, -hw[1] % 16, 0, -hw[0] % 16))
    grid = model.patch_embed(padded)
    x = grid.flatten(2).transpose(1, 2) + model._positions(tuple(grid.shape[2:]))
    for block in model.blocks:
        x = block(x)
    geometry = Geometry(tuple(grid.shape[2:]), 4, 1)
    generate, refine, *rest = model.semantic_blocks
    pooled = pool(model.pool, x, geometry.hw)
    q, kv, _ = reference._project(generate, pooled, x)
    out = reference.attend_to_all(q, kv, 2, x.new_zeros(x.shape[1]))
    s = reference.feed_forward(generate, pooled + reference._branch(generate, out))
    s = reference.refine(refine, s, x, geometry, 'none', None, model.global_center)
    for block in rest:
        s = block(s)
    want = model.norm1(s).transpose(1, 2).unflatten(2, geometry.semantic_hw)
    check_equal(model(image)[0], want, dict(model.named_parameters(), image=image))


def test_sixteen_tokens_at_224():
    model = STViTDeiT(DEIT).eval()
    with torch.no_grad(), record_tokens(model) as rec:
        (tokens,) = model(torch.randn(1, 3, 224, 224))
    assert tokens.shape == (1, 8, 4, 4)
    (unit,) = rec.records
    assert unit.hw == (14, 14) and unit.semantic_tokens.shape == (1, 16, 8)
    torch.testing.assert_close(unit.generate.sum(-1), torch.ones(1, 16))
    assert unit.refine.shape == (1, 16, 196)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch=dict(DEIT, depths=(4, 1))), 'depths must be a whole number >= 2, got 1'),
        (dict(arch=dict(DEIT, depths=(4,))), 'depths needs 2 entries, one per stage, got 1'),
        (dict(use_global_center='yes'), "use_global_center must be True or False, got 'yes'"),
        (dict(arch=dict(DEIT, num_heads=3)), r'num_heads must divide .*=3 and embed_dims=8'),
        (dict(out_indices=(2,)), r'out_indices must be ascending stage indices in \[0, 1\]'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        STViTDeiT(**{'arch': DEIT, **arguments})


def test_bad_images():
    with pytest.raises(ValueError, match=r'at least 16 pixels \(one patch\), got 15x40'):
        STViTDeiT(DEIT)(torch.randn(1, 3, 15, 40))


@pytest.mark.parametrize(
    ('size', 'published'),
    [
        ('tiny', 0.522),
        pytest.param('small', 1.907, marks=pytest.mark.slow),
        pytest.param('base', 7.263, marks=pytest.mark.slow),
    ],
)
def test_published_multiply_adds(size, published):
    """Without the pooling and the classifier, of which the published figures have no part."""
    model = STViTDeiT(size).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        counted = count_complexity(model, lambda: model(torch.zeros(1, 3, 224, 224)))
    pooling = sum(op.macs for op in counted.operations if op.path[-1].startswith('pool'))
    assert pooling > 0
    assert round((counted.total_macs - pooling) / 1e9, 3) == published


def test_parameter_counts():
    """Of ours, without a classifier; the published ones are not known."""
    sizes = {'tiny': 5_530_368, 'small': 21_677_568, 'base': 85_822_464}
    for size, expected in sizes.items():
        with torch.device('meta'):
            model = STViTDeiT(size)
        assert sum(p.numel() for p in model.parameters()) == expected
