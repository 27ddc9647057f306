import pytest
import torch
from maxvit.smallest import SIZES
from mmtoken.maxvit import reference
from mmtoken.maxvit.partition import KINDS, places, plan_groups

GROUPS = [(7, 7), (3, 5), (1, 1)]
CPU = torch.device('cpu')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('size', GROUPS)
def test_groups_are_those_of_the_definition(kind, hw, size):
    """Real cells of each group, their places, and padding everywhere else."""
    groups = plan_groups(kind, hw, size, CPU)
    cells = torch.arange(1, 2 * hw[0] * hw[1] + 1).view(2, *hw, 1)
    split = groups.split(cells)
    torch.testing.assert_close(groups.join(split), cells)
    real = split[0, :, :, 0] > 0
    padding = torch.zeros_like(real) if groups.padding is None else groups.padding[0]
    assert torch.equal(padding, ~real)
    assert real.any(1).all()  # or softmax has no key
    want = [
        {(row * size[1] + col, 1 + y * hw[1] + x) for (row, col), (y, x) in group}
        for group in reference.groups_of(kind, hw, size)
    ]
    got = [{(i, int(v)) for i, v in enumerate(group) if v} for group in split[0, :, :, 0]]
    assert got == want
    labels, position = places(kind, hw, size)
    torch.testing.assert_close(split[0, labels, position], cells[0])


@pytest.mark.parametrize('size', GROUPS)
def test_offsets_are_key_minus_query(size):
    offsets = plan_groups('block', (9, 9), size, CPU).offsets
    cells = [(row, col) for row in range(size[0]) for col in range(size[1])]
    for i, query in enumerate(cells):
        for j, key in enumerate(cells):
            down, across = (k - q + side - 1 for k, q, side in zip(key, query, size))
            assert offsets[i, j] == down * (2 * size[1] - 1) + across
