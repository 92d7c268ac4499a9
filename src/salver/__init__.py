"""Salver: from a trained model to a production service.

``salver.Client`` and ``salver.AsyncClient`` are loaded when first used, so that importing the
package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from salver.client.aio import AsyncClient
    from salver.client.sync import Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]

_LAZY = {"AsyncClient": "salver.client.aio", "Client": "salver.client.sync"}


def __getattr__(name: str) -> object:
    """Load one of the public classes on first use."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'salver' has no attribute {name!r}")
    return getattr(import_module(module), name)
