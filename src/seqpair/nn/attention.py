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
_BETWEEN_GRAPHS: list[Callable[..., Tensor]] = []  # one function, from `prepare_compilation` on
_GPU_KERNELS = (("varlen", varlen_is_usable), ("flash", flash_is_usable), ("flex", flex_is_usable))


def prepare_compilation() -> None:
    """Tell torch's compiler how to take the kernels; called before anything that attends is compiled.

    It is no decorator of theirs, as that would import the compiler wherever a model is used: two seconds.
    """
    torch.compiler.assume_constant_result(is_ampere_or_newer)
    # What a kernel that cannot be traced plans differs from layout to layout, so it runs between two compiled graphs.
    _BETWEEN_GRAPHS[:] = [torch.compiler.disable(_attend_by)]


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
        window: (left, right) tokens visible, the token itself extra; a causal global layer has (None, 0). Where the
            layout has prefixes, tokens to the right are visible only within them.
        kernel: A kernel's name, or `auto`.

    Returns:
        (N, H, K).

    Raises:
        SeqpairError: There is no kernel of this name, or it cannot run on such queries.
    """
    chosen = suited_kernel(query) if kernel == "auto" else check_kernel(kernel)
    compiling = torch.compiler.is_compiling()
    between = compiling and (chosen not in TRACEABLE_KERNELS or layout.prefixes is not None)
    return (_BETWEEN_GRAPHS[0] if between else _attend_by)(chosen, query, key, value, layout, window)


def _attend_by(name: str, query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: Window) -> Tensor:
    """Run a kernel, twice where the layout has prefixes: only the reference takes a mask that is no window.

    What stands after a prefix is causal over the whole sequence, and a prefix sees nothing but itself: so the second
    result overwrites the first at the prefixes. Of a sequence with a cut drawn uniformly this costs 5/6 of what
    attention in both directions does, and no kernel needs to know of prefixes.
    """
    kernel = KERNELS[name]
    if layout.prefixes is None or name == "reference":
        return kernel(query, key, value, layout, window)
    whole, heads, places = layout.derive("prefix parts", layout.prefix_parts)
    causal = kernel(query, key, value, whole, (window[0], 0))
    both = kernel(*(states.index_select(0, places) for states in (query, key, value)), heads, window)
    return causal.index_copy(0, places, both)
