import tracemalloc
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.query_key.adapters import find_layers
from mmtoken.query_key.maps import count_prefix, find_mode_maps
from mmtoken.query_key.retrieve import Found, ModeScore, best, find_images
from mmtoken.query_key.tokens import observe

VIT = dict(
    type='PlainViT',
    arch=dict(embed_dims=16, depth=2, num_heads=2, hidden_dim=16),
    patch_size=8,
    img_size=32,
)


@pytest.fixture
def model(randomize):
    return randomize(MODELS.build(VIT)).eval()


def test_score_is_that_of_the_maps(model):
    layer, image = find_layers(model)[0][1], torch.randn(1, 3, 32, 48)
    score = ModeScore(model, layer, 1, 3)
    seen = observe(model, [layer], lambda: model(image))[layer.name]
    (mode,) = find_mode_maps(layer, seen, (32, 48), count_prefix(model), 1, [3])
    assert score(image) == pytest.approx(mode.queries.max() * mode.keys.max(), rel=1e-5)
    assert score.cos == pytest.approx(mode.cos)


def test_what_does_not_exist(model):
    layer = find_layers(model)[0][0]
    with pytest.raises(ValueError, match=r'head must be in \[0, 2\) .*, got 2'):
        ModeScore(model, layer, 2, 0)
    with pytest.raises(ValueError, match=r'modes must be in \[0, 8\)'):
        ModeScore(model, layer, 0, 8)


def test_many_images_in_bounded_memory():
    """20000 would need 2 MB; a million passed, too."""
    numbers = [(i * 7919) % 100_003 / 1e5 for i in range(20_000)]
    tracemalloc.start()
    found = best((Found(one, Path('x')) for one in numbers), 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e5
    assert [one.score for one in found] == sorted(numbers, reverse=True)[:3]


def test_folders_are_read_lazily(tmp_path):
    for name in ('a.jpg', 'deep/b.PNG', 'notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path, Path('single.xyz')])
    assert not isinstance(found, (list, tuple))
    assert sorted(path.name for path in found) == ['a.jpg', 'b.PNG', 'single.xyz']
