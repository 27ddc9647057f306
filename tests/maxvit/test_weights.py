"""Files of every release load strictly; one of another model is refused by its arguments."""

import re

import pytest
import torch
from maxvit.smallest import RMLP, TINY
from mmengine.config import Config
from mmengine.runner import Runner
from mmtoken import MaxViT
from mmtoken.common.strict_load import load_state_dict_strict
from mmtoken.maxvit.conventions import torchvision
from noise_segments import NoiseSegments

TABLE = 'relative_position_bias_table'


def save(folder, state):
    file = folder / 'released.pth'
    torch.save({'state_dict': state}, file)
    return file


def load(file, arch=TINY, **arguments):
    model = MaxViT(arch, **arguments, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    model.init_weights()
    return model


def donor(randomize, arch=TINY, **arguments):
    return randomize(MaxViT(arch, **arguments))


def table_of(model):
    return model.stages[0]['blocks'][0].attn_grid.attn.rel_pos.relative_position_bias_table


@pytest.mark.parametrize('form', ['tf', 'rw', 'rmlp', 'torchvision'])
def test_a_classifier_is_left_out(form, tmp_path, randomize):
    model = donor(randomize, dict(TINY, form=form))
    head = {'head.fc.weight': torch.ones(5, 16), 'norm.weight': torch.ones(16)}
    loaded = load(save(tmp_path, model.state_dict() | head), dict(TINY, form=form))
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize('size', [7, 12, 16])
@pytest.mark.parametrize('partition', ['pad', 'proportional'])
def test_the_size_of_groups_is_that_of_the_file(size, partition, tmp_path, randomize):
    model = donor(randomize, window_size=size)
    file = save(tmp_path, model.state_dict())
    loaded = load(file, partition=partition)
    assert loaded.table_size == (size, size) and torch.equal(table_of(loaded), table_of(model))
    # what was adopted is trained, saved and loaded like any other
    assert any(p is table_of(loaded) for p in loaded.parameters())
    again = MaxViT(TINY, partition=partition)
    again.load_state_dict(loaded.state_dict())
    assert torch.equal(table_of(again), table_of(model))


@torch.no_grad()
def test_an_adopted_size_computes_what_a_given_one_does(tmp_path, randomize):
    model = donor(randomize, window_size=3).eval()
    loaded = load(save(tmp_path, model.state_dict())).eval()
    image = torch.randn(1, 3, 45, 75)
    assert all(map(torch.equal, loaded(image), model(image)))


def test_a_given_size_is_never_overridden(tmp_path, randomize):
    file = save(tmp_path, donor(randomize, window_size=12).state_dict())
    message = r'(?s)mismatched.*The file has window_size=12; the model was built with window_size=7'
    with pytest.raises(ValueError, match=message):
        load(file, window_size=7)


def test_stock_runner_trains_what_the_file_has(tmp_path, randomize):
    """The optimizer is built before the tables take their size from the file."""
    pytest.importorskip('mmseg')
    model = donor(randomize, window_size=12)
    file = save(tmp_path, model.state_dict())
    head = dict(in_channels=16, in_index=3, channels=4, num_classes=2, norm_cfg=dict(type='BN'))
    backbone = dict(type='MaxViT', arch=TINY)
    backbone['init_cfg'] = dict(type='Pretrained', checkpoint=str(file))
    cfg = dict(
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
            backbone=backbone,
            decode_head=dict(type='FCNHead', **head),
        ),
        work_dir=str(tmp_path / 'work'),
        experiment_name='maxvit-weights',
        default_scope='mmseg',
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=NoiseSegments(64),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        default_hooks=dict(checkpoint=None, logger=None, runtime_info=None),
    )
    runner = Runner.from_cfg(Config(cfg))
    runner.train()
    step = (table_of(runner.model.backbone) - table_of(model)).abs()
    assert step.shape == (2, 23, 23) and 0 < step.max() < 1e-2


def test_distributed_training_needs_the_size(tmp_path, randomize, monkeypatch):
    """Its gradient buckets are made before the weights are loaded."""
    file = save(tmp_path, donor(randomize, window_size=12).state_dict())
    monkeypatch.setattr('mmtoken.maxvit.maxvit.is_distributed', lambda: True)
    with pytest.raises(ValueError, match='window_size must be given .*set window_size=12'):
        load(file)
    assert torch.isfinite(table_of(load(file, window_size=12))).all()


def test_a_fixed_partition_resizes_and_reports(randomize):
    state = donor(randomize).state_dict()
    model = MaxViT(TINY, partition=(3, 5))
    report = load_state_dict_strict(model, state)
    tables = [key for key in state if key.endswith(TABLE)]
    assert sorted(report.resized) == sorted(tables)
    assert table_of(model).shape == (2, 5, 9)
    # its own checkpoint is not resized again, and fits no square
    other = MaxViT(TINY, partition=(3, 5))
    assert not load_state_dict_strict(other, model.state_dict()).resized
    with pytest.raises(ValueError, match=r'window_size=\(3, 5\)'):
        load_state_dict_strict(MaxViT(TINY), model.state_dict())


@pytest.mark.parametrize('form', ['rw', 'torchvision'])
def test_flat_tables_are_turned_around(form, randomize):
    """From ((2P - 1)^2, h), query minus key."""
    arch = dict(TINY, form=form)
    model = donor(randomize, arch, window_size=2)
    state = model.state_dict()
    flat = {k: v.flip(1, 2).flatten(1).T for k, v in state.items() if k.endswith(TABLE)}
    loaded = MaxViT(arch)
    load_state_dict_strict(loaded, {**state, **flat})
    assert torch.equal(table_of(loaded), table_of(model))
    qkv = 'stages.0.blocks.0.attn_grid.attn.qkv.weight'
    keys = [rows.chunk(3)[1] for rows in (loaded.state_dict()[qkv], state[qkv])]
    # torchvision scales logits by the width, 8, not by that of a head, 4
    factor = 0.5**0.5 if form == 'torchvision' else 1
    torch.testing.assert_close(keys[0], keys[1] * factor)


def test_names_of_timm_features(randomize):
    model, loaded = donor(randomize), MaxViT(TINY)
    state = {k.replace('stages.', 'stages_'): v for k, v in model.state_dict().items()}
    report = load_state_dict_strict(loaded, state)
    assert report.converted and torch.equal(table_of(loaded), table_of(model))


def test_names_of_torchvision_are_distinct():
    keys = ['stem.0.0.weight', 'blocks.0.layers.1.layers.MBconv.layers.conv_a.1.running_mean']
    assert torchvision(keys) == {
        keys[0]: 'stem.conv1.weight',
        keys[1]: 'stages.0.blocks.1.conv.norm1.running_mean',
    }
    assert torchvision(['blocks.0.attn.qkv.weight', 'stem.0.0.weight']) == {}


def test_fewer_outputs_take_the_same_file(tmp_path, randomize):
    model = donor(randomize, out_norm=True)
    loaded = load(save(tmp_path, model.state_dict()), out_norm=True, out_indices=(0, 2))
    for key, value in loaded.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_norms_of_outputs_start_anew_with_released_weights(randomize):
    report = load_state_dict_strict(MaxViT(TINY, out_norm=True), donor(randomize).state_dict())
    assert report.reinitialized == tuple(
        f'norm{i}.{kind}' for i in range(4) for kind in ('weight', 'bias')
    )
    # but never in part, and learned norms are never dropped
    state = donor(randomize, out_norm=True).state_dict()
    del state['norm1.weight']
    with pytest.raises(ValueError, match='missing: norm1.weight'):
        load_state_dict_strict(MaxViT(TINY, out_norm=True), state)
    with pytest.raises(ValueError, match='unexpected: norm0.weight'):
        load_state_dict_strict(MaxViT(TINY), state)


@pytest.mark.parametrize(
    'given, own, message',
    [
        ('tiny_rw', 'tiny', r"form='rw', stem_dims=\(32, 64\), arch='tiny_rw'; .*form='tf', stem"),
        ('tiny_rmlp', 'tiny_rw', r"form='rmlp', arch='tiny_rmlp'; .* built with form='rw'"),
        ('tiny', 'tiny_torchvision', r"form='tf', arch='tiny'; .* with form='torchvision'"),
        ('tiny_torchvision', 'tiny', r"form='torchvision', arch='tiny_torchvision'; "),
        ('tiny', 'tiny_rmlp', r"form='tf', .*window_size=7, arch='tiny'; .* with form='rmlp'"),
        ('small', 'base', r"depths=\(2, 2, 5, 2\), arch='small'; .*depths=\(2, 6, 14, 2\)"),
        ('small_rmlp', 'tiny_rmlp', r"layer_scale=True, arch='small_rmlp'; "),
    ],
)
def test_a_file_of_another_model_names_the_arguments(given, own, message):
    with torch.device('meta'):
        theirs, model = MaxViT(given), MaxViT(own)
    assert re.search(f'^The file has .*{message}', model.mismatch_hint(theirs.state_dict()))


def test_the_arguments_are_in_the_error(randomize):
    state = donor(randomize, dict(TINY, form='rw')).state_dict()
    with pytest.raises(
        ValueError, match=r"(?s)mismatched: .*The file has form='rw'; the model was"
    ):
        load_state_dict_strict(MaxViT(TINY), state)


def test_a_file_of_something_else_is_refused():
    with pytest.raises(ValueError, match='0 of .* keys fit'):
        load_state_dict_strict(MaxViT(RMLP), {'conv1.weight': torch.ones(1)})


@pytest.mark.parametrize(
    ('keys', 'release'),
    [
        (('stem.conv1.bias', 'stages.0'), 'MaxViT (timm, from TensorFlow)'),
        (('stem.conv1.weight', 'stages.0'), 'MaxViT (timm)'),
        (('stem.conv1.weight', 'stages_0'), 'MaxViT (timm, features_only)'),
    ],
)
def test_release(keys, release):
    stem, stage = keys
    layers = (f'{stage}.blocks.0.{name}.norm1.weight' for name in ('attn_block', 'attn_grid'))
    assert MaxViT.recognise(dict.fromkeys((stem, *layers))) == release


def test_release_of_torchvision():
    torchvision = pytest.importorskip('torchvision')
    with torch.device('meta'):
        state = torchvision.models.maxvit_t(weights=None).state_dict()
    assert MaxViT.recognise(state) == 'MaxViT (torchvision)'
