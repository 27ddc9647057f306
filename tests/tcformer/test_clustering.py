import pytest
import torch
from mmtoken.tcformer import clustering, reference
from mmtoken.tcformer.clustering import cluster_dpc_knn
from mmtoken.tcformer.parts import cluster_by_parts, grid_parts, part_order, run_parts
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device('cpu')


def partition(assign_idx):
    """Clusters as a set of sets: what is left when clusters lose their numbers."""
    return {frozenset((assign_idx == m).nonzero()[:, 0].tolist()) for m in assign_idx.unique()}


@pytest.mark.parametrize('neighbors', [1, 2, 5])
@pytest.mark.parametrize(('count', 'clusters'), [(1, 1), (3, 1), (7, 7), (35, 9), (63, 16)])
def test_equals_its_twin(count, clusters, neighbors):
    x = torch.randn(2, count, 5, dtype=torch.float64)
    found = cluster_dpc_knn(x, clusters, neighbors)
    assign, center = reference.cluster_dpc_knn(x, clusters, neighbors)
    assert found.assign_idx.tolist() == assign
    assert found.center_idx.tolist() == center


@pytest.mark.parametrize('neighbors', [2, 4, 5])
@pytest.mark.parametrize('copies', [2, 5, 12])
def test_equals_its_twin_with_repeated_tokens(copies, neighbors):
    x = torch.randn(1, 8, 5, dtype=torch.float64).repeat(1, copies, 1)
    assign, center = reference.cluster_dpc_knn(x, 12, neighbors)
    found = cluster_dpc_knn(x, 12, neighbors)
    assert found.assign_idx.tolist() == assign
    assert found.center_idx.tolist() == center


def test_no_cluster_is_empty_and_centres_own_themselves():
    x = torch.randn(3, 60, 4)
    x[:, 20:] = x[:, :1]  # forty-one copies
    found = cluster_dpc_knn(x, 50)
    for assign, center in zip(found.assign_idx, found.center_idx):
        assert assign.unique().tolist() == list(range(50))
        assert assign[center].tolist() == list(range(50))


def test_as_many_clusters_as_tokens_is_the_identity_partition():
    found = cluster_dpc_knn(torch.randn(1, 30, 4), 30)
    assert partition(found.assign_idx[0]) == {frozenset([i]) for i in range(30)}


def test_shuffled_tokens_give_the_shuffled_partition():
    x, order = torch.randn(1, 40, 6, dtype=torch.float64), torch.randperm(40)
    plain, shuffled = cluster_dpc_knn(x, 11), cluster_dpc_knn(x[:, order], 11)
    assert torch.equal(plain.assign_idx[:, order], shuffled.assign_idx)


@pytest.mark.parametrize('neighbors', range(1, 6))
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_sample_does_not_depend_on_its_batch_or_layout_even_when_flat(dtype, neighbors):
    x = torch.randn(4, 96, 15, dtype=dtype)
    x[1:, 30:] = x[1:, 30:31] + torch.randn(3, 66, 15, dtype=dtype) * torch.finfo(dtype).eps
    x[2, :9] = x[2, 9:18]  # pairs of copies
    x[3, :] = x[3, :1]
    together = cluster_dpc_knn(x, 24, neighbors)
    for i in range(4):
        for alone in (x[i : i + 1], x[i : i + 1].mT.contiguous().mT):
            found = cluster_dpc_knn(alone, 24, neighbors)
            assert torch.equal(together.assign_idx[i], found.assign_idx[0])
            assert torch.equal(together.center_idx[i], found.center_idx[0])


@pytest.mark.parametrize('neighbors', range(1, 6))
def test_rounding_of_the_tokens_breaks_no_tie(neighbors):
    """Two mutual nearest neighbours tie in density, and so do copies."""
    x = torch.randn(1, 300, 7, dtype=torch.float64)
    x[:, 260:] = x[:, :40]
    found = [
        cluster_dpc_knn(x + torch.randn_like(x) * 1e-15, 280, neighbors).center_idx
        for _ in range(5)
    ]
    assert all(torch.equal(center_idx, found[0]) for center_idx in found)


def tokens_with_copies(dtype=torch.float64):
    """More than one chunk of them."""
    x = torch.randn(2, 600, 4, dtype=dtype)
    x[1, :170] = x[1, :1]
    return x


@pytest.mark.parametrize('neighbors', [1, 2, 5])
def test_static_shapes_give_the_same_clusters(neighbors, monkeypatch):
    """As compiled for a GPU and as exported."""
    monkeypatch.setattr(clustering, 'is_compiled_for_cpu', lambda x: False)
    x = tokens_with_copies()
    compiled = torch.compile(cluster_dpc_knn, backend='eager', fullgraph=True)
    want, found = cluster_dpc_knn(x, 150, neighbors), compiled(x, 150, neighbors)
    assert torch.equal(found.assign_idx, want.assign_idx)
    assert torch.equal(found.center_idx, want.center_idx)
    torch.testing.assert_close(found.center_score, want.center_score)


@pytest.mark.skipif(
    not hasattr(torch.compiler, 'is_exporting'), reason='this torch cannot tell it from an export'
)
@pytest.mark.parametrize(('num_parts', 'is_masked'), [(1, False), (2, False), (1, True)])
def test_compiled_for_a_cpu_it_is_one_node_with_the_same_result(num_parts, is_masked):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    x = tokens_with_copies(torch.float32)
    options = dict(valid=torch.rand(2, 600) > 0.3 if is_masked else None, num_parts=num_parts)
    found = torch.compile(cluster_dpc_knn, backend=backend, fullgraph=True)(x, 150, **options)
    want = cluster_dpc_knn(x, 150, **options)
    assert all(torch.equal(a, b) for a, b in zip(vars(found).values(), vars(want).values()))
    (graph,) = graphs
    assert sum('cluster_dpc_knn' in str(node.target) for node in graph.graph.nodes) == 1
    assert not any('topk' in str(node.target) for node in graph.graph.nodes)
    arguments = (x, 150, 5, None, *options.values())
    torch.library.opcheck(torch.ops.mmtoken.cluster_dpc_knn.default, arguments)


@pytest.mark.parametrize('strict', [True, False])
def test_exported_it_has_operators_of_pytorch_alone(strict):
    class Assign(torch.nn.Module):
        def forward(self, x):
            return cluster_dpc_knn(x, 150).assign_idx

    program = torch.export.export(Assign(), (tokens_with_copies(),), strict=strict)
    assert not any('mmtoken' in str(node.target) for node in program.graph.nodes)


def test_no_tensor_holds_all_pairs():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.numel = max(self.numel, result.numel())
            return result

    with Largest() as largest:
        cluster_dpc_knn(torch.randn(1, 4096, 2), 1024)
    assert largest.numel <= 256 * 4096


def test_ties_go_to_the_lower_index():
    x = torch.zeros(1, 6, 3)
    found = cluster_dpc_knn(x, 2)
    assert found.center_idx.tolist() == [[0, 1]]
    assert found.assign_idx.tolist() == [[0, 1, 0, 0, 0, 0]]


def test_densest_token_is_separated_by_the_largest_distance():
    x = torch.tensor([[[0.0], [1.0], [4.0]]])
    assert cluster_dpc_knn(x, 3, num_neighbors=1).center_score.tolist() == [[4.0, 3.0, 1.0]]


def test_half_precision_is_clustered_in_float32():
    x = torch.randn(1, 64, 8).half()
    assert torch.equal(cluster_dpc_knn(x, 16).assign_idx, cluster_dpc_knn(x.float(), 16).assign_idx)


def test_noise_is_drawn_only_when_asked_for():
    x = torch.randn(1, 64, 8)
    assert torch.equal(cluster_dpc_knn(x, 16).center_score, cluster_dpc_knn(x, 16).center_score)
    noisy = [cluster_dpc_knn(x, 16, density_noise=0.1).center_score for _ in range(2)]
    assert not torch.equal(*noisy)


def test_invalid_tokens_shape_no_cluster():
    x = torch.randn(2, 40, 6, dtype=torch.float64)
    valid = torch.arange(40) < 31
    padded = x.clone()
    padded[:, 31:] = x[:, :1] + 1e-3
    masked = cluster_dpc_knn(padded, 9, valid=valid.expand(2, -1))
    plain = cluster_dpc_knn(x[:, :31], 9)
    assert torch.equal(masked.assign_idx[:, :31], plain.assign_idx)
    assert torch.equal(masked.center_idx, plain.center_idx)


@pytest.mark.parametrize('local_parts', [(4, 2, 1), (6, 3, 1), (3, 3, 1), (8, 4, 2), (1, 1, 1)])
def test_coarser_parts_are_runs_of_finer_ones(local_parts):
    order = part_order(local_parts)
    assert sorted(order) == [(r, c) for r in range(local_parts[0]) for c in range(local_parts[0])]
    for coarse in local_parts[1:]:
        side = local_parts[0] // coarse
        owners = [(r // side, c // side) for r, c in order]
        assert all(len(set(owners[i : i + side**2])) == 1 for i in range(0, len(owners), side**2))


@pytest.mark.parametrize('hw', [(4, 4), (8, 12), (9, 7), (17, 23)])
def test_parts_hold_each_token_once(hw):
    parts = grid_parts(hw, (4, 2, 1), CPU)
    assert torch.equal(parts.index.flatten()[parts.slot], torch.arange(hw[0] * hw[1]))
    real = parts.index if parts.valid is None else parts.index[parts.valid]
    assert sorted(real.flatten().tolist()) == list(range(hw[0] * hw[1]))
    sizes = [parts.index.shape[1]] * 16 if parts.valid is None else parts.valid.sum(1).tolist()
    assert min(sizes) == parts.min_size >= 1


@pytest.mark.parametrize('hw', [(8, 12), (9, 7), (17, 23)])
def test_clusters_stay_in_their_part(hw):
    x = torch.randn(2, hw[0] * hw[1], 5, dtype=torch.float64)
    parts = grid_parts(hw, (4, 2, 1), CPU)
    found = cluster_by_parts(x, parts, hw[0] * hw[1] // 4)
    per_part = found.num_clusters // 16
    part_of_token = parts.slot // parts.index.shape[1]
    assert torch.equal(found.assign_idx // per_part, part_of_token.expand(2, -1))
    for assign, center in zip(found.assign_idx, found.center_idx):
        assert assign[center].tolist() == list(range(found.num_clusters))
    # each part is clustered as if it were alone
    for part in range(16):
        inside = (part_of_token == part).nonzero()[:, 0]
        inside = parts.index[part][: len(inside)]
        alone = cluster_dpc_knn(x[:, inside], per_part, min(5, parts.min_size))
        assert torch.equal(found.assign_idx[:, inside] - part * per_part, alone.assign_idx)


def test_one_part_is_global_clustering():
    x = torch.randn(2, 48, 5)
    found = cluster_by_parts(x, run_parts(48, 1, CPU), 12)
    assert torch.equal(found.assign_idx, cluster_dpc_knn(x, 12).assign_idx)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: cluster_dpc_knn(torch.zeros(1, 9, 2), 10), r'in \[1, 9\].* got 10'),
        (lambda: cluster_dpc_knn(torch.zeros(1, 9, 2), 0), r'in \[1, 9\].* got 0'),
        (lambda: cluster_dpc_knn(torch.zeros(1, 9, 2), 3, 0), 'num_neighbors .* got 0'),
        (lambda: cluster_dpc_knn(torch.zeros(9, 2), 3), r'x must have the shape \(B, N, C\)'),
        (lambda: grid_parts((3, 9), (4, 2, 1), CPU), r'at least 4x4, got 3x9'),
        (lambda: run_parts(10, 4, CPU), '10 part-major tokens do not split into 4'),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
