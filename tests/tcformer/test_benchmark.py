import torch
from mmengine.registry import MODELS
from mmtoken.tcformer import benchmark  # noqa: F401


def test_rows_of_the_benchmark():
    x = torch.randn(2, 128, 4, 5)
    tokens = x.flatten(2).transpose(1, 2)
    products = MODELS.build(dict(type='TokenProducts'))(x)
    torch.testing.assert_close(products, torch.einsum('bnc,bmc->bnm', tokens, tokens))
    scores = MODELS.build(dict(type='TokenClusters'))(x)
    assert scores.shape == (2, 5) and (scores.diff(dim=1) <= 0).all()
