"""Export of tiny models: what the files hold, and what is refused."""

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tools.exported_toy import CONFIG, TinyModel

pytest.importorskip('onnxscript', reason='export to ONNX needs the extra "export"')
onnxruntime = pytest.importorskip('onnxruntime')

HW = ('--shape', '32', '48')
META = dict(
    dataset_meta=dict(
        classes=('a', 'b', 'c'),
        palette=[[250, 0, 0], [0, 250, 0], [0, 0, 250]],
        keypoint_id2name={0: 'head', 1: 'hand', 2: 'foot'},
        skeleton_links=[(0, 1), (0, 2)],
    )
)


@pytest.fixture
def export(export_tool, tmp_path):
    """Call the tool on the toy config with weights; return the file."""
    model = TinyModel(dict(type='TinyBackbone'))

    def call(*arguments, options=(), name='toy.onnx', config=CONFIG):
        (tmp_path / 'toy.py').write_text(config)
        torch.save(dict(state_dict=model.state_dict(), meta=META), tmp_path / 'toy.pth')
        places = (str(tmp_path / 'toy.py'), str(tmp_path / 'toy.pth'), '-o', str(tmp_path / name))
        options = ('--cfg-options', *options) if options else ()
        export_tool.main([*places, *HW, '--rounds', '1', *arguments, *options])
        return tmp_path / name

    call.model = model.eval()
    return call


def run_file(path, image):
    session = onnxruntime.InferenceSession(path)
    names = [one.name for one in session.get_outputs()]
    return session, dict(zip(names, session.run(None, {'image': image})))


def test_normalisation_names_and_metadata(export, capsys):
    path = export('--dynamic', 'size', options=('default_scope=mmpose',))
    image = np.random.default_rng(0).uniform(0, 255, (3, 3, 40, 36)).astype(np.float32)
    session, outputs = run_file(path, image)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([120.0, 110, 100], [60.0, 55, 50]))
    with torch.no_grad():
        want = export.model((torch.from_numpy(image).flip(1) - mean) / std)
    np.testing.assert_allclose(outputs['heatmaps'], want, atol=1e-5)
    assert session.get_inputs()[0].shape == ['batch', 3, 'height', 'width']
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert about['keypoints'] == ['head', 'hand', 'foot'] and about['input_size'] == [32, 48]
    assert about['channel_order'] == 'BGR' and about['mean'] == [120, 110, 100]
    assert about['opset'] == 18 and len(about['commit']) >= 7
    printed = capsys.readouterr().out
    assert re.search('^operators: .*Conv 2, ', printed, re.MULTILINE)
    assert re.search('^heatmaps: max .difference. [0-9.e-]+$', printed, re.MULTILINE)
    assert re.search(
        '^latency of one image: eager [0-9.]+ ms, file [0-9.]+ ms', printed, re.MULTILINE
    )
    assert f'verified: {path}' in printed and '| toy | model | 32 x 48 | onnx | size |' in printed


def test_normalisation_outside_and_parts(export):
    path = export('--normalization', 'outside', '--part', 'backbone')
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 48)).astype(np.float32)
    session, outputs = run_file(path, image)
    with torch.no_grad():
        want = export.model.backbone(torch.from_numpy(image))[0]
    np.testing.assert_allclose(outputs['map'], want, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert about['channel_order'] == '"RGB"' and about['std'] == '[60.0, 55.0, 50.0]'


@pytest.mark.parametrize(
    ('scope', 'number', 'names'),
    [
        ('mmpose', 2, ['simcc_x', 'simcc_y']),
        ('mmdet', 3, ['output_0_0', 'output_0_1', 'output_1']),
        ('mmseg', 1, ['logits']),
    ],
)
def test_names_of_outputs(export_tool, export, scope, number, names, tmp_path):
    (tmp_path / 'toy.py').write_text(CONFIG.replace("'mmengine'", f"'{scope}'"))
    args = export_tool.parse_args(
        [str(tmp_path / 'toy.py'), 'none', '-o', str(tmp_path / 'x.pt2'), *HW]
    )
    cfg = export_tool._models.read_config(args.config, {'model.num_outs': number})
    paths = list(export_tool.build(cfg, args).outputs(torch.zeros(1, 3, 32, 48)))
    assert export_tool.name_outputs(cfg, args, paths) == names


def test_key_points_of_the_data_set_without_a_checkpoint(export_tool, commands):
    pytest.importorskip('mmpose')
    path, out = str(commands.demo_config), ['-o', 'x.pt2']
    args = export_tool.parse_args([path, 'none', '--shape', '128', '96', *out])
    about = export_tool.describe(export_tool._models.read_config(path, {}), args, {})
    assert json.loads(about['keypoints'])[:2] == ['nose', 'left_eye']
    assert [15, 13] in json.loads(about['skeleton']) and about['host'] == '"mmpose"'


def test_archive_of_torch_export(export):
    path = export('--dynamic', 'batch', name='toy.pt2')
    extra = {'metadata.json': ''}
    module = torch.export.load(path, extra_files=extra).module()
    assert module(torch.zeros(5, 3, 32, 48))[0].shape == (5, 3, 8, 12)
    assert json.loads(json.loads(extra['metadata.json'])['classes']) == ['a', 'b', 'c']


def test_labels_and_the_runner_without_torch(export, commands, tmp_path):
    path = export('--labels', options=('default_scope=mmseg',))
    Image.fromarray(np.full((64, 96, 3), (200, 20, 90), np.uint8)).save(tmp_path / 'one.png')
    blocked = "import sys, runpy; sys.modules.update(dict.fromkeys(['torch', 'mmengine', 'cv2', "
    blocked += "'mmtoken', 'mmcv'])); sys.argv = sys.argv[1:]; "
    blocked += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, '-c', blocked, commands.tools / 'run_exported.py', path]
    command += [tmp_path / 'one.png', '--out-dir', tmp_path / 'drawn']
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert 'one.png: ' in ran.stdout and '%' in ran.stdout
    drawn = np.asarray(Image.open(tmp_path / 'drawn' / 'one_result.png'))
    assert drawn.shape == (64, 96, 3)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([120.0, 110, 100], [60.0, 55, 50]))
    image = torch.tensor([200.0, 20, 90]).view(1, 3, 1, 1).expand(1, 3, 32, 48)
    label = export.model((image - mean) / std)[0, :, 4, 6].argmax()
    want = (np.array(META['dataset_meta']['palette'][label]) + (200, 20, 90)) / 2
    assert np.abs(drawn[32, 48] - want).max() <= 1


def test_a_file_that_differs_keeps_another_name(export, tmp_path):
    with pytest.raises(ValueError, match=r'at most 0.0001, got 0.\d+; .*toy.unverified.onnx'):
        export(options=('model.backbone.differs=0.5',))
    assert (tmp_path / 'toy.unverified.onnx').is_file() and not (tmp_path / 'toy.onnx').exists()


def test_a_warning_of_operators_that_few_runtimes_have(export, capsys):
    export(options=('model.backbone.counts=True',))
    captured = capsys.readouterr()
    assert 'not every runtime has NonZero' in captured.out + captured.err


@pytest.mark.parametrize(
    ('what', 'file', 'got'),
    [
        ('size', 'toy.pt2', 'specialized it to be a constant'),
        ('padding', 'toy.pt2', 'Guard failed'),
        ('padding', 'toy.onnx', r'outputs of shape .* instead of'),
    ],
)
def test_a_fixed_size_is_refused(export, what, file, got):
    rule = f'--dynamic size needs a model that does not fix it, got ".*{got}'
    with pytest.raises(ValueError, match=rule):
        export('--dynamic', 'size', options=(f'model.backbone.fixes={what}',), name=file)


def test_an_operator_named_like_the_normalisation(export):
    assert export(options=('model.num_outs=2',)).is_file()  # pools with a mean


@pytest.mark.parametrize(
    ('arguments', 'options', 'message'),
    [
        (('--shape', '8', '48'), (), 'at least 16'),
        ((), ('model.roi_head=1',), 'must have one stage, got TinyModel .* --part neck'),
        ((), ('model.reads_samples=True',), 'images alone .* TinyModel with TypeError: .*NoneType'),
        (('--labels',), (), '--labels needs a whole segmentor'),
        ((), ('model.data_preprocessor=None',), '--normalization outside'),
        (('-o', 'nowhere/x.onnx'), (), 'existing folder'),
        (('-o', 'x.tflite'), (), 'FILE.onnx or FILE.pt2'),
        (('--format', 'pt2'), (), 'FILE.onnx or FILE.pt2 of --format'),
    ],
)
def test_bad_input(export, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        export(*arguments, options=options)


def test_unknown_format(export, capsys):
    with pytest.raises(SystemExit):
        export('--format', 'tflite')
    assert "invalid choice: 'tflite'" in capsys.readouterr().err


def test_a_file_that_exists(export, tmp_path):
    (tmp_path / 'toy.onnx').write_text('mine')
    with pytest.raises(ValueError, match='must be a new file, got .*toy.onnx; pass --overwrite'):
        export()
    assert (tmp_path / 'toy.onnx').read_text() == 'mine'


def test_missing_packages(export, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'onnxscript' else found(name)
    )
    with pytest.raises(ValueError, match='without onnxscript; run: pip install onnx onnxscript'):
        export()


def test_difference_of_labels_is_a_share(export_tool):
    a, b = torch.zeros(2, 5), torch.zeros(2, 5).long()
    assert export_tool.differences([a + 2, b + 1], [a, b]) == [2.0, 1.0]
    with pytest.raises(ValueError, match=r'shape \[\(2, 5\)\] instead of \[\(1, 5\)\]'):
        export_tool.differences([a], [a[:1]])
