"""A model read as a graph."""

import pytest
import torch

from casc_core import Exact
from casc_core.conversion.passes import Reader
from casc_core.conversion.rules import RULES
from casc_core.conversion.tracing.trace import trace


@pytest.fixture
def read():
    """Reads a model: `read(model)`."""

    def graph_of(model):
        model = model.eval()
        with torch.no_grad():
            return Reader(model, RULES, Exact()).read(trace(model, RULES.is_leaf))

    return graph_of
