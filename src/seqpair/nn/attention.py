"""Attention behind one signature: the reference, and the choice among the kernels.

| kernel | device | memory | chosen by `auto` |
|---|---|---|---|
| reference | any | N^2 | where nothing else is (mps) |
| blocked | any, made for the CPU | N x window; longest^2 at a time in global layers | on the CPU |
| varlen | CUDA, bf16 or fp16, Ampere or newer | N | first on CUDA |
| flash | a GPU, bf16 or fp16, the flash-attn package | N | second on CUDA (ROCm) |
| flex | CUDA, any dtype, triton | N | third on CUDA (fp32) |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seqpair.errors import SeqpairError
from seqpair.nn.blocked import attend_blocked
from seqpair.nn.gpu_kernels import (
    attend_flash,
    attend_flex,
    attend_varlen,
    flash_is_usable,
    flex_is_usable,
    is_ampere_or_newer,
    varlen_is_usable,
)
from seqpair.nn.layout import Layout, Window

Kernel = Callable[[Tensor, Tensor, Tensor, Layout, Window], Tensor]


def attend_reference(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: Window) -> Tensor:
    """Attend by the definition: all N x N scores, masked; any device, O(N^2) memory. The oracle.

    softmax(q k^T / sqrt(K)) v over the keys of the same sequence within the window; softmax in fp32.
    """
    mask = layout.derive(("reference", window), lambda: layout.visible(window))  # (N, N)
    scores = torch.einsum("nhk,mhk->hnm", query, key).float() * query.shape[-1] ** -0.5
    weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1).to(value.dtype)
    return torch.einsum("hnm,mhk->nhk", weights, value)


KERNELS: dict[str, Kernel] = {
    "reference": attend_reference,
    "blocked": attend_blocked,
    "varlen": attend_varlen,
    "flash": attend_flash,
    "flex": attend_flex,
}
TRACEABLE_KERNELS = ("reference", "varlen")
"""What torch can compile together with the layers around it: the work is the same for every layout."""
_UNCOMPILED: dict[str, Kernel] = {}
_GPU_KERNELS = (("varlen", varlen_is_usable), ("flash", flash_is_usable), ("flex", flex_is_usable))


def prepare_compilation() -> None:
    """Tell torch's compiler how to take the kernels; called before anything that attends is compiled.

    It is no decorator of theirs, as that would import the compiler wherever a model is used: two seconds.
    """
    torch.compiler.assume_constant_result(is_ampere_or_newer)
    # The plan of work of these differs from layout to layout, so they run between two compiled graphs.
    _UNCOMPILED.update(
        {name: torch.compiler.disable(KERNELS[name]) for name in KERNELS if name not in TRACEABLE_KERNELS}
    )


def suited_kernel(query: Tensor) -> str:
    """Return the name of the kernel that `auto` stands for with such queries, (N, H, K)."""
    if query.device.type == "cpu":
        return "blocked"
    return next((name for name, is_usable in _GPU_KERNELS if is_usable(query)), "reference")


def kernel_is_usable(name: str, query: Tensor) -> bool:
    """Return whether a kernel can take such queries, (N, H, K); the reference and the blocked one take any."""
    return all(is_usable(query) for known, is_usable in _GPU_KERNELS if known == name)


def check_kernel(name: str) -> str:
    """Return the name of a kernel if it is one.

    Raises:
        SeqpairError: There is no kernel of this name.
    """
    if name != "auto" and name not in KERNELS:
        raise SeqpairError(
            "there is no attention kernel of this name",
            seen=repr(name),
            allowed=", ".join(["auto", *KERNELS]),
            fix="set runtime.kernel to one of these; auto suits the device",
        )
    return name


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: Window, kernel: str = "auto") -> Tensor:
    """Attend within each sequence and window.

    Args:
        query: (N, H, K), rotated.
        key: (N, H, K), rotated.
        value: (N, H, K).
        layout: The sequences' boundaries.
        window: (left, right) tokens visible, the token itself extra; a causal global layer has (None, 0).
        kernel: A kernel's name, or `auto`.

    Returns:
        (N, H, K).

    Raises:
        SeqpairError: There is no kernel of this name, or it cannot run on such queries.
    """
    chosen = suited_kernel(query) if kernel == "auto" else check_kernel(kernel)
    kernels = _UNCOMPILED if torch.compiler.is_compiling() and chosen not in TRACEABLE_KERNELS else KERNELS
    return kernels[chosen](query, key, value, layout, window)
