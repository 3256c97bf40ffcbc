"""Train pairs of language models, an encoder and a decoder, that differ in nothing but the objective.

The names below are the public API (their types are in `__init__.pyi`). They are loaded on first use: importing the
package takes milliseconds and no torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0.dev0"
__all__ = [
    "Comparisons",
    "Evaluation",
    "Model",
    "SeqpairError",
    "Study",
    "__version__",
    "compare_members",
    "evaluate_models",
    "load",
    "probe",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'seqpair' has no attribute {name!r}")
    errors = importlib.import_module("seqpair.errors")
    if name != "SeqpairError":
        errors.require_system()  # before the imports that only some systems have
    home = errors if name == "SeqpairError" else importlib.import_module("seqpair.api")
    found: object = getattr(home, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
