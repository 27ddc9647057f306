import pytest
from mmengine.optim import build_optim_wrapper
from mmtoken import PaCaViT
from paca_vit.smallest import CLUSTERS, TEACHER, TINY
from torch import nn


class Head(nn.Module):
    """A head that declares its role, as PaCaHead does."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)

    def parameter_roles(self):
        return {'head': ('',)}


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.decode_head = Head()


ROLES = dict(head=dict(lr_mult=10.0), final_clustering=dict(lr_mult=10.0))


def settings(model, roles, **paramwise):
    """Name of a parameter to its learning rate and weight decay."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='RoleOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5),
            paramwise_cfg=dict(roles=roles, **paramwise),
        ),
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    assert len(found) == len(names)
    return found


@pytest.mark.parametrize(
    ('backbone', 'final'),
    [
        (lambda: PaCaViT(TINY, 'conv', CLUSTERS), 'clustering.4.'),
        (lambda: PaCaViT(TINY, 'mlp', CLUSTERS), 'clustering.2.'),
        (lambda: PaCaViT(TINY, 'linear', CLUSTERS), 'clustering.0.'),
        (lambda: PaCaViT(TEACHER, 'teacher', (4, 4, 4, 4)), 'to_clusters'),
    ],
    ids=['conv', 'mlp', 'linear', 'teacher'],
)
def test_ten_times_by_role(backbone, final):
    found = settings(Model(backbone()), ROLES, norm_decay_mult=0.0)
    fast = {name for name, (lr, _) in found.items() if lr == 10.0}
    assert fast == {name for name in found if final in name or name.startswith('decode_head')}
    assert {lr for lr, _ in found.values()} == {1.0, 10.0}
    # the other rules stay in force, within a role too
    assert found['decode_head.norm.weight'] == (10.0, 0.0)
    assert found['decode_head.fc.weight'] == (10.0, 0.5)
    assert found['backbone.norm1.weight'] == (1.0, 0.0)


def test_without_roles_it_is_the_default_constructor():
    model = Model(PaCaViT(TINY, 'conv', CLUSTERS))
    assert set(settings(model, {}, norm_decay_mult=0.0).values()) == {(1.0, 0.5), (1.0, 0.0)}


def test_published_names_give_the_same_for_conv():
    model = Model(PaCaViT(TINY, 'conv', CLUSTERS))
    names = {'head': dict(lr_mult=10.0), 'clustering.4': dict(lr_mult=10.0)}
    by_name = settings(model, {}, custom_keys=names)
    by_role = settings(model, ROLES)
    assert {k: lr for k, (lr, _) in by_name.items()} == {k: lr for k, (lr, _) in by_role.items()}


def test_factors_multiply():
    found = settings(
        Model(PaCaViT(TINY, 'conv', CLUSTERS)),
        dict(head=dict(lr_mult=10.0, decay_mult=0.0)),
        custom_keys={'decode_head.fc': dict(lr_mult=0.5)},
    )
    assert found['decode_head.fc.weight'] == (5.0, 0.0)


def test_unknown_role_and_factor():
    model = Model(PaCaViT(TINY, 'conv', CLUSTERS))
    with pytest.raises(ValueError, match=r"got 'heads'; Model has \['final_clustering', 'head'\]"):
        settings(model, dict(heads=dict(lr_mult=10.0)))
    with pytest.raises(ValueError, match=r"got \['lr_mul'\] for 'head'"):
        settings(model, dict(head=dict(lr_mul=10.0)))


@pytest.mark.parametrize('value', [None, 'text', 3, [1], {'head': None}, {'head': 0.1}])
def test_roles_of_another_type(value):
    with pytest.raises(ValueError, match='paramwise_cfg.roles must be'):
        settings(Model(PaCaViT(TINY, 'conv', CLUSTERS)), value)


@pytest.mark.parametrize('value', [None, 'text', float('nan'), float('inf'), -1, True, ()])
@pytest.mark.parametrize('name', ['lr_mult', 'decay_mult'])
def test_factors_of_another_type(name, value):
    with pytest.raises(ValueError, match=f"{name} of role 'head' must be a number in"):
        settings(Model(PaCaViT(TINY, 'conv', CLUSTERS)), dict(head={name: value}))
