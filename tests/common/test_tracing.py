import pytest
import torch
from mmtoken.common.tracing import as_one_call
from torch import fx, nn


class DecidesBySize(nn.Module):
    @as_one_call
    def forward(self, x, scale=1.0):
        return x * scale if len(x) > 1 else -x


@pytest.mark.parametrize('nested', [False, True])
def test_a_trace_decides_when_it_runs(nested):
    model = nn.Sequential(DecidesBySize(), nn.ReLU()) if nested else DecidesBySize()
    traced = fx.symbolic_trace(model)
    for x in (torch.randn(1, 3), torch.randn(2, 3)):
        assert torch.equal(traced(x), model(x))


def test_arguments_may_have_names():
    class Names(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = DecidesBySize()

        def forward(self, x):
            return self.part(x=x, scale=3.0)

    for model in (Names(), fx.symbolic_trace(Names())):
        assert model(torch.ones(2)).tolist() == [3, 3]
