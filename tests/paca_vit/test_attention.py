import pytest
import torch
from mmtoken.paca_vit import reference
from mmtoken.paca_vit.attention import PatchToClusterAttention
from mmtoken.paca_vit.clustering import assign_patches, build_clustering, pool_clusters

CASES = [
    pytest.param(kind, clusters, hw, id=f'{kind}-{clusters}-{hw[0]}x{hw[1]}')
    for kind in ('conv', 'mlp', 'linear', None)
    for clusters, hw in ((3, (5, 7)), (9, (1, 3)), (1, (1, 1)))
]


def compare_gradients(module, fast, slow, inputs):
    """Outputs, then the gradients of inputs and parameters, each with its name."""
    torch.testing.assert_close(fast, slow)
    named = {**inputs, **dict(module.named_parameters())}
    weight = torch.randn_like(fast)
    grads = [
        torch.autograd.grad((out * weight).sum(), named.values(), allow_unused=True)
        for out in (fast, slow)
    ]
    for name, a, b in zip(named, *grads):
        assert a is not None, name
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7, msg=lambda m, n=name: f'{n}: {m}')


@pytest.mark.parametrize(('kind', 'clusters', 'hw'), CASES)
def test_equals_the_loops(kind, clusters, hw, randomize):
    module = PatchToClusterAttention(6, 2, clusters, kind)
    module = randomize(module.double())
    patches = hw[0] * hw[1]
    x = torch.randn(2, patches, 6, dtype=torch.float64, requires_grad=True)
    inputs = {'x': x}
    if kind is None:
        inputs['assign'] = torch.randn(2, clusters, patches).double().softmax(-1)
        inputs['assign'].requires_grad_(True)
    fast, used = module(x, hw, inputs.get('assign'))
    slow, expected = reference.patch_to_cluster_attention(module, x, hw, inputs.get('assign'))
    torch.testing.assert_close(used, expected)
    compare_gradients(module, fast, slow, inputs)


def test_without_clusters_it_is_self_attention(randomize):
    module = randomize(PatchToClusterAttention(6, 3, 0).double())
    x = torch.randn(2, 10, 6, dtype=torch.float64, requires_grad=True)
    fast, assign = module(x, (2, 5))
    slow, _ = reference.patch_to_cluster_attention(module, x, (2, 5))
    assert assign is None
    assert not any('cluster' in key for key in module.state_dict())
    compare_gradients(module, fast, slow, {'x': x})


def test_gradcheck_of_pooling():
    scores = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: pool_clusters(assign_patches(s), t), (scores, x))


def test_order_of_the_clusters_does_not_matter(randomize):
    module = randomize(PatchToClusterAttention(8, 2, 5).double())
    x = torch.randn(2, 9, 8).double()
    assign = torch.randn(2, 5, 9).double().softmax(-1)
    torch.testing.assert_close(
        module(x, (3, 3), assign)[0], module(x, (3, 3), assign[:, torch.randperm(5)])[0]
    )


def test_weights_of_a_cluster_sum_to_one_over_the_image(randomize):
    module = randomize(PatchToClusterAttention(8, 2, 5, 'conv').double())
    _, assign = module(torch.randn(2, 12, 8).double(), (3, 4))
    torch.testing.assert_close(assign.sum(-1), torch.ones(2, 5).double())
    assert (assign.sum(1) - 1).abs().max() > 1e-3  # and not over the clusters


def test_pooled_constant_is_constant():
    assign = torch.randn(1, 3, 6).softmax(-1)
    torch.testing.assert_close(pool_clusters(assign, torch.ones(1, 6, 2)), torch.ones(1, 3, 2))


@pytest.mark.parametrize('kind', ['mlp', 'teacher'])
def test_a_bias_per_cluster_cancels(kind):
    """Why the last bias of these two cannot be tested through outputs."""
    scores = torch.randn(2, 3, 7).double()
    shifted = scores + torch.randn(3, 1).double()
    torch.testing.assert_close(assign_patches(scores), assign_patches(shifted))


def test_attention_dropout_takes_effect_in_training_only():
    module = PatchToClusterAttention(8, 2, 3, 'mlp', attn_drop=0.5)
    x = torch.randn(1, 6, 8)
    assert not torch.equal(module(x, (2, 3))[0], module(x, (2, 3))[0])
    module.eval()
    assert torch.equal(module(x, (2, 3))[0], module(x, (2, 3))[0])


def test_clustering_of_the_user():
    from mmengine.registry import MODELS
    from torch import nn

    @MODELS.register_module(name='TestRowClustering', force=True)
    class RowClustering(nn.Module):
        """Scores by row."""

        def __init__(self, dim, num_clusters, slope):
            super().__init__()
            self.num_clusters, self.slope = num_clusters, slope

        def forward(self, x, hw):
            rows = torch.arange(hw[0]).repeat_interleave(hw[1])
            scores = -self.slope * (rows - torch.arange(self.num_clusters)[:, None]).abs()
            return scores.to(x.dtype).expand(len(x), -1, -1)

    try:
        module = PatchToClusterAttention(8, 2, 3, dict(type='TestRowClustering', slope=9.0))
        _, assign = module(torch.randn(2, 12, 8), (3, 4))
        assert assign.argmax(1)[0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    finally:
        MODELS.module_dict.pop('TestRowClustering')


def test_unknown_clustering():
    with pytest.raises(ValueError, match=r"clustering must be one of \['conv', .* got 'kmeans'"):
        build_clustering('kmeans', 8, 3)
