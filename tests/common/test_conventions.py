"""A class brings the names of other releases; files of those and of ours load alike."""

import pytest
import torch
from mmtoken.common.strict_load import StrictInitModule, load_state_dict_strict
from torch import nn


def first_release(keys):
    return {key: key.replace('linear.', 'fc.') for key in keys if key.startswith('linear.')}


def capitals(keys):
    return {key: key.lower() for key in keys if key != key.lower()}


class Model(StrictInitModule):
    conventions = (capitals, first_release)

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)


THEIRS = {'Linear.weight': torch.ones(3, 2), 'linear.bias': torch.ones(3)}


def test_names_of_another_release_are_converted_and_reported():
    model = Model()
    report = load_state_dict_strict(model, THEIRS)
    assert set(report.converted) == {'fc.weight', 'fc.bias'}
    assert str(report) == '2 converted'
    assert (model.fc.weight == 1).all()


def test_own_names_stay():
    assert not load_state_dict_strict(Model(), Model().state_dict()).converted


def test_hosts_that_load_a_whole_model_convert_as_well():
    """They call ``load_state_dict`` of the parent."""
    parent = nn.ModuleDict({'backbone': Model(), 'head': nn.Linear(1, 1)})
    state = {f'backbone.{key}': value for key, value in THEIRS.items()}
    parent.load_state_dict({**state, **parent.head.state_dict(prefix='head.')}, strict=True)
    assert (parent.backbone.fc.weight == 1).all()


def test_two_names_for_one_parameter_are_refused():
    state = {**Model().state_dict(), 'linear.bias': torch.ones(3)}
    for load in (Model().load_state_dict, lambda state: load_state_dict_strict(Model(), state)):
        with pytest.raises(ValueError, match=r"got 'fc.bias' and 'linear.bias' for 'fc.bias'"):
            load(state)
