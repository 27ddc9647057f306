import pytest
from torch import nn


class Attention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.num_heads = num_heads


class LinearAttention(Attention):
    pass


@pytest.fixture
def pyramid():
    """Two widths, and a layer that cannot be analysed."""
    return nn.Sequential(Attention(8, 2), Attention(16, 4), LinearAttention(8, 2))
