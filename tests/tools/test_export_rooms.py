"""Every backbone, neck and head in onnxruntime.

An export takes 10 to 50 s of CPU time. Each room tests its own forms of operations by default.
"""

import gc
import itertools
import logging

import pytest
import torch
from mmengine.registry import MODELS
from rooms import BACKBONES, READERS, smallest_id
from torch import nn

pytest.importorskip('onnxscript', reason='export to ONNX needs the extra "export"')
onnxruntime = pytest.importorskip('onnxruntime')

CHAINS = {one['type']: (backbone, one) for one, backbone in READERS}
READ = [backbone for _, backbone in READERS]
CHAINS |= {smallest_id(one): (one,) for one in BACKBONES if one not in READ}
SIZES = [(64, 96), (97, 131)]
CASES = [
    pytest.param(name, hw, id=f'{name}-{hw[0]}x{hw[1]}')
    for name, hw in itertools.product(sorted(CHAINS), SIZES)
]
# Everything that a file of a backbone or neck may consist of. No loops, no sequences, no sizes
# that depend on values.
OPERATORS = """
Add And ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat ConstantOfShape Constant
Conv ConvTranspose Cos CumSum Div Equal Erf Exp Expand Flatten Floor Gather GatherElements
GatherND Gelu Gemm Greater GreaterOrEqual HardSigmoid HardSwish Identity InstanceNormalization
LayerNormalization Less LessOrEqual Log MatMul Max MaxPool Min Mod Mul Neg Not Or Pad Pow Range
Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize
ScatterElements ScatterND Shape Sigmoid Sign Sin Slice Softmax Split Sqrt Squeeze Sub Sum Tanh
Tile TopK Transpose Trilu Unsqueeze Where
"""


class Chain(nn.Module):
    """A backbone, and what reads its output; returns the tensors of both."""

    def __init__(self, *parts):
        super().__init__()
        for part in parts:
            if MODELS.get(part['type']) is None:
                pytest.skip(f'the host of {part["type"]} is not installed')
        self.parts = nn.ModuleList(MODELS.build(part) for part in parts)

    def forward(self, image):
        outputs = []
        for part in self.parts:
            image = part(image)
            outputs += image if isinstance(image, (tuple, list)) else [image]
        return tuple(one for one in outputs if isinstance(one, torch.Tensor))


@pytest.fixture(autouse=True)
def quick():
    """Collecting garbage and capturing logs would take most of the time of an export."""
    gc.disable()
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    gc.enable()
    gc.collect()


def export(tool, model, hw, path):
    """Write a file with any batch; return a function that runs it."""
    axes = tool.AXES['batch']
    operators = tool.write_onnx(model, torch.randn(2, 3, *hw), path, axes, None, {})
    assert set(operators) <= set(OPERATORS.split())
    session = onnxruntime.InferenceSession(path)
    (image,) = session.get_inputs()
    assert image.shape[0] == 'batch'
    return lambda x: map(torch.from_numpy, session.run(None, {image.name: x.numpy()}))


def images(hw, batch):
    """Noise; flat; flat with one line; two halves that are copies."""
    noise = torch.randn(batch, 3, *hw)
    flat = torch.ones(batch, 3, *hw)
    line = flat.clone()
    line[..., hw[1] // 3] = -1
    copies = noise.clone()
    copies[:, :, hw[0] // 2 : hw[0] // 2 * 2] = copies[:, :, : hw[0] // 2]
    return noise, flat, line, copies


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'hw'), CASES)
@torch.no_grad()
def test_a_file_computes_what_the_model_does(export_tool, name, hw, tmp_path, randomize):
    model = randomize(Chain(*CHAINS[name])).eval()
    run = export(export_tool, model, hw, tmp_path / 'model.onnx')
    for batch in (1, 3):
        for x in images(hw, batch):
            for got, want in zip(run(x), model(x), strict=True):
                torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
