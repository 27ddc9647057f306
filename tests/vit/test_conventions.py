"""Released weights load as they are, whatever their names, or the error says what they are."""

import pickle
import re

import pytest
import torch
from golden import cases as golden
from mmengine.registry import MODELS
from mmtoken import PlainViT
from mmtoken.common.strict_load import load_state_dict_strict
from torch.nn import functional as F
from vit.smallest import TINY, VITDET

ARCH = dict(embed_dims=96, depth=3, num_heads=3, hidden_dim=384)
WIDE = dict(ARCH, hidden_dim=256)
DINOV3 = dict(img_size=None, num_registers=4, rope='dinov3', layer_scale=1.0, norm_eps=1e-5)
DINOV2 = dict(patch_size=14, img_size=70, layer_scale=1.0)
OFFICIAL = dict(DINOV2, pos_antialias=False, pos_offset=0.1)
SHARP = dict(pos_antialias=False)
# golden cases by the arguments that their files need
GOLDEN = {
    'keys_dinov3_official_public': DINOV3,
    'keys_dinov3_official_swiglu_public': dict(DINOV3, mlp='swiglu'),
    'keys_dinov2_official_public': OFFICIAL,
    'keys_dinov2_official_reg_public': dict(DINOV2, num_registers=4),
    'keys_dinov2_official_swiglu_public': dict(OFFICIAL, arch=WIDE, mlp='swiglu'),
    'keys_mmpretrain_vit_public': dict(SHARP, img_size=80, out_norm='last'),
    'keys_mmpretrain_dinov2_public': dict(DINOV2, **SHARP, out_norm='last'),
    'keys_timm_eva02_public': dict(
        arch=WIDE, patch_size=14, img_size=70, rope='eva02', mlp='swiglu', mlp_norm=True
    ),
    'keys_timm_clip_public': dict(img_size=80, pre_norm=True, mlp='quickgelu', norm_eps=1e-5),
    'keys_timm_deit3_public': dict(img_size=80, layer_scale=1.0),
    'keys_timm_vit_public': dict(img_size=80),
}


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def load(file, **arguments):
    """A PlainViT with the weights of a file, in float64."""
    init_cfg = dict(type='Pretrained', checkpoint=str(file))
    model = PlainViT(**dict(dict(arch=ARCH, out_norm='all'), **arguments), init_cfg=init_cfg)
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize('name', golden.names('keys_'))
@torch.no_grad()
def test_golden_file_of_another_release(name, tmp_path):
    case = golden.CASES[name]
    state = golden.state(case)
    for key in case['kept_as_constructed']:
        state[key] = torch.ones(1)
    torch.save({'model': state}, tmp_path / 'released.pth')
    arguments = GOLDEN[name]
    model = load(tmp_path / 'released.pth', out_indices=(0, 2), **arguments)
    maps = model(golden.image(case))
    tokens = model.norm(model.run_stages(golden.image(case))[-1][0])
    found = dict(zip(('map0', 'map2'), maps))
    found.update({'prefix': tokens[:, :1].transpose(1, 2), 'class': tokens[:, 0]})
    stored = {output['name'] for output in case['outputs']}
    golden.check(case, {key: value for key, value in found.items() if key in stored}, 3e-6)


@pytest.mark.parametrize('name', golden.names('vitdet_d192_img1024_224'))
@torch.no_grad()
def test_golden_pickle_of_detectron2_loads_into_backbone_and_neck(name, tmp_path):
    case = golden.CASES[name]
    state = {key: value.numpy() for key, value in golden.state(case).items()}
    path = tmp_path / 'model_final.pkl'
    path.write_bytes(pickle.dumps({'model': state, '__author__': 'Detectron2'}, 2))
    model = load(
        path,
        arch=dict(embed_dims=192, depth=6, num_heads=3, hidden_dim=768),
        class_token=False,
        window_block_indexes=(0, 1, 3, 4),
        rel_pos_size=1024,
        out_norm='none',
        **SHARP,
    )
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone')
    neck = MODELS.build(dict(type='SimpleFPN', in_channels=192, init_cfg=init_cfg))
    neck.init_weights()
    maps = model(golden.image(case))
    pyramid = {f'p{i}': value for i, value in enumerate(neck(maps), 2)}
    golden.check(case, {'last_feat': maps[-1], **pyramid}, 3e-6)


def random_state(randomize, **arguments):
    """A state dict of ours with every parameter drawn."""
    return randomize(PlainViT(**dict(dict(arch=TINY, out_norm='all'), **arguments))).state_dict()


def rename(state, *names):
    """Replace text in keys, in turn."""
    for old, new in names:
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


def split(state, key, names):
    """Cut a parameter of each block in equal parts; a name that is None leaves its part out."""
    found = {}
    for name, value in state.items():
        if key not in name:
            found[name] = value
            continue
        for part, part_of in zip(names, value.chunk(len(names))):
            if part is not None and not (part == NO_BIAS and name.endswith('bias')):
                found[name.replace(key, part.replace(NO_BIAS, ''))] = part_of
    return found


NO_BIAS = ' without bias'
QKV = ('q_proj', 'k_proj' + NO_BIAS, 'v_proj')


def unfold(state, registers=False):
    """Positions of the class token (and registers) in front, subtracted from the tokens."""
    count = 1 + (state['reg_token'].shape[1] if registers else 0)
    extra = torch.randn(1, count, state['cls_token'].shape[2])
    found = dict(state, pos_embed=torch.cat((extra, state['pos_embed']), 1))
    found['cls_token'] = state['cls_token'] - extra[:, :1]
    if registers:
        found['reg_token'] = state['reg_token'] - extra[:, 1:]
    return found


def hugging_face(state):
    return rename(
        state,
        ('cls_token', 'embeddings.cls_token'),
        ('reg_token', 'embeddings.register_tokens'),
        ('pos_embed', 'embeddings.position_embeddings'),
    ) | {'embeddings.mask_token': torch.zeros(1, 16)}


def dinov2_hf(state, mlp=()):
    state = split(
        hugging_face(unfold(state)),
        '.attn.qkv',
        [f'.attention.attention.{x}' for x in ('query', 'key', 'value')],
    )
    names = (
        ('patch_embed.proj', 'embeddings.patch_embeddings.projection'),
        ('attn.proj', 'attention.output.dense'),
        ('blocks.', 'encoder.layer.'),
        ('ls1.gamma', 'layer_scale1.lambda1'),
        ('ls2.gamma', 'layer_scale2.lambda1'),
    )
    state = rename(state, *names, *mlp)
    return {('layernorm' + k[4:] if k.startswith('norm.') else k): v for k, v in state.items()}


def dinov3_hf(state, gated):
    state = split(hugging_face(state), '.attn.qkv', [f'.attention.{x}' for x in QKV])
    if gated:
        state = split(state, 'mlp.fc1', ('mlp.gate_proj', 'mlp.up_proj'))
    return rename(
        state,
        ('patch_embed.proj', 'embeddings.patch_embeddings'),
        ('attn.proj', 'attention.o_proj'),
        ('blocks.', 'model.layer.'),
        ('ls1.gamma', 'layer_scale1.lambda1'),
        ('ls2.gamma', 'layer_scale2.lambda1'),
        ('mlp.fc1', 'mlp.up_proj'),
        ('mlp.fc2', 'mlp.down_proj'),
    )


def clip_official(state):
    state = unfold(state)
    state['cls_token'] = state['cls_token'].flatten()
    state['pos_embed'] = state['pos_embed'][0]
    visual = rename(
        {('ln_post' + k[4:] if k.startswith('norm.') else k): v for k, v in state.items()},
        ('patch_embed.proj', 'conv1'),
        ('cls_token', 'class_embedding'),
        ('pos_embed', 'positional_embedding'),
        ('norm_pre', 'ln_pre'),
        ('blocks.', 'transformer.resblocks.'),
        ('norm1', 'ln_1'),
        ('norm2', 'ln_2'),
        ('attn.qkv.', 'attn.in_proj_'),
        ('attn.proj', 'attn.out_proj'),
        ('mlp.fc1', 'mlp.c_fc'),
        ('mlp.fc2', 'mlp.c_proj'),
    )
    text = {'transformer.resblocks.0.ln_1.weight': torch.ones(8), 'logit_scale': torch.ones(())}
    return (
        {f'visual.{key}': v for key, v in visual.items()}
        | {'visual.proj': torch.ones(16, 8)}
        | text
    )


def eva02_official(state):
    state = split(unfold(state), 'attn.qkv.weight', [f'attn.{x}_proj.weight' for x in 'qkv'])
    state = split(state, 'attn.qkv.bias', ('attn.q_bias', None, 'attn.v_bias'))
    state = split(state, 'mlp.fc1', ('mlp.w1', 'mlp.w2'))
    names = (('mlp.fc2', 'mlp.w3'), ('mlp.norm', 'mlp.ffn_ln'), ('attn.norm', 'attn.inner_attn_ln'))
    others = {'rope.freqs_cos': torch.ones(4), 'blocks.0.attn.rope.freqs_sin': torch.ones(4)}
    return (
        rename(state, *names)
        | others
        | {'mask_token': torch.zeros(1, 1, 16), 'lm_head.bias': torch.ones(4)}
    )


def vitdet_mmdet(state):
    found = dict(state, pos_embed=torch.cat((torch.ones(1, 1, 16), state['pos_embed']), 1))
    found = {f'backbone.{key}': value for key, value in found.items()}
    return found | {
        'neck.fpn_convs.0.conv.weight': torch.ones(1),
        'roi_head.fc.bias': torch.ones(1),
    }


def vitdet_alone(state):
    found = {key.removeprefix('backbone.'): value for key, value in vitdet_mmdet(state).items()}
    return {k: v for k, v in found.items() if not k.startswith(('neck.', 'roi_head.'))}


def clip_mmpretrain(state):
    names = (
        ('patch_embed.proj', 'patch_embed.projection'),
        ('norm_pre', 'pre_norm'),
        ('blocks.', 'layers.'),
        ('.norm1', '.ln1'),
        ('.norm2', '.ln2'),
        ('mlp.fc1', 'ffn.layers.0.0'),
        ('mlp.fc2', 'ffn.layers.1'),
    )
    found = rename(unfold(state), *names)
    return {
        'backbone.' + ('ln1' + k[4:] if k.startswith('norm.') else k): v for k, v in found.items()
    }


def without_key_bias(state):
    return split(unfold(state), 'attn.qkv.bias', ('attn.q_bias', None, 'attn.v_bias'))


def chunks(state):
    """As sharded training writes blocks, two to a chunk."""
    names = {i: f'blocks.{i // 2}.{i}.' for i in range(4)}
    return {
        re.sub(r'^blocks\.(\d)\.', lambda match: names[int(match[1])], key): value
        for key, value in state.items()
    } | {'mask_token': torch.zeros(1, 16)}


SMALL_V3 = dict(img_size=None, rope='dinov3', num_registers=4, layer_scale=1.0, norm_eps=1e-5)
SMALL_V2 = dict(patch_size=14, img_size=70, layer_scale=1.0, **SHARP)
# arguments, the file that the weights of such a model are in, its name in messages
RELEASES = {
    'DINOv2 (Hugging Face)': (SMALL_V2, dinov2_hf),
    'DINOv2 with registers (Hugging Face)': (
        dict(SMALL_V2, pos_antialias=True, num_registers=4, mlp='swiglu'),
        lambda state: {
            f'dinov2_with_registers.{key}': value
            for key, value in dinov2_hf(
                state, (('mlp.fc1', 'mlp.weights_in'), ('mlp.fc2', 'mlp.weights_out'))
            ).items()
        },
    ),
    'DINOv3 (Hugging Face)': (SMALL_V3, lambda state: dinov3_hf(state, gated=False)),
    'DINOv3 (Hugging Face), gated': (
        dict(SMALL_V3, mlp='swiglu'),
        lambda state: dinov3_hf(state, gated=True),
    ),
    'CLIP (OpenAI, OpenCLIP)': (
        dict(img_size=80, pre_norm=True, norm_eps=1e-5, mlp='quickgelu'),
        clip_official,
    ),
    'EVA-02 (official)': (
        dict(img_size=80, rope='eva02', mlp='swiglu', mlp_norm=True, attn_norm=True),
        eva02_official,
    ),
    'MAE (official)': (
        dict(img_size=80, **SHARP),
        lambda state: (
            unfold(state)
            | {
                'decoder_embed.weight': torch.ones(1),
                'decoder_blocks.0.norm1.weight': torch.ones(1),
                'mask_token': torch.ones(1, 1, 8),
            }
        ),
    ),
    'DeiT-III (official)': (
        dict(img_size=80, layer_scale=1.0),
        lambda state: (
            rename(state, ('ls1.gamma', 'gamma_1'), ('ls2.gamma', 'gamma_2'))
            | {'head.weight': torch.ones(3, 16)}
        ),
    ),
    'ViT (timm; official DeiT, MAE)': (
        dict(img_size=80, num_registers=1),  # DeiT distilled
        lambda state: rename(unfold(state, True), ('reg_token', 'dist_token')),
    ),
    'DINOv2 (official)': (dict(SMALL_V2, pos_offset=0.1), lambda state: chunks(unfold(state))),
    'ViTDet (mmdet)': (
        {k: v for k, v in VITDET.items() if k not in ('type', 'arch')} | dict(norm_eps=1e-5),
        vitdet_mmdet,
    ),
    'ViTDet': ({k: v for k, v in VITDET.items() if k not in ('type', 'arch')}, vitdet_alone),
    'CLIP (mmpretrain)': (
        dict(SHARP, img_size=80, pre_norm=True, norm_eps=1e-5),
        clip_mmpretrain,
    ),
    'EVA (timm)': (dict(img_size=80), without_key_bias),
}


@pytest.mark.parametrize('name', RELEASES)
def test_file_with_the_names_of_a_release(name, tmp_path, randomize):
    arguments, write = RELEASES[name]
    ours = random_state(randomize, **arguments)
    if arguments.get('rope') or name.startswith('EVA'):
        for key in [key for key in ours if key.endswith('qkv.bias')]:
            ours[key].chunk(3)[1].zero_()
    torch.save({'model': write(dict(ours))}, tmp_path / 'released.pth')
    model = load(tmp_path / 'released.pth', **dict(dict(arch=TINY), **arguments))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, ours[key], msg=lambda text, k=key: f'{k}: {text}')
    family = re.escape(name.partition(',')[0])
    with pytest.raises(
        ValueError, match=rf'{family}.* weights need norm_eps=.*the model has .*0.1'
    ):
        load(tmp_path / 'released.pth', **dict(arguments, arch=TINY, norm_eps=0.1))


MMPRETRAIN = {
    'ViT': (dict(img_size=80), {}),
    'DINOv2': (dict(img_size=70, patch_size=14, layer_scale=1.0), dict(layer_scale_init_value=1.0)),
    'gated': (
        dict(arch=dict(TINY, hidden_dim=16), img_size=80, layer_scale=1.0, mlp='swiglu'),
        dict(layer_scale_init_value=1.0, layer_cfgs=dict(ffn_type='swiglu_fused')),
    ),
    'CLIP': (
        dict(img_size=80, pre_norm=True, norm_eps=1e-5),
        dict(pre_norm=True, norm_cfg=dict(type='LN', eps=1e-5)),
    ),
}


@pytest.mark.parametrize('name', MMPRETRAIN)
@torch.no_grad()
def test_models_of_mmpretrain(name, tmp_path, randomize):
    backbones = pytest.importorskip('mmpretrain.models.backbones')
    ours, theirs = MMPRETRAIN[name]
    arch = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=24)
    donor = backbones.VisionTransformer(
        arch,
        img_size=ours['img_size'],
        patch_size=ours.get('patch_size', 16),
        out_type='featmap',
        out_indices=(1, 3),
        **theirs,
    )
    randomize(donor).double()
    donor.eval()
    state = {f'backbone.{key}': value for key, value in donor.state_dict().items()}
    torch.save({'state_dict': {**state, 'head.fc.bias': torch.ones(3)}}, tmp_path / 'epoch.pth')
    model = load(
        tmp_path / 'epoch.pth',
        **{**dict(arch=TINY, out_norm='last'), **SHARP, **ours},
        out_indices=(1, 3),
    )
    image = torch.randn(1, 3, 75, 100)
    for got, want in zip(model(image), donor(image), strict=True):
        torch.testing.assert_close(got, want, atol=2e-6, rtol=0)


# -- what does not fit


def saved(state, tmp_path):
    torch.save(state, tmp_path / 'weights.pth')
    return tmp_path / 'weights.pth'


def timm_vit(randomize, **arguments):
    """A file of timm: positions of the class token in front, a classifier behind."""
    state = unfold(random_state(randomize, **{**dict(img_size=80), **arguments}))
    return state | {'head.weight': torch.ones(3, 16), 'head.bias': torch.ones(3)}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(patch_size=8), r'need patch_size=16, but the model has patch_size=8'),
        (dict(arch=dict(TINY, depth=2)), 'need depth=4, but the model has depth=2'),
        (dict(arch=dict(TINY, embed_dims=32)), 'need embed_dims=16, but the model has'),
        (dict(arch=dict(TINY, hidden_dim=48)), 'need hidden_dim=24, but the model has'),
        (dict(num_registers=4), 'need num_registers=0, but the model has num_registers=4'),
        (dict(layer_scale=1.0), 'need layer_scale=None, but the model has'),
        (
            dict(mlp='quickgelu', norm_eps=1e-5),
            r"need norm_eps=1e-06, mlp='gelu', but .*'quickgelu'",
        ),
        (dict(rope='dinov3', img_size=None), "need rope=None, but the model has rope='dinov3'"),
        (dict(mlp_norm=True, attn_norm=True), 'need mlp_norm=False, attn_norm=False, but'),
        (dict(pre_norm=True), 'need pre_norm=False, but the model has pre_norm=True'),
    ],
)
def test_arguments_for_other_weights_are_named(arguments, message, tmp_path, randomize):
    file = saved(timm_vit(randomize), tmp_path)
    with pytest.raises(
        ValueError, match=f'weights.pth does not fit PlainViT: ViT .* weights {message}'
    ):
        load(file, **{**dict(arch=TINY, img_size=80), **arguments})


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (
            ['blocks.0.attn.relative_position_bias_table'],
            'cannot load BEiT or Swin with their tables',
        ),
        (['rope.freqs', 'blocks.0.norm1.weight'], 'cannot load a model with learned frequencies'),
        (['blocks.0.attn.k_norm.weight'], 'cannot load a model with norms of queries and keys'),
        (['blocks.0.attn.wq.weight'], 'cannot load Sapiens2 with its grouped queries'),
        (['layer1.0.conv1.weight', 'fc.bias'], r"got keys that start with \['fc', 'layer1'\]"),
        (
            [f'{n}.{k}.weight' for n in 'ab' for k in ('blocks.0.norm1', 'patch_embed.proj')],
            r"one backbone, got \['a.', 'b.'\]; choose one: .* prefix='a'",
        ),
        ([f'stages.{i}.blocks.0.norm1.weight' for i in (0, 1)], r"start with \['stages'\]"),
        (
            ['blocks.0.norm1.weight', 'blocks.0.gamma_1'],
            r'positions of another form \(vit_\*_rope_',
        ),
        (
            ['blocks.0.norm1.weight', 'pos_embed', 'norm_pre.weight', 'attn_pool.latent'],
            'cannot load the Perception Encoder',
        ),
        (['vit.encoder.layer.0.layernorm_before.weight'], "cannot load Hugging Face's own ViT"),
        (
            ['reg_token', 'register_tokens', 'blocks.0.norm1.weight', 'pos_embed'],
            "for 'reg_token'; remove one",
        ),
    ],
)
def test_other_files_are_refused(keys, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(saved({key: torch.ones(16) for key in keys}, tmp_path), arch=TINY)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'blocks.2.norm1.weight': None}, 'missing: blocks.2.norm1.weight'),
        ({'blocks.2.attn.gate': torch.ones(1)}, 'unexpected: blocks.2.attn.gate'),
        ({'norm.weight': None, 'norm.bias': None}, "no norm of tokens: set out_norm='none'"),
    ],
)
def test_damaged_files_are_refused(change, message, tmp_path, randomize):
    state = {k: v for k, v in (timm_vit(randomize) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        load(saved(state, tmp_path), arch=TINY, img_size=80)


def test_file_of_windows_needs_the_same_windows(tmp_path, randomize):
    arguments = {key: value for key, value in VITDET.items() if key != 'type'}
    file = saved(random_state(randomize, **arguments), tmp_path)
    with pytest.raises(ValueError, match=r'window_block_indexes=\(0, 2\), .* has .*=\(0, 1\)'):
        load(file, **dict(arguments, window_block_indexes=(0, 1)))


# -- what is resized, left out, or new


def test_report_names_what_was_converted_resized_and_left_out(randomize):
    model = PlainViT(TINY, img_size=112)
    report = load_state_dict_strict(model, timm_vit(randomize))
    assert report.converted == ('cls_token',)
    assert report.resized == ('pos_embed',)
    assert report.ignored == ('head.weight', 'head.bias')
    assert len(report.loaded) == len(model.state_dict()) - 2


def test_positions_are_resized_once_by_the_rule_of_the_model(tmp_path, randomize):
    state = timm_vit(randomize, pos_antialias=False)
    model = load(saved(state, tmp_path), arch=TINY, img_size=112, pos_antialias=False)
    grid = state['pos_embed'][:, 1:].unflatten(1, (5, 5)).permute(0, 3, 1, 2)
    want = F.interpolate(grid, (7, 7), mode='bicubic').flatten(2).mT
    torch.testing.assert_close(model.pos_embed, want)


def test_tables_of_global_blocks_are_resized(tmp_path, randomize):
    arguments = {key: value for key, value in VITDET.items() if key != 'type'}
    state = random_state(randomize, **arguments)
    model = load(saved(state, tmp_path), **dict(arguments, rel_pos_size=128))
    own = model.state_dict()
    assert torch.equal(own['blocks.0.attn.rel_pos_h'], state['blocks.0.attn.rel_pos_h'])
    want = F.interpolate(state['blocks.1.attn.rel_pos_h'].t()[None], 31, mode='linear')[0].t()
    torch.testing.assert_close(own['blocks.1.attn.rel_pos_h'], want)


def test_relative_positions_start_at_zero_from_pretrained_weights(tmp_path, randomize):
    arguments = {key: value for key, value in VITDET.items() if key != 'type'}
    pretrained = timm_vit(randomize, patch_size=8, img_size=56)
    model = PlainViT(**arguments)
    report = load_state_dict_strict(model, pretrained)
    assert all('.rel_pos_' in key for key in report.reinitialized) and report.reinitialized
    assert not any(model.state_dict()[key].any() for key in report.reinitialized)
    assert {'cls_token', 'norm.weight'} <= set(report.ignored)


def test_patches_are_resampled_on_request_only(tmp_path, randomize):
    timm_layers = pytest.importorskip('timm.layers')
    state = timm_vit(randomize)
    model = load(
        saved(state, tmp_path), arch=TINY, img_size=70, patch_size=14, resample_patches=True
    )
    weight = state['patch_embed.proj.weight'].float()
    want = timm_layers.resample_patch_embed(weight, [14, 14]).double()
    torch.testing.assert_close(model.patch_embed.proj.weight.data, want, atol=1e-4, rtol=1e-3)


def test_own_checkpoint_loads_whatever_its_arguments(tmp_path, randomize):
    arguments = dict(arch=TINY, img_size=80, norm_eps=1e-3, pos_offset=0.1, out_indices=(1,))
    state = random_state(randomize, **arguments)
    detector = {f'backbone.{key}': v for key, v in state.items()} | {'neck.weight': torch.ones(1)}
    for file in (state, detector):
        model = load(saved(file, tmp_path), **arguments)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
