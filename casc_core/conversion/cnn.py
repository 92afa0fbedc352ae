"""The adapter "cnn": convolutional networks, and any other without recurrence. All of its rules are the core's own."""

from __future__ import annotations

from torch import nn

from casc_core.activation import CQReLU, Quantised, Rounded
from casc_core.conversion.adapter import Adapter

_SEQUENCES = (nn.RNNBase, nn.RNNCellBase, nn.Embedding, nn.EmbeddingBag)


def _recognises(model: nn.Module) -> bool:
    modules = list(model.modules())
    # Another family's layers bring activations of their own.
    others = any(isinstance(module, Quantised) and not isinstance(module, (CQReLU, Rounded)) for module in modules)
    return not others and not any(isinstance(module, _SEQUENCES) for module in modules)


adapter = Adapter("cnn", _recognises, general=True)
