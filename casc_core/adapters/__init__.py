"""Adapters: what a family of models adds to the core, found by name.

A package offers one through the entry point group `casc.adapters`; `casc_core` never imports a family itself.
"""

from casc_core.adapters.registry import Adapter, adapter_named, adapter_names, choose_adapter

__all__ = ["Adapter", "adapter_named", "adapter_names", "choose_adapter"]
