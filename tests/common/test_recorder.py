"""Recording is complete, concerns one model in one thread, and changes nothing."""

import threading
from dataclasses import dataclass

import pytest
import torch
from mmtoken.common.attention import multi_head_attention
from mmtoken.common.memory import map_chunks
from mmtoken.common.recorder import record, record_tokens, start_forward
from mmtoken.common.records import Record
from torch import Tensor, nn


@dataclass(frozen=True)
class Seen(Record):
    x: Tensor


class Attention(nn.Module):
    """Attention within rows, in pieces on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        def attend(rows: Tensor) -> Tensor:
            flat = rows.flatten(0, 1)
            return multi_head_attention(flat, flat, flat, 2).view_as(rows)

        return map_chunks(attend, x, rows=8)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()

    def forward(self, x: Tensor) -> Tensor:
        start_forward()
        x = self.attn(x)
        record(Seen(1, x))
        return x


@pytest.fixture
def x():
    return torch.randn(2, 64, 4, 4, requires_grad=True)  # 64 windows of 4 places


def test_attention_in_pieces_is_recorded_whole_and_changes_nothing(x):
    model = Model()
    want = model(x)
    with record_tokens(model) as rec:
        got = model(x)
    torch.testing.assert_close(got, want)
    weights = rec.attention['attn']
    assert weights.shape == (2 * 64, 2, 4, 4) and not weights.requires_grad
    torch.testing.assert_close(weights.sum(-1), torch.ones(2 * 64, 2, 4))
    assert torch.equal(rec.find(Seen, 1).x, got) and not rec.find(Seen, 1).x.requires_grad


def test_other_models_are_not_recorded(x):
    model, other = Model(), Model()
    with record_tokens(model) as rec:
        other(x)
        assert not rec.forwards
        model(x)
        other(2 * x)
    assert len(rec.forwards) == 1 and len(rec.records) == 1


def test_other_threads_are_not_recorded(x):
    model = Model()
    with record_tokens(model) as rec:
        thread = threading.Thread(target=model, args=(x,))
        thread.start()
        thread.join()
        assert not rec.forwards
        with record_tokens(model, attention=False) as inner:
            model(x)
    assert not rec.forwards and len(inner.forwards) == 1  # the innermost recorder is active


def test_every_forward_has_its_own_record(x):
    model = Model()
    with record_tokens(model, attention=False) as rec:
        model(x)
        model(x[:1])
    assert [len(one.records[0].x) for one in rec.forwards] == [2, 1]
    assert rec.records is rec.forwards[0].records and not rec.attention


def test_a_module_that_runs_again_starts_a_new_record(x):
    model = Attention()
    with record_tokens(model) as rec:
        model(x)
        model(x[:1])
    assert [len(one.attention['']) for one in rec.forwards] == [128, 64]


def test_names_are_relative_to_the_recorded_model(x):
    model = Model()
    with record_tokens(nn.Sequential(model)) as rec:
        nn.Sequential(model)(x)
    assert not rec.forwards[0].attention.keys() - {'0.attn'}


def test_nothing_stays_behind(x):
    model = Model()
    with pytest.raises(IndexError), record_tokens(model) as rec:
        model(x[0, 0])
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.modules())
    assert not rec.path


def test_missing_records_say_so(x):
    model = Model()
    with record_tokens(model) as rec:
        pass
    with pytest.raises(ValueError, match='nothing was recorded'):
        _ = rec.records
    with record_tokens(model) as rec:
        model(x)
    with pytest.raises(ValueError, match=r"one of \[\('Seen', 1\)\], got \('Seen', 2\)"):
        rec.find(Seen, 2)
