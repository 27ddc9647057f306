import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.common.recorder import record_tokens
from mmtoken.query_key.adapters import find_layers
from mmtoken.query_key.attention import AttentionReader, GridAttention, Group
from rooms import BACKBONES

VIT = dict(
    type='PlainViT',
    arch=dict(embed_dims=16, depth=2, num_heads=2, hidden_dim=16),
    patch_size=8,
    img_size=32,
)


def read(model, image):
    layers, _ = find_layers(model)
    reader = AttentionReader(model, layers)
    return reader, reader(image)


@pytest.mark.parametrize('hw', [(32, 48), (28, 60)])
def test_equals_what_the_model_records(randomize, hw):
    """Rows of global attention, without the class token."""
    model, image = randomize(MODELS.build(VIT)).eval(), torch.randn(1, 3, *hw)
    _, found = read(model, image)
    with torch.no_grad(), record_tokens(model) as recorder:
        model(image)
    h, w = -(-hw[0] // 8), -(-hw[1] // 8)
    want = recorder.attention['blocks.1.attn'][0, :, -h * w :, -h * w :]
    one = found['blocks.1.attn']
    for cell in ((0, 0), (2, 3), (h - 1, w - 1)):
        got = one.of_token(int(one.queries[cell]))
        torch.testing.assert_close(got, want[:, cell[0] * w + cell[1]].unflatten(-1, (h, w)))


def test_windows_of_ours(randomize):
    """Keys of padding, a second call of the projection, are left out."""
    windows = dict(window_size=3, window_block_indexes=(0,), class_token=False)
    model, image = randomize(MODELS.build(VIT | windows)).eval(), torch.randn(1, 3, 32, 56)
    _, found = read(model, image)
    with torch.no_grad(), record_tokens(model) as recorder:
        model(image)
    want = recorder.records[0].of_patches(0)
    one = found['blocks.0.attn']
    for cell in ((0, 0), (2, 4), (3, 6)):
        got = one.of_token(int(one.queries[cell])).mean(0)
        torch.testing.assert_close(got, want[cell[0] * 7 + cell[1]], equal_nan=True)


@pytest.mark.parametrize('shift', [False, True])
def test_windows_of_a_host(randomize, shift):
    """Swin cuts windows before the projection, pads them and shifts them."""
    swin = pytest.importorskip('mmdet.models.backbones.swin')
    one_stage = dict(depths=(2,), num_heads=(2,), strides=(4,), out_indices=(0,))
    model = randomize(swin.SwinTransformer(embed_dims=8, window_size=3, **one_stage))
    model.eval()  # returns None
    _, found = read(model, torch.randn(1, 3, 28, 16))
    one = found[f'stages.0.blocks.{int(shift)}.attn.w_msa']
    assert one.queries.shape == (7, 4)
    reach = ~one.of_token(int(one.queries[2, 1]))[0].isnan()
    # windows of 3 x 3 from the corner, or shifted by one cell, with what was rolled around
    want = torch.zeros(7, 4, dtype=torch.bool)
    if shift:
        want[1:4, 1:4] = True
    else:
        want[:3, :3] = True
    assert torch.equal(reach, want)


@pytest.mark.parametrize('backbone', BACKBONES, ids=lambda one: one['type'])
def test_all_layers_of_our_backbones(backbone):
    """Each is laid out or refused; rows are shares of the attention of a token."""
    model = MODELS.build(backbone).eval()
    try:
        reader, found = read(model, torch.randn(1, 3, 64, 96))
    except ValueError as error:
        assert 'must have attention layers' in str(error)
        return
    assert found or reader.refused
    for one in found.values():
        mass = one.of_token(int(one.queries[-1, -1])).nansum((1, 2))
        assert len(mass) == one.num_heads and (mass > 0.05).all() and (mass < 1.0001).all()
        regions, heats = one.pictures('name', 'title', (64, 96), most=1000)
        assert heats.values.numel() <= max(1000, heats.values[0].numel())
        assert int(regions.labels.max()) == len(heats.values) - 1


def attention(rows=2, columns=3):
    weights = torch.rand(1, rows * columns, rows * columns).softmax(-1)
    cells = torch.arange(rows * columns)
    grid = cells.view(rows, columns)
    return GridAttention([Group(weights, cells, cells)], grid, grid)


def test_token_with_several_cells_spreads_its_weight():
    one = attention()
    owned = torch.tensor([[0, 0, 0], [1, 1, 5]])
    wide = GridAttention(one.groups, owned, owned)
    got = wide.of_token(5)
    weights = one.groups[0].weights[0, 5]
    torch.testing.assert_close(got[0, 0], weights[0].expand(3) / 3)
    torch.testing.assert_close(got[0, 1], torch.stack([weights[1] / 2, weights[1] / 2, weights[5]]))
    regions, heats = wide.pictures('a', 'b', (8, 12))
    assert len(heats.values) == 3 and heats.boxes is None and regions.stride == 4
    torch.testing.assert_close(heats.values[int(regions.labels[1, 2])], 100 * got[0])


def test_thinned_out_queries_are_real_ones():
    one = attention(4, 6)
    regions, heats = one.pictures('a', 'b', (16, 24), most=6 * 24)
    assert heats.values.shape == (6, 4, 6) and regions.labels.tolist()[2] == [3, 3, 4, 4, 5, 5]
    for (top, left, *_), values in zip(heats.boxes.tolist(), heats.values):
        torch.testing.assert_close(values, 100 * one.of_token(int(one.queries[top, left]))[0])
        assert regions.labels[top, left] == next(
            i for i, v in enumerate(heats.values) if v is values or torch.equal(v, values)
        )
