"""Pre-trained weights survive the start of training in each host (the original loses them)."""

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmtoken import PaCaViT
from noise_segments import NoiseSegments
from paca_vit.smallest import TEACHER, TINY

PRETRAINED = (5, 5, 5, 5)


@pytest.mark.parametrize('kind', ['conv', 'mlp', 'teacher'])
def test_stock_runner_starts_from_the_file(kind, tmp_path, randomize):
    pytest.importorskip('mmseg')
    arch = TEACHER if kind == 'teacher' else TINY
    donor = randomize(PaCaViT(arch, kind, PRETRAINED))
    file = tmp_path / 'imagenet.pth'
    released = {**donor.state_dict(), 'head.weight': torch.ones(10, 24)}
    torch.save({'model': {f'module.{key}': value for key, value in released.items()}}, file)
    backbone = dict(
        type='PaCaViT',
        arch=arch,
        clustering=kind,
        num_clusters=(7, 5, 5, 5),
        init_cfg=dict(type='Pretrained', checkpoint=str(file)),
    )
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32)),
        backbone=backbone,
        decode_head=dict(
            type='PaCaHead',
            in_channels=arch['embed_dims'],
            channels=6,
            num_classes=2,
            norm_cfg=dict(type='BN'),
        ),
    )
    runner = Runner.from_cfg(
        Config(
            dict(
                model=model,
                work_dir=str(tmp_path / 'work'),
                experiment_name=f'weights-{kind}',
                default_scope='mmseg',
                train_dataloader=dict(
                    batch_size=2,
                    sampler=dict(type='DefaultSampler', shuffle=False),
                    dataset=NoiseSegments(32),
                    collate_fn=dict(type='pseudo_collate'),
                ),
                train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
                # a step that changes no weight: what was loaded must be there afterwards
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
                default_hooks=dict(checkpoint=None, logger=None, runtime_info=None),
            )
        )
    )
    runner.train()
    own = runner.model.backbone.state_dict()
    first = runner.model.backbone.final_clustering_layers()[0]
    for key, value in donor.state_dict().items():
        if 'running_' in key or 'num_batches' in key:
            continue  # one step of batch statistics
        if key.startswith(first + '.'):
            assert own[key].shape[0] == 7
        else:
            assert torch.equal(own[key], value), key
