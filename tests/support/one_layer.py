"""Networks of one layer, to work by hand."""

from __future__ import annotations

import torch
from torch import nn

from casc_core import IF, Continuous, CQReLU


def perceptron(weight, bias, q=4, threshold=1.0, half=False):
    """One neuron for each row of `weight`, read out as they are."""
    outputs, inputs = len(weight), len(weight[0])
    model = nn.Sequential(nn.Linear(inputs, outputs), CQReLU(q, threshold, half_step=half), nn.Linear(outputs, outputs))
    model[0].weight.data, model[0].bias.data = torch.tensor(weight), torch.tensor(bias)
    model[2].weight.data, model[2].bias.data = torch.eye(outputs), torch.zeros(outputs)
    return model


IF_METHOD = {"neuron": IF(), "schedule": Continuous()}
