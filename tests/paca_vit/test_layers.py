import pytest
import torch
from mmtoken.paca_vit.layers import PaCaMlp


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_shortcut_around_the_convolution(dtype):
    mlp = PaCaMlp(4, 8).to(dtype)
    x = torch.randn(2, 8, 5, 7, dtype=dtype, requires_grad=True)
    results = [mlp.mix(x), x + mlp.dwconv(x)]
    torch.testing.assert_close(*results)
    probe, leaves = torch.randn_like(x), (x, *mlp.dwconv.parameters())
    for pair in zip(*(torch.autograd.grad(one, leaves, probe) for one in results)):
        torch.testing.assert_close(*pair)


def test_another_kind_of_convolution_is_called():
    class Doubled(torch.nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    mlp, x = PaCaMlp(4, 8), torch.randn(1, 8, 3, 3)
    mlp.dwconv.dwconv = Doubled(8, 8, 3, padding=1, groups=8)
    torch.testing.assert_close(mlp.mix(x), x + mlp.dwconv(x))
