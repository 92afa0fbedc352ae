"""Deterministic property tests, and two threads at most."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "casc", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("casc")
torch.set_num_threads(min(2, torch.get_num_threads()))
