import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.query_key.adapters import find_layers
from mmtoken.query_key.figures import draw_offsets
from mmtoken.query_key.interaction import mean_similarity
from mmtoken.query_key.on_image import add_image
from mmtoken.query_key.report import analyse

VIT = dict(
    type='PlainViT',
    arch=dict(embed_dims=16, depth=2, num_heads=2, hidden_dim=16),
    patch_size=8,
    img_size=32,
)


def described(model, image):
    layers, _ = find_layers(model)
    return layers, add_image(analyse(model), model, layers, lambda: model(image))


def test_norm_and_key_bias(randomize):
    model, image = randomize(MODELS.build(VIT)).eval(), torch.randn(1, 3, 32, 48)
    tokens = []
    handle = model.blocks[1].attn.register_forward_pre_hook(lambda _, args: tokens.append(args[0]))
    layers, report = described(model, image)
    handle.remove()
    own, one = layers[1].projections, report.layers[1]
    gain = model.blocks[1].norm1.weight.detach().double()
    want = mean_similarity(own.wq * gain, own.wk * gain)
    torch.testing.assert_close(torch.tensor(one.cos_avg_folded).double(), want)
    assert one.cos_avg == analyse(model).layers[1].cos_avg  # as before
    x = tokens[0][0].detach().double()
    q, k = (x @ w.double().mT for w in (own.wq, own.wk))  # h N d
    from_bias = (k @ own.bq.double()[..., None])[..., 0].var(-1, correction=0)
    from_modes = (q @ k.mT).var(-1, correction=0).mean(-1)
    torch.testing.assert_close(
        torch.tensor(one.key_bias_share).double(), from_bias / (from_bias + from_modes)
    )
    head, first, *_ = report.table().splitlines()
    assert 'folded  key bias  notes' in head and len(first.split()) == 9
    assert 'folded' not in analyse(model).table()


def test_rotary_positions_are_drawn(randomize):
    model = MODELS.build(VIT | dict(rope='eva02'))
    layers, report = described(randomize(model).eval(), torch.randn(1, 3, 32, 48))
    assert layers[0].rope == 'eva' and not report.layers[0].key_bias_share
    assert '-' in report.table().splitlines()[1].split()
    axes = draw_offsets(report.layers).axes[1]
    line = axes.lines[1]
    assert line.get_xdata().tolist() == [0, 1, 2, 4, 8]
    one = report.layers[1]
    assert line.get_ydata()[0] == one.mean
    at = one.cos_avg_at['columns']['4']
    assert line.get_ydata()[3] == pytest.approx(sum(at) / len(at))
