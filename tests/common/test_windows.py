"""Windows: what is cut can be put together, whatever the remainder."""

import pytest
import torch
from mmtoken.common.windows import (
    cut_windows,
    join_windows,
    merge_windows,
    pad_to_windows,
    partition_windows,
    window_grid,
    window_order,
    window_padding,
)
from parity import check_equal, rand

SIZES = [(1, 1), (7, 7), (5, 9), (14, 8), (3, 21)]


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('size', [1, 2, 7])
def test_round_trip_is_exact(hw, size):
    x = torch.randn(2, *hw, 3)
    windows = partition_windows(pad_to_windows(x, size), size)
    rows, cols = window_grid(hw, size)
    assert windows.shape == (2 * rows * cols, size * size, 3)
    torch.testing.assert_close(merge_windows(windows, size, hw), x, atol=0, rtol=0)


@pytest.mark.parametrize('hw', SIZES)
def test_window_by_window(hw):
    x = pad_to_windows(torch.randn(2, *hw, 3), 7)
    rows, cols = window_grid(hw, 7)
    windows = iter(partition_windows(x, 7))
    for sample in x:
        for row in range(rows):
            for col in range(cols):
                own = sample[7 * row : 7 * row + 7, 7 * col : 7 * col + 7]
                assert torch.equal(next(windows), own.reshape(49, 3))


def test_padding_has_the_value_and_the_place():
    x = pad_to_windows(torch.zeros(1, 5, 7, 2), 4, value=3.0)
    assert window_padding((5, 7), 4) == (3, 1)
    assert x.shape == (1, 8, 8, 2)
    assert x[:, 5:].eq(3).all() and x[:, :, 7:].eq(3).all() and x[:, :5, :7].eq(0).all()


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('size', [1, 2, 7])
@pytest.mark.parametrize('shift', [0, 1, 3])
def test_order_is_to_pad_roll_and_partition(hw, size, shift):
    x = rand(2, hw[0] * hw[1], 3)
    order = window_order(hw, size, shift, x.device)
    padded = pad_to_windows(x.unflatten(1, hw), size)
    rolled = padded.roll((-shift, -shift), (1, 2))
    windows = partition_windows(rolled, size).unflatten(0, (2, -1))
    check_equal(cut_windows(x, order), windows, dict(x=x))

    y = rand(*windows.shape)
    back = merge_windows(y.flatten(0, 1), size, padded.shape[1:3]).roll((shift, shift), (1, 2))
    want = back[:, : hw[0], : hw[1]].flatten(1, 2)
    check_equal(join_windows(y, order), want, dict(y=y))


@pytest.mark.slow
@pytest.mark.parametrize('hw', [(17, 20), (14, 14)])
@torch.no_grad()
def test_shifted_windows_compile_with_inductor(hw):
    """Without gradients, because the indices are fused differently with them."""

    def there_and_back(x):
        order = window_order(hw, 7, 3, x.device)
        return join_windows(2 * cut_windows(x, order), order)

    x = torch.randn(2, hw[0] * hw[1], 8)
    torch.testing.assert_close(torch.compile(there_and_back, fullgraph=True)(x), 2 * x)
