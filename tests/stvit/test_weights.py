"""Released files load from any container; one that contradicts the arguments is refused."""

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmtoken import STViTR
from noise_segments import NoiseSegments
from stvit.smallest import TINY


def classification_file(folder, randomize, **arguments):
    """A file as the authors' classification script saves it, and its model."""
    donor = randomize(STViTR(TINY, 'classification', **arguments, out_indices=(3,)))
    state = donor.state_dict()
    state |= {'head.weight': torch.ones(10, 64), 'head.bias': torch.zeros(10)}
    state |= {f'layers.{i}.blocks.1.attn.attn_mask': torch.zeros(4, 49, 49) for i in (0, 1)}
    state = {key.replace('attn.attn_mask', 'attn_mask'): value for key, value in state.items()}
    file = folder / 'imagenet.pth'
    torch.save({'model': state, 'epoch': 299, 'max_accuracy': 82.6}, file)
    return donor, file


def detection_file(folder, randomize):
    """A detector as mmdet saves it, and its backbone."""
    donor = randomize(STViTR(TINY))
    state = {f'backbone.{key}': value for key, value in donor.state_dict().items()}
    file = folder / 'detector.pth'
    torch.save({'meta': {}, 'state_dict': {**state, 'neck.weight': torch.ones(1)}}, file)
    return donor, file


def load(file, *args, out_indices=(0, 1, 2, 3), arch=TINY, use_global_center=False, **init_cfg):
    model = STViTR(
        arch,
        *args,
        out_indices=out_indices,
        use_global_center=use_global_center,
        init_cfg=dict(type='Pretrained', checkpoint=str(file), **init_cfg),
    )
    model.init_weights()
    return model


def assert_holds(model, donor, but=()):
    for key, value in donor.state_dict().items():
        if not key.startswith(tuple(but)):
            assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize('center', [False, True])
def test_classification_weights_load(tmp_path, randomize, center):
    donor, file = classification_file(tmp_path, randomize, use_global_center=center)
    model = load(file, 'classification', out_indices=(3,), use_global_center=center)
    assert_holds(model, donor)


def test_detection_weights_load(tmp_path, randomize):
    donor, file = detection_file(tmp_path, randomize)
    assert_holds(load(file, prefix='backbone.'), donor)


def test_fewer_outputs_take_the_same_file(tmp_path, randomize):
    donor, file = detection_file(tmp_path, randomize)
    model = load(file, out_indices=(0, 1), prefix='backbone.')
    for key, value in model.state_dict().items():
        assert torch.equal(donor.state_dict()[key], value), key


def test_classification_weights_start_a_dense_model_if_declared(tmp_path, randomize):
    donor, file = classification_file(tmp_path, randomize)
    model = load(file, ignore='norm', reinitialize='norm')
    assert_holds(model, donor, but=('norm.',))
    assert all(model.state_dict()[f'norm{i}.weight'].eq(1).all() for i in range(4))


def test_classification_weights_in_a_dense_model_are_refused(tmp_path, randomize):
    _, file = classification_file(tmp_path, randomize)
    message = (
        r"(?s)missing: norm0.weight.*unexpected: norm.weight.*flavour='classification'.*declare"
    )
    with pytest.raises(ValueError, match=message):
        load(file)


def test_dense_weights_in_a_classification_model_are_refused(tmp_path, randomize):
    _, file = detection_file(tmp_path, randomize)
    with pytest.raises(ValueError, match=r"(?s)missing: norm.weight.*flavour='dense'"):
        load(file, 'classification', out_indices=(3,), prefix='backbone.')


@pytest.mark.parametrize('has', [False, True])
def test_a_center_too_many_or_too_few_is_refused(tmp_path, randomize, has):
    _, file = classification_file(tmp_path, randomize, use_global_center=has)
    with pytest.raises(ValueError, match=rf'(?s)semantic_token2.*use_global_center={has}'):
        load(file, 'classification', out_indices=(3,), use_global_center=not has)


def test_another_depth_is_refused(tmp_path, randomize):
    _, file = detection_file(tmp_path, randomize)
    with pytest.raises(ValueError, match=r'missing: layers.2.blocks.6'):
        load(file, arch=dict(TINY, depths=(2, 1, 12, 2)), prefix='backbone.')


def test_stock_runner_starts_from_the_file(tmp_path, randomize):
    """The options of ``init_cfg`` are given as the command line parses them."""
    pytest.importorskip('mmseg')
    donor, file = classification_file(tmp_path, randomize)
    cfg = Config(
        dict(
            model=dict(
                type='EncoderDecoder',
                data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
                backbone=dict(type='STViTR', arch=TINY),
                decode_head=dict(
                    type='FCNHead',
                    in_channels=64,
                    in_index=3,
                    channels=4,
                    num_classes=2,
                    norm_cfg=dict(type='BN'),
                ),
            ),
            work_dir=str(tmp_path / 'work'),
            experiment_name='stvit-weights',
            default_scope='mmseg',
            train_dataloader=dict(
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=NoiseSegments(64),
                collate_fn=dict(type='pseudo_collate'),
            ),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
            # a step that changes no weight: what was loaded must be there afterwards
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            default_hooks=dict(checkpoint=None, logger=None, runtime_info=None),
        )
    )
    told = dict(type='Pretrained', checkpoint=str(file), ignore='norm', reinitialize='norm')
    options = {f'model.backbone.init_cfg.{key}': value for key, value in told.items()}
    cfg.merge_from_dict({key: DictAction._parse_iterable(v) for key, v in options.items()})
    runner = Runner.from_cfg(cfg)
    runner.train()
    backbone = runner.model.backbone
    kept = {k: v for k, v in donor.state_dict().items() if not k.startswith('norm.')}
    for key, value in kept.items():
        if 'running_' not in key and 'num_batches' not in key:  # one step of batch statistics
            assert torch.equal(backbone.state_dict()[key], value), key


def test_hints_of_other_mistakes(tmp_path, randomize):
    """A forgotten prefix, outputs without norms in the file, a centre that detectors lack."""
    _, file = detection_file(tmp_path, randomize)
    with pytest.raises(
        ValueError, match=r"\(0 of \d+ keys(?s:.*)start with 'backbone\.': give that"
    ):
        load(file)
    _, file = classification_file(tmp_path, randomize, use_global_center=True)
    with pytest.raises(ValueError, match=r'missing: norm0(?s:.*)out_indices=\(3,\)'):
        load(file, 'classification', use_global_center=True)
    with pytest.raises(ValueError, match=r"ignore=\('norm', '\.\*semantic_token2'\)"):
        load(file, ignore='norm', reinitialize='norm')
    load(file, ignore=('norm', '.*semantic_token2'), reinitialize='norm')
