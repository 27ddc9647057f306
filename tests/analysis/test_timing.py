import time
from types import SimpleNamespace

import pytest
import torch
from mmtoken.analysis.timing import (
    CPU,
    MatrixProduct,
    Summary,
    TimedModel,
    growth,
    largest_difference,
    mean_square,
    measure_time,
    output_tensors,
    peak_memory,
    take_turns,
)
from torch import nn

SHAPE = (2, 3, 8, 8)


def test_summary():
    summary = Summary((4.0, 1.0, 3.0, 2.0, 100.0), (5.0, 7.0, 6.0, 1.0, 9.0))
    assert summary.median == 3.0 and summary.quartiles == (2.0, 4.0)
    assert summary.cpu_median == 6.0
    assert Summary((7.0,), (7.0,)).quartiles == (7.0, 7.0)


def test_ratio_pairs_rounds():
    """A machine that slows down for a while slows both models down."""
    one, two = (
        Summary((1.0, 10.0, 1.0), (3.0, 3.0, 3.0)),
        Summary((2.0, 20.0, 2.0), (1.0, 1.0, 1.0)),
    )
    assert one.ratio(two) == 0.5 and one.ratio(two, 'cpu') == 3.0


def test_growth():
    sizes = (256, 512, 1024)
    assert growth(sizes, [7 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_models_take_turns():
    order = []

    def row(name, times):
        times = iter(times)
        return SimpleNamespace(time=lambda *call: order.append((name, *call)) or next(times))

    rows = dict(a=row('a', [(9, 9), (1, 2), (3, 4)]), b=row('b', [(9, 9), (5, 6), (7, 8)]))
    times = take_turns(rows, 'train', SHAPE, 2, 1, lambda: order.append('round'))
    assert order == [('a', 'train', SHAPE), ('b', 'train', SHAPE), 'round'] * 3
    assert times == dict(a=Summary((1, 3), (2, 4)), b=Summary((5, 7), (6, 8)))


def test_times_are_milliseconds():
    wall, cpu = measure_time(lambda: time.sleep(0.02), CPU)
    assert 20 <= wall < 2000 and cpu < 20
    assert MatrixProduct(CPU, torch.float32).time('forward', SHAPE)[0] > 0


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


def test_calls_of_a_model():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    timed = TimedModel(model, dtype=torch.bfloat16)
    (output,) = timed.outputs(SHAPE)
    assert output.dtype == torch.bfloat16 and output.shape == SHAPE and not model.training
    assert timed.time('train', SHAPE)[0] > 0
    assert model.training and model[0].weight.grad.dtype == torch.float32
    assert timed.peak('train', SHAPE) >= 4 * output.numel()
    assert TimedModel(model).outputs(SHAPE)[0].dtype == torch.float32


def test_images_and_weights_can_be_shared():
    one, two = (TimedModel(nn.Linear(8, 8)) for _ in range(2))
    assert torch.equal(one.images(SHAPE), two.images(SHAPE))
    two.load(one.weights())
    assert torch.equal(one.outputs(SHAPE)[0], two.outputs(SHAPE)[0])
    with pytest.raises(RuntimeError, match='size mismatch'):
        TimedModel(nn.Linear(8, 9)).load(one.weights())


@pytest.mark.gpu
def test_peak_memory_on_a_gpu(cuda):
    held = torch.empty(2**20, device=cuda)
    used = peak_memory(lambda: torch.empty(2**21, dtype=torch.uint8, device=cuda), cuda)
    assert used == 2**21 and held is not None
