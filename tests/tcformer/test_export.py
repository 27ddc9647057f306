"""What runs in an ONNX export: equal clusters, outputs and gradients, mostly without exporting.

Exported models are compared with the model in ``tests/tools/test_export_rooms.py``.
"""

import pytest
import torch
from golden import cases as golden
from mmtoken import MTA, TCFormer
from mmtoken.tcformer.bags import group_rows
from mmtoken.tcformer.clustering import cluster_dpc_knn
from mmtoken.tcformer.tokens import tokens_to_map
from tcformer.smallest import READERS, TINY

FILES = ('common.attention', 'tcformer.clustering', 'tcformer.tokens')


@pytest.fixture
def exporting():
    """Call a function as if it were traced for ONNX."""

    def call(function, *args):
        with pytest.MonkeyPatch.context() as patch:
            for name in FILES:
                patch.setattr(f'mmtoken.{name}.is_onnx_export', lambda: True)
            return function(*args)

    return call


@pytest.mark.parametrize('neighbors', [1, 2, 5])
@pytest.mark.parametrize('kind', ['random', 'copies', 'grid', 'flat'])
def test_clusters_are_the_same_with_ties(exporting, kind, neighbors):
    x = torch.randn(2, 1300, 4, dtype=torch.float64)  # more than one chunk
    if kind == 'copies':
        x[1] = x[1, :100].repeat(13, 1)
    if kind == 'grid':
        x = x.round()
    if kind == 'flat':
        x[1] = x[1, :1]
    want = cluster_dpc_knn(x, 300, neighbors)
    found = exporting(cluster_dpc_knn, x, 300, neighbors)
    assert torch.equal(found.center_idx, want.center_idx)
    assert torch.equal(found.assign_idx, want.assign_idx)


def test_sums_of_groups_are_the_same(exporting):
    index, x = torch.randint(9, (3, 35)), torch.randn(35 * 3, 5, dtype=torch.float64)
    index[index == 4] = 8  # an empty group, and the last one of a sample
    weights = torch.rand(35 * 3, dtype=torch.float64)

    def sums():
        groups = group_rows(index, 10)
        rows = (groups.order + 35 * torch.arange(3)[:, None]).flatten()
        return groups.bags(rows).sum(x, weights[rows]), groups.counts

    for got, want in zip(exporting(sums), sums()):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('hw', [(61, 75), (97, 131)])
@pytest.mark.parametrize('local_parts', [None, (4, 2, 1)])
@pytest.mark.parametrize('reduction', ['avg_pool', 'cluster'])
def test_outputs_and_gradients_are_the_same(exporting, randomize, hw, local_parts, reduction):
    neck = {k: v for k, v in READERS[0][0].items() if k != 'type'}
    backbone = TCFormer(TINY, local_parts=local_parts)
    model = torch.nn.Sequential(backbone, MTA(**neck, reduction=reduction))
    model = randomize(model).double().eval()
    image = torch.randn(2, 3, *hw, dtype=torch.float64)

    def step():
        maps = model(image)
        loss = sum(one.square().mean() for one in maps)
        return [*maps, *torch.autograd.grad(loss, list(model.parameters()))]

    for got, want in zip(exporting(step), step()):
        torch.testing.assert_close(got, want)


def tied(batch):
    """Noise, a flat image, a flat area, copies, and a lattice with exact distances."""
    noise = torch.randn(batch, 96, 16)
    yield noise
    yield noise[:, :1].repeat(1, 96, 1)
    yield torch.cat((noise[:, :30], noise[:, 30:31].expand(-1, 66, -1)), 1)
    yield noise[:, :48].repeat(1, 2, 1)
    lattice = torch.zeros(batch, 96, 16)  # with a mean of 0, and sqrt(16) divides exactly
    lattice[..., 0], lattice[..., 1] = torch.arange(96) // 8 - 5.5, torch.arange(96) % 8 - 3.5
    yield lattice


def run_in_onnxruntime(model, example, folder):
    """Export with any batch; return a function that runs the file."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript', reason='export to ONNX needs the extra "export"')
    options = dict(dynamo=True, opset_version=18, dynamic_shapes=({0: 'batch'},), verbose=False)
    torch.onnx.export(model.eval(), (example,), **options).save(folder / 'model.onnx')
    session = onnxruntime.InferenceSession(folder / 'model.onnx')
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(one) for one in session.run(None, {name: x.numpy()})]


class Clusters(torch.nn.Module):
    def forward(self, x):
        found = cluster_dpc_knn(x, 24)
        return found.assign_idx, found.center_idx


@pytest.mark.slow
@torch.no_grad()
def test_clusters_are_the_same_in_onnxruntime(tmp_path):
    run = run_in_onnxruntime(Clusters(), torch.randn(2, 96, 16), tmp_path)
    for case in (*tied(1), *tied(3)):
        want = cluster_dpc_knn(case, 24)
        for got, expected in zip(run(case), (want.assign_idx, want.center_idx)):
            assert torch.equal(got, expected)


def test_a_free_size_is_refused():
    pytest.importorskip('torch', '2.9')
    free = {2: torch.export.Dim.DYNAMIC}
    with pytest.raises(ValueError, match='width must be fixed in an export, because .* of tokens'):
        torch.export.export(
            TCFormer(TINY).eval(), (torch.randn(2, 3, 64, 96),), dynamic_shapes=(free,)
        )


class MapsAndClusters(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        stages = self.backbone(image)
        maps = [tokens_to_map(stage) for stage in stages]
        return *maps, *(stage.assign_idx for stage in stages[1:])


@pytest.mark.slow
@torch.no_grad()
def test_golden_case_in_onnxruntime(tmp_path):
    """The authors' maps and clusters, of two images."""
    case = golden.CASES['tcformer_light_64x64']
    model = MapsAndClusters(TCFormer('light'))
    model.backbone.load_state_dict(golden.state(case), strict=True)
    image = golden.image(case).float()
    found = run_in_onnxruntime(model, image, tmp_path)(image)
    names = [*(f'map{i}' for i in range(1, 5)), *(f'idx_token{i}' for i in range(2, 5))]
    golden.check(case, dict(zip(names, found)), 2e-5, partly=True)


@pytest.mark.slow
@torch.no_grad()
def test_local_parts_in_onnxruntime(tmp_path, randomize):
    model = randomize(TCFormer(TINY, out_type='maps', local_parts=(4, 2, 1))).eval()
    run = run_in_onnxruntime(model, torch.randn(2, 3, 97, 131), tmp_path)
    for image in (torch.randn(1, 3, 97, 131), torch.ones(3, 3, 97, 131)):
        for got, want in zip(run(image), model(image), strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
