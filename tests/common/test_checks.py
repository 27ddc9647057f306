import numpy as np
import pytest
import torch
from mmtoken.common import checks

NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize('value', [1, 7, np.int64(3)])
def test_whole_numbers(value):
    checks.check_int('depth', value)


@pytest.mark.parametrize('value', [0, -1, 1.5, 2.0, True, None, '3', NAN, [1]])
def test_not_whole_numbers(value):
    with pytest.raises(ValueError, match='^depth must be a whole number >= 1, got '):
        checks.check_int('depth', value)


@pytest.mark.parametrize(
    'ends, value, is_fine',
    [
        ('[)', 0, True),
        ('[)', 1, False),
        ('(]', 0.0, False),
        ('(]', 1.0, True),
        ('[]', np.float32(0.5), True),
        ('[]', 1.01, False),
        ('[]', NAN, False),
        ('[]', True, False),
        ('[]', '0.5', False),
        ('[]', None, False),
    ],
)
def test_ranges(ends, value, is_fine):
    if is_fine:
        checks.check_range('rate', value, 0.0, 1.0, ends)
        return
    with pytest.raises(ValueError, match=r'^rate must be a number in .0, 1., got '):
        checks.check_range('rate', value, 0.0, 1.0, ends)


def test_numbers_are_finite():
    checks.check_range('scale', -3.5)
    with pytest.raises(ValueError, match=r'scale must be a number in \[-inf, inf\), got inf'):
        checks.check_range('scale', INF)


@pytest.mark.parametrize('value', [1, 'True', None])
def test_booleans(value):
    checks.check_bool('norm_eval', False)
    with pytest.raises(ValueError, match='norm_eval must be True or False, got'):
        checks.check_bool('norm_eval', value)


def test_choices():
    checks.check_choice('mode', 'a', ('a', False))
    with pytest.raises(ValueError, match=r"mode must be one of \['a', False\], got 0$"):
        checks.check_choice('mode', 0, ('a', False))  # not False


@pytest.mark.parametrize('value', [(1, 2), [1, 2], torch.Size((1, 2))])
def test_lengths(value):
    checks.check_length('depths', value, 2, 'stage')
    with pytest.raises(ValueError, match=r'depths needs 3 entries, one per stage, got 2: \(1, 2\)'):
        checks.check_length('depths', value, 3, 'stage')


@pytest.mark.parametrize('value', [5, None, 'ab'])
def test_lengths_of_no_sequence(value):
    with pytest.raises(ValueError, match='depths needs 2 entries, one per stage, got '):
        checks.check_length('depths', value, 2, 'stage')


def test_divisors():
    checks.check_divides('num_heads', 2, 'dim', 4)
    with pytest.raises(ValueError, match='num_heads must divide dim, got num_heads=3 and dim=4'):
        checks.check_divides('num_heads', 3, 'dim', 4)
    with pytest.raises(ValueError, match='num_heads must be a whole number >= 1, got 0'):
        checks.check_divides('num_heads', 0, 'dim', 4)


def test_images():
    checks.check_image(torch.zeros(1, 3, 32, 32), 3, 32, 'one patch')
    with pytest.raises(ValueError, match='shape .B, C, H, W., got .3, 32, 32.'):
        checks.check_image(torch.zeros(3, 32, 32), 3, 32, 'one patch')
    with pytest.raises(ValueError, match='must have in_channels=3 channels, got 4'):
        checks.check_image(torch.zeros(1, 4, 32, 32), 3, 32, 'one patch')
    with pytest.raises(ValueError, match='32 pixels .one patch., got 31x32; .*size_divisor=32'):
        checks.check_image(torch.zeros(1, 3, 31, 32), 3, 32, 'one patch')
