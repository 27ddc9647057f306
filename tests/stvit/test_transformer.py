"""The plain transformer block against its formula, and its refusals."""

import pytest
import torch
from mmtoken.common import reference
from mmtoken.stvit.transformer import SelfAttention, TransformerBlock
from parity import check_equal, rand


def test_block_equals_its_formula(randomize):
    block = randomize(TransformerBlock(8, 2)).double()
    x = rand(2, 5, 8)
    q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, -1)
    want = x + block.attn.proj(reference.multi_head_attention(q, k, v, 2))
    hidden = torch.nn.functional.gelu(block.mlp.fc1(block.norm2(want)))
    want = want + block.mlp.fc2(hidden)
    check_equal(block(x), want, dict(block.named_parameters(), x=x))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match='num_heads must divide dim, got num_heads=3 and dim=8'):
        SelfAttention(8, 3)
