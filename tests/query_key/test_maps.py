import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.query_key.adapters import find_layers
from mmtoken.query_key.interaction import logit_terms
from mmtoken.query_key.maps import (
    Mode,
    contributions,
    count_prefix,
    draw_modes,
    find_mode_maps,
    grid_size,
)
from mmtoken.query_key.tokens import all_tokens, observe
from rooms import SMALLEST

INPUT = (64, 96)


def vit(**other):
    arch = dict(embed_dims=16, depth=1, num_heads=2, hidden_dim=16)
    return MODELS.build(dict(type='PlainViT', arch=arch, patch_size=8, img_size=32, **other))


def run(model, number=0):
    layers, _ = find_layers(model)
    seen = observe(model, layers, lambda: model(torch.randn(1, 3, *INPUT).to(model_dtype(model))))
    layer = [layer for layer in layers if layer.name in seen][number]
    return layer, seen[layer.name]


def model_dtype(model):
    return next(model.parameters()).dtype


def test_contributions_are_the_attended_logits(randomize):
    """Summed over modes, they are the attention-weighted products of tokens."""
    model = randomize(vit()).double()
    layer, seen = run(model)
    own, x = layer.projections, all_tokens(seen.queries)
    product = logit_terms(x, x, own.wq, own.wk, None, None)['modes']
    want = (seen.products[0].logits[0].softmax(-1) * product).sum((1, 2))
    torch.testing.assert_close(contributions(layer, seen).sum(-1), want)


def test_maps_are_products_with_tokens():
    model = vit()
    layer, seen = run(model)
    modes = find_mode_maps(layer, seen, INPUT, count_prefix(model))
    assert len(modes) == 6 and all(one.queries.shape == one.keys.shape == (8, 12) for one in modes)
    shares = [abs(one.share) for one in modes]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1
    chosen = find_mode_maps(layer, seen, INPUT, count_prefix(model), head=1, numbers=[3, 0])
    assert [(one.head, one.number) for one in chosen] == [(1, 3), (1, 0)]
    of_head = find_mode_maps(layer, seen, INPUT, count_prefix(model), head=1, most=99)
    assert len(of_head) == 8 and {one.head for one in of_head} == {1}


def smallest():
    for room, module in SMALLEST.items():
        for i, backbone in enumerate(module.BACKBONES):
            yield pytest.param(backbone, id=f'{room}-{i}')


@pytest.mark.parametrize('backbone', list(smallest()))
def test_first_and_last_layer_of_our_backbones(backbone):
    model = MODELS.build(backbone).eval()
    try:
        find_layers(model)
    except ValueError:
        return  # a stub without attention
    for number in (0, -1):
        layer, seen = run(model, number)
        try:
            modes = find_mode_maps(layer, seen, INPUT, count_prefix(model), most=2)
        except ValueError as error:  # tokens that no map is made of, at the end of a model
            assert number == -1 and 'must lie on a grid' in str(error)
            continue
        for one in modes:
            assert one.queries.ndim == one.keys.ndim == 2
            assert np.isfinite(one.queries).all() and np.isfinite(one.keys).all()


def test_what_does_not_exist():
    model = vit()
    layer, seen = run(model)
    with pytest.raises(ValueError, match=r'head must be in \[0, 2\) in blocks.0.attn, got 2'):
        find_mode_maps(layer, seen, INPUT, head=2)
    with pytest.raises(ValueError, match=r'modes must be in \[0, 8\) and of one head'):
        find_mode_maps(layer, seen, INPUT, head=0, numbers=[8])
    with pytest.raises(ValueError, match='of one head .* of head None'):
        find_mode_maps(layer, seen, INPUT, numbers=[0])
    with pytest.raises(ValueError, match='must lie on a grid, got 97 for an input of 64x96'):
        find_mode_maps(layer, seen, INPUT, prefix=3)


def test_grids():
    assert grid_size(197, (224, 224), 1) == (14, 14)
    assert grid_size(196, (224, 224), 1) == (14, 14)  # a layer without the class token
    assert grid_size(8 * 13, (32, 50)) == (8, 13)  # rounded up
    assert grid_size(7, (64, 64)) is None


def test_sheet_is_red_white_and_cyan_without_padding():
    image = np.zeros((64, 96, 3), np.uint8)
    left, top = np.zeros((8, 12)), np.zeros((8, 12))
    left[:, :6], top[:4] = 1, 1
    sheet = draw_modes(image, [Mode(0, 1, 0.5, 0.2, left, top)], INPUT, 'title', (64, 90))
    colours = {tuple(pixel) for pixel in sheet.reshape(-1, 3)}
    for colour in ((191, 191, 191), (191, 22, 22), (0, 168, 168)):
        assert any(np.abs(np.subtract(colour, one)).max() < 3 for one in colours), colour
    assert sheet.shape[1] == 2 * (90 + 8) + 8
