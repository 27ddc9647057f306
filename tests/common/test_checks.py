import pytest
import torch
from mmtoken.common import checks


@pytest.mark.parametrize(
    ('check', 'args', 'message'),
    [
        (checks.check_shape, ('x', torch.zeros(2, 3), 'B N C'), r'\(B, N, C\), got \(2, 3\)'),
        (checks.check_choice, ('kind', 'c', 'ab'), r"kind must be one of \['a', 'b'\], got 'c'"),
        (checks.check_divides, ('h', 3, 'dim', 8), r'h=3 and dim=8; choose a divisor of 8'),
        (checks.check_divides, ('h', 0, 'dim', 8), r'h=0 and dim=8'),
        (checks.check_length, ('d', (1, 2), 4, 'stage'), r'got 2 entries \(1, 2\) for 4'),
        (checks.check_range, ('p', 1.5, 0, 1), r'p must lie in \[0, 1\), got 1.5'),
        (checks.check_image, (torch.zeros(1, 4, 32, 32), 3, 29, 'r'), r'in_channels=3 .* got 4'),
        (checks.check_image, (torch.zeros(1, 3, 32, 20), 3, 29, 'r'), r'least 29 .* got 32x20'),
        (checks.check_image, (torch.zeros(3, 32, 32), 3, 29, 'r'), r'\(B, C, H, W\)'),
    ],
)
def test_message_names_rule_value_and_remedy(check, args, message):
    with pytest.raises(ValueError, match=message):
        check(*args)


def test_good_values_pass():
    checks.check_shape('x', torch.zeros(2, 3, 1), 'B N C')
    checks.check_choice('kind', 'a', 'ab')
    checks.check_divides('h', 2, 'dim', 8)
    checks.check_length('d', (1, 2), 2, 'stage')
    checks.check_range('p', 0, 0, 1)
    checks.check_image(torch.zeros(1, 3, 29, 29), 3, 29, 'r')
