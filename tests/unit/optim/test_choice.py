import pytest
import torch
from torch import nn

from seqpair.optim.choice import parameter_groups


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.norm = nn.LayerNorm(4)
        self.dense = nn.Linear(4, 4)
        self.square = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(2, 2))})
        self.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)
        self.output = nn.Linear(4, 11)
        self.output.weight = self.table.weight


def names(groups, decay):
    return {name for group in groups if group["weight_decay"] == decay for name, _ in group["params"]}


def test_only_matrices_that_are_no_bias_decay_and_the_tied_table_does_once() -> None:
    groups = parameter_groups(Tied(), 0.1)
    assert names(groups, 0.1) == {"table.weight", "dense.weight"}
    assert names(groups, 0.0) == {"norm.weight", "norm.bias", "dense.bias", "square.bias", "output.bias"}


def test_every_trainable_parameter_is_there_once() -> None:
    model = Tied()
    given = [id(parameter) for group in parameter_groups(model, 0.1) for _, parameter in group["params"]]
    assert sorted(given) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("bias", "groups"), [(False, 1), (True, 2)])
def test_an_empty_group_is_left_out(bias: bool, groups: int) -> None:
    assert len(parameter_groups(nn.Linear(3, 3, bias=bias), 0.1)) == groups
