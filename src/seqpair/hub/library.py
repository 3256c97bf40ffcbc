"""The optional library `transformers`, asked for only where it is used."""

from __future__ import annotations

import importlib
from types import ModuleType

from seqpair.errors import SeqpairError, install_extra

SUPPORTED_MAJOR = 5


def require_transformers(fault: type[SeqpairError], purpose: str) -> ModuleType:
    """Return the module `transformers`, quiet and of a supported version.

    Args:
        fault: The error to raise if it cannot be used.
        purpose: What it is needed for, as in "exporting".

    Raises:
        SeqpairError: It is not installed, or of another major version.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise fault(
            f"{purpose} needs the library transformers, which is not installed",
            fix=install_extra("hub"),
        ) from error
    major = int(transformers.__version__.split(".")[0])
    if major != SUPPORTED_MAJOR:
        raise fault(
            f"{purpose} needs another version of transformers",
            seen=transformers.__version__,
            allowed=f">={SUPPORTED_MAJOR}.0,<{SUPPORTED_MAJOR + 1}",
            fix=install_extra("hub"),
        )
    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    return transformers
