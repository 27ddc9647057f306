"""A few random cases; ``python tests/fuzz.py`` runs as many as wanted."""

import fuzz
import pytest


@pytest.mark.parametrize(
    'seed', [*range(12), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 40))]
)
def test_random_case(seed):
    fuzz.run_case(seed)
