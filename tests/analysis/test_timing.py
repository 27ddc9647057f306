import time
from types import SimpleNamespace

import pytest
import torch
from mmtoken.analysis.timing import (
    Summary,
    Workload,
    largest_difference,
    mean_square,
    output_tensors,
    peak_memory,
    time_interleaved,
)
from torch import nn

CPU = torch.device('cpu')


def test_summary():
    summary = Summary((4.0, 1.0, 3.0, 2.0, 100.0))
    assert summary.median == 3.0 and summary.quartiles == (2.0, 4.0)
    assert Summary((7.0,)).quartiles == (7.0, 7.0)


def test_ratio_pairs_rounds():
    """A machine that slows down for a while slows both models down."""
    assert Summary((1.0, 10.0, 1.0)).ratio(Summary((2.0, 20.0, 2.0))) == 0.5


def test_models_take_turns():
    order, done = [], []
    calls = dict(a=lambda: order.append('a'), b=lambda: order.append('b'))
    times = time_interleaved(calls, rounds=2, warmup=1, device=CPU, on_round=done.append)
    assert order == ['a', 'b'] * 3 and done == [1, 2, 3]
    assert len(times['a'].times) == len(times['b'].times) == 2


def test_times_are_milliseconds():
    times = time_interleaved(dict(a=lambda: time.sleep(0.02)), 1, 0, CPU)
    assert 20 <= times['a'].median < 2000


def test_outputs_of_all_shapes():
    tokens = SimpleNamespace(x=torch.ones(1, 12, 2), assign_idx=torch.zeros(1, 12))
    nested = dict(a=[torch.ones(1), (tokens, torch.ones(2, dtype=torch.long))], b=None)
    assert [tuple(t.shape) for t in output_tensors(nested)] == [(1,), (1, 12, 2)]
    assert mean_square(nested) == 2
    with pytest.raises(ValueError, match="floating-point outputs, got NoneType.*part='backbone'"):
        mean_square(None)


def test_largest_difference():
    a, b = torch.zeros(3), torch.tensor([0.0, -0.5, 0.25])
    assert largest_difference([a, a], [a, b]) == 0.5
    assert largest_difference(a, torch.zeros(4)) == float('inf')
    assert not largest_difference([a, a * float('nan')], [a, a]) <= 1e9


def test_peak_memory_sees_what_was_freed():
    million = 2**20

    def call():
        first = torch.empty(8 * million, dtype=torch.uint8)
        del first
        return torch.empty(2 * million, dtype=torch.uint8)

    assert peak_memory(call, CPU) == 8 * million


def test_peak_memory_sees_scratch_memory_of_kernels():
    x = torch.zeros(1, 1000, 64)
    used = peak_memory(lambda: torch.cdist(x, x), CPU)
    assert used > 4 * 1000 * 1000


def test_workload():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    work = Workload(torch.ones(2, 3, 8, 8), torch.bfloat16)
    assert work.forward(model).dtype == torch.bfloat16 and not model.training
    work.train(model)
    assert model.training and model[0].weight.grad.dtype == torch.float32
    assert Workload(torch.ones(2, 3, 8, 8)).forward(model).dtype == torch.float32


@pytest.mark.gpu
def test_peak_memory_on_a_gpu(cuda):
    held = torch.empty(2**20, device=cuda)
    used = peak_memory(lambda: torch.empty(2**21, dtype=torch.uint8, device=cuda), cuda)
    assert used == 2**21 and held is not None
