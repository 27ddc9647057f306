"""Pictures of attention are the attention weights, at the right patches."""

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken import record_tokens
from mmtoken.common.records import Heats
from vit.smallest import DINOV2, VITDET

IMAGE = (2, 3, 40, 61)


def recorded(config, randomize):
    model = randomize(MODELS.build(config)).double().eval()
    with torch.no_grad(), record_tokens(model) as recorder:
        model(torch.randn(IMAGE).double())
    return recorder


def test_class_token_and_patches(randomize):
    recorder = recorded(DINOV2, randomize)
    assert [record.stage for record in recorder.records] == [1, 2, 3, 4]
    weights = recorder.attention['blocks.1.attn'][1]
    regions, first, patches = recorder.records[1].pictures(1)
    names = [picture.name for picture in (regions, first, patches)]
    assert names == ['block2', 'block2_class', 'block2_patches']
    assert torch.equal(regions.labels.flatten(), weights.mean(0)[3:, 3:].argmax(1))
    assert first.stride == 14 and first.values.shape == (2, 3, 5)
    assert torch.equal(first.values.flatten(1), weights[:, 0, 3:])
    torch.testing.assert_close(patches.values.flatten(1), weights.mean(0)[3:, 3:])
    assert patches.boxes[7].tolist() == [1, 2, 2, 3]


@pytest.mark.parametrize('block', [0, 1])
def test_windows(block, randomize):
    """A map of 5x8, in windows of 3x3 in blocks 0 and 2: NaN outside; padding is left out."""
    recorder = recorded(VITDET, randomize)
    regions, picture = recorder.records[block].pictures(1)
    assert isinstance(picture, Heats) and picture.values.shape == (40, 5, 8)
    known = picture.values.nan_to_num(-1).flatten(1)
    assert torch.equal(known.gather(1, regions.labels.view(-1, 1))[:, 0], known.amax(1))
    weights = recorder.attention[f'blocks.{block}.attn'].mean(1)
    if block == 1:
        torch.testing.assert_close(picture.values.flatten(1), weights[1])
        return
    windows = weights.unflatten(0, (2, 2, 3))[1]
    for i in range(5):
        for j in range(8):
            want = torch.full((6, 9), torch.nan).double()
            top, left = i // 3 * 3, j // 3 * 3
            own = windows[i // 3, j // 3, i % 3 * 3 + j % 3].unflatten(0, (3, 3))
            want[top : top + 3, left : left + 3] = own
            found = picture.values[i * 8 + j]
            torch.testing.assert_close(found, want[:5, :8], equal_nan=True)


@torch.no_grad()
@pytest.mark.parametrize('config', [DINOV2, VITDET], ids=['dinov2', 'vitdet'])
def test_recording_changes_nothing(config, randomize):
    model = randomize(MODELS.build(config)).double().eval()
    image = torch.randn(IMAGE).double()
    plain = model(image)
    with record_tokens(model):
        for got, want in zip(model(image), plain):
            torch.testing.assert_close(got, want)


def test_a_stem_takes_part_in_the_record():
    stem = dict(DINOV2, out_indices=(3,))
    model = MODELS.build(dict(DINOV2, patch_size=1, stem=stem)).eval()
    with torch.no_grad(), record_tokens(model) as recorder:
        model(torch.randn(IMAGE))
        model(torch.randn(IMAGE))
    for forward in recorder.forwards:
        assert len(forward.attention) == len(forward.records) == 8
    assert len(recorder.forwards) == 2
