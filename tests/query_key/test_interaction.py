import numpy as np
import pytest
import torch
from mmtoken.query_key import interaction, reference
from mmtoken.query_key.interaction import find_modes, mean_similarity

SIZES = [(3, 4, 12), (1, 7, 7), (2, 9, 5), (1, 1, 3)]  # h, d, D; also more channels per head than D


def draw(h, d, dim, number=2):
    return [torch.randn(h, d, dim, dtype=torch.float64) for _ in range(number)]


@pytest.mark.parametrize('size', SIZES)
def test_equals_the_full_matrix(size):
    wq, wk = draw(*size)
    modes = find_modes(wq, wk)
    symmetric, antisymmetric = interaction.symmetry_norms(wq, wk)
    got = dict(
        singular_values=modes.strengths,
        cos=modes.similarity,
        cos_avg=mean_similarity(wq, wk),
        trace=interaction.trace(wq, wk),
        nuclear_norm=interaction.singular_values(wq, wk).sum(-1),
        effective_rank=interaction.effective_rank(modes.strengths),
        symmetric_norm=symmetric,
        antisymmetric_norm=antisymmetric,
        asymmetry=interaction.asymmetry(wq, wk),
    )
    for head in range(size[0]):
        want = reference.describe(wq[head].numpy(), wk[head].numpy())
        assert want.keys() == got.keys()
        for name, value in want.items():
            np.testing.assert_allclose(got[name][head], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize('size', SIZES)
def test_modes_rebuild_the_matrix(size):
    wq, wk = draw(*size)
    u, s, v = vars(find_modes(wq, wk)).values()
    torch.testing.assert_close((u * s[:, None]) @ v.mT, wq.mT @ wk)
    eye = torch.eye(s.shape[-1], dtype=s.dtype).expand(size[0], -1, -1)
    torch.testing.assert_close(u.mT @ u, eye)
    torch.testing.assert_close(v.mT @ v, eye)


def test_trace_identity():
    """The sum of s cos over modes is the trace, and the average follows without any vector."""
    wq, wk = draw(5, 6, 31)
    modes = find_modes(wq, wk)
    weighted = (modes.strengths * modes.similarity).sum(-1)
    torch.testing.assert_close(weighted, interaction.trace(wq, wk), rtol=1e-12, atol=1e-12)
    average = weighted / modes.strengths.sum(-1)
    torch.testing.assert_close(average, mean_similarity(wq, wk), rtol=1e-12, atol=1e-12)


def test_known_similarities():
    (wq,) = draw(2, 4, 16, 1)
    torch.testing.assert_close(mean_similarity(wq, wq), torch.ones(2).double())
    torch.testing.assert_close(mean_similarity(wq, -wq), -torch.ones(2).double())
    apart = torch.cat((torch.zeros(2, 4, 8), torch.randn(2, 4, 8)), -1).double()
    near = apart.flip(-1)
    torch.testing.assert_close(find_modes(near, apart).similarity, torch.zeros(2, 4).double())
    assert interaction.asymmetry(wq, wq).max() < 1e-7
    assert interaction.effective_rank(torch.ones(5)).item() == pytest.approx(5)
    assert mean_similarity(0 * wq, wq).isnan().all()


def test_skew_matrix():
    """M = [[0, 1], [-1, 0]] turns by 90 degrees: nothing attends to itself, all is asymmetric."""
    wq, wk = torch.eye(2), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert mean_similarity(wq, wk).item() == 0
    assert interaction.asymmetry(wq, wk).item() == pytest.approx(1)


def test_another_basis_of_the_head_changes_nothing():
    wq, wk = draw(2, 5, 11)
    basis = torch.randn(5, 5).double()
    other = find_modes(basis.mT @ wq, torch.linalg.inv(basis) @ wk)
    modes = find_modes(wq, wk)
    torch.testing.assert_close(other.strengths, modes.strengths)
    torch.testing.assert_close(other.similarity, modes.similarity, rtol=1e-6, atol=1e-8)


def test_half_precision_weights_are_taken_as_they_are():
    wq, wk = (w.half() for w in draw(1, 4, 8))
    torch.testing.assert_close(mean_similarity(wq, wk), mean_similarity(wq.double(), wk.double()))


def test_terms_sum_to_the_logits():
    wq, wk = draw(2, 4, 9)
    bq, bk = torch.randn(2, 2, 4).double()
    x, c = torch.randn(6, 9).double(), torch.randn(3, 9).double()
    got = sum(interaction.logit_terms(x, c, wq, wk, bq, bk).values())
    for head in range(2):
        arrays = (w.numpy() for w in (x, c, wq[head], wk[head], bq[head], bk[head]))
        np.testing.assert_allclose(got[head], reference.logits(*arrays), rtol=1e-9, atol=1e-12)
    none = interaction.logit_terms(x, c, wq, wk, None, None)
    assert all(not none[name].any() for name in ('query_bias', 'key_bias', 'constant'))
    assert not interaction.key_bias_share(none).any()


@pytest.mark.parametrize('norm_bias', [True, False])
def test_folding_a_norm_keeps_projections(norm_bias):
    wq, _ = draw(2, 4, 9)
    g, x = torch.randn(9).double(), torch.randn(5, 9).double()
    b = torch.randn(9).double() if norm_bias else None
    weight, bias = interaction.fold_norm(wq, None, g, b)
    want = (x * g + (b if norm_bias else 0)) @ wq.mT
    torch.testing.assert_close(x @ weight.mT + bias[:, None], want)


@pytest.mark.parametrize('form', interaction.ROPE_BASES)
def test_offsets_are_what_rotations_leave(form):
    """Queries and keys turned by their own positions meet as W_q^T R(delta) W_k."""
    wq, wk = draw(1, 8, 10)
    x, c = torch.randn(2, 10).double()
    at_q, at_k = (0.25, -0.5), (1.5, 0.75)
    delta = [k - q for q, k in zip(at_q, at_k)]
    turned = interaction.turn(wk, form, interaction.rope_angles(form, delta, 8))
    base = interaction.ROPE_BASES[form]
    q, k = (wq[0] @ x).numpy(), (wk[0] @ c).numpy()
    want = reference.turned_logit(q, k, form, base, at_q, at_k)
    assert (x @ wq[0].mT @ turned[0] @ c).item() == pytest.approx(want)
    still = interaction.turn(wk, form, interaction.rope_angles(form, (0, 0), 8))
    torch.testing.assert_close(still, wk)


def test_unknown_rope():
    with pytest.raises(ValueError, match=r"form must be one of \['dinov3', 'eva'\], got 'xpos'"):
        interaction.rope_angles('xpos', (0, 0), 8)


def test_a_square_matrix_is_never_formed():
    """Of D = 300000 it would take 720 GB."""
    wq, wk = torch.randn(2, 1, 2, 300_000)
    assert find_modes(wq, wk).keys.shape == (1, 300_000, 2)
    assert abs(mean_similarity(wq, wk).item()) < 0.01 and interaction.asymmetry(wq, wk) > 0
