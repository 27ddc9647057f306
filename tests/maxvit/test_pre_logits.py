"""The layers before the classifier equal timm's."""

from functools import partial

import pytest
import torch
from mmtoken import MaxViTPreLogits


def test_equals_timm(randomize):
    timm = pytest.importorskip('timm.layers')
    norm = partial(timm.LayerNorm2d, eps=1e-5)  # as in all models of theirs
    theirs = timm.NormMlpClassifierHead(6, 5, hidden_size=6, act_layer='tanh', norm_layer=norm)
    theirs = randomize(theirs.double())
    ours = MaxViTPreLogits(6).double()
    ours.norm.load_state_dict(theirs.norm.state_dict())
    ours.fc.load_state_dict(theirs.pre_logits.fc.state_dict())
    image = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    (got,) = ours([None, image])
    torch.testing.assert_close(theirs.fc(got), theirs(image), atol=1e-14, rtol=0)


def test_refuses_other_maps():
    with pytest.raises(ValueError, match=r'embed_dims=6, got 5 channels'):
        MaxViTPreLogits(6)([torch.zeros(1, 5, 2, 2)])
    with pytest.raises(ValueError, match=r'must have the shape \(B, C, H, W\), got \(1, 6\)'):
        MaxViTPreLogits(6)([torch.zeros(1, 6)])
