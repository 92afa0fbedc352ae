"""Deterministic property tests, on one thread: small networks are slower on several. Tests of threads set their own."""

from __future__ import annotations

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

# isort: split
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "casc", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("casc")
torch.set_num_threads(1)
