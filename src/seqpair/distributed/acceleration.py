"""Optional ways to train faster or in less memory: compiling by torch, float8 products by torchao, recomputing layers.

Float8 works in a copy of a module that shares its parameters, so parameters, checkpoints and losses outside of
training know nothing of it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import importlib.util
import logging
import shutil
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from seqpair.errors import SeqpairError, install_extra
from seqpair.nn.attention import prepare_compilation
from seqpair.text import note

_MOST_GRAPHS = 64
"""Of one piece of code; torch's own limit is 8, beyond which it goes on without compiling."""


def should_compile(mode: str, device: torch.device) -> bool:
    """Return whether the model is compiled.

    Args:
        mode: `off`; `on`; or `auto`, which is on for CUDA with triton; not on a CPU (docs/speed.md).
        device: Where the model is.

    Raises:
        SeqpairError: It is to be, but the device's code generator is missing.
    """
    missing = _missing_generator(device)
    if mode == "on" and missing is not None:
        raise SeqpairError(
            "the model cannot be compiled here",
            seen=f"runtime.compile: on, {device.type} without {missing}",
            allowed="CUDA with triton, or a CPU with a C++ compiler",
            fix=f"install {missing}, or set runtime.compile to auto",
        )
    return mode == "on" or (mode == "auto" and device.type == "cuda" and missing is None)


def compile_words(device: torch.device) -> str:
    """Return what `runtime.compile: auto` does on a device, and why."""
    missing = _missing_generator(device)
    if missing is not None:
        return f"not compiled; it would need {missing}"
    return "compiled, in microbatches of one shape" if should_compile("auto", device) else "not compiled unless told to"


def _missing_generator(device: torch.device) -> str | None:
    """Return what torch would need to generate code for a device and does not find."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") is not None else "triton"
    if device.type == "cpu":
        return None if any(shutil.which(name) for name in ("g++", "clang++", "cl")) else "a C++ compiler"
    return "a code generator of torch for it"


class CountedCompile:
    """A function of tensors, compiled for the shapes it is called with and for no range of them.

    Args:
        function: What is compiled.
        whole: Whether it has to be one graph; else it may be cut where torch cannot trace it.
        backend: The name of torch's backend.
        layers: Compile the forward passes of these modules, which the function calls, instead of the function itself:
            for modules whose parameters are gathered before each call, which no graph can contain.

    Attributes:
        graphs: How many graphs were compiled.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        *,
        whole: bool,
        backend: str = "inductor",
        layers: Sequence[nn.Module] = (),
    ) -> None:
        import torch._dynamo.backends.registry  # costs a second, so only where something is compiled

        prepare_compilation()
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
        self.graphs = 0
        self._seen: set[Hashable] = set()
        self._compile = torch._dynamo.backends.registry.lookup_backend(backend)

        def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return torch.compile(function, backend=self._counted, fullgraph=whole, dynamic=False)

        self._run = function if layers else compiled(function)
        for layer in layers:
            layer.forward = compiled(layer.forward)  # not the call, whose hooks gather the parameters

    def _counted(self, graph: Any, inputs: Any, **options: Any) -> Any:
        self.graphs += 1
        return self._compile(graph, inputs, **options)

    def __call__(self, shape: Hashable, about: str, *given: Any) -> Tensor:
        """Call the function.

        Args:
            shape: What a compilation is expected for, once.
            about: What else could differ, for the note about a compilation that was not expected.
            *given: The function's arguments.
        """
        before = self.graphs
        out = self._run(*given)
        if self.graphs > before and shape in self._seen:
            note(f"compiled again, {self.graphs - before} more graphs, {self.graphs} in all: {about}")
        self._seen.add(shape)
        return out


def recompute_layers(layers: Sequence[nn.Module], which: str | int) -> int:
    """Let layers keep their inputs only and run once more in the backward pass; return how many do.

    What an attention kernel of CUDA returned is kept too: it costs more to make than to keep.

    Args:
        layers: All layers, in order; their names and parameters stay.
        which: `none`, `all`, or how many of the first ones.
    """
    count = {"none": 0, "all": len(layers)}.get(str(which), which)
    chosen = layers[: int(count)]
    for layer in chosen:
        layer.forward = _Recomputed(layer.forward)
    return len(chosen)


class _Recomputed:
    """A forward pass that is made again in the backward pass, where there is one."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward

    def __call__(self, *given: Any, **named: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return self._forward(*given, **named)
        options: dict[str, Any] = {}
        kept = _attention_operators() if given[0].device.type == "cuda" else []
        if kept:
            options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, kept)
        out: Tensor = checkpoint(self._forward, *given, use_reentrant=False, **options, **named)
        return out


def _attention_operators() -> list[Any]:
    """Return the operators of attention on CUDA, as far as this torch has them loaded."""
    names = {
        "torch_attn": ("_varlen_attn",),
        "aten": ("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
    }
    found = [getattr(getattr(torch.ops, space), name, None) for space, own in names.items() for name in own]
    return [packet.default for packet in found if packet is not None]


_LEAST_CAPABILITY = (8, 9)
_MULTIPLE = 16
"""Of which both sizes of a matrix must be multiples: what the GPU's float8 products take."""
_GPU_WORDS = "an NVIDIA GPU of compute capability 8.9 (Ada, Hopper or newer)"
_INSTALL = install_extra("float8")


@dataclass(frozen=True)
class Float8Copy:
    """A module whose products are in float8 for training.

    Attributes:
        module: Its parameters are those of the module it was made from, the same objects under the same names.
        converted: The names of the layers whose products are in float8.
        odd: The names of the layers that were chosen, but have a size that is no multiple of 16.
    """

    module: nn.Module
    converted: tuple[str, ...]
    odd: tuple[str, ...]


def float8_words(device: torch.device) -> str:
    """Return whether training in float8 is possible on a device, and what is missing."""
    missing = [] if _can_multiply(device) else [f"{_GPU_WORDS}; this is {_device_words(device)}"]
    if importlib.util.find_spec("torchao") is None:
        missing.append(f"the package torchao ({_INSTALL})")
    if missing:
        return "not possible here; it would need " + ", and ".join(missing)
    return "possible (runtime.float8: tensorwise or rowwise), off unless told; meant for the large sizes"


def should_fuse_loss(kind: str, device: torch.device) -> bool:
    """Return whether the loss runs in Triton kernels.

    Args:
        kind: `torch` or `triton`.
        device: Where the model is.

    Raises:
        SeqpairError: It is to run in them and cannot on this device.
    """
    missing = "CUDA" if device.type != "cuda" else _missing_generator(device)
    if kind == "triton" and missing is not None:
        raise SeqpairError(
            "the loss cannot run in Triton kernels here",
            seen=f"runtime.loss: triton, {device.type} without {missing}",
            allowed="CUDA with triton",
            fix="set runtime.loss to torch",
        )
    return kind == "triton"


def require_float8(scaling: str, device: torch.device, *, emulate: bool = False) -> None:
    """Check that training in float8 is possible.

    Args:
        scaling: `tensorwise` or `rowwise`.
        device: Where the model is.
        emulate: Round to float8 and multiply in ordinary numbers, which any device can: for tests, slow.

    Raises:
        SeqpairError: The device has no float8 products, or torchao is not installed.
    """
    if not emulate and not _can_multiply(device):
        raise SeqpairError(
            "this device has no matrix products in float8",
            seen=f"runtime.float8: {scaling}, on {_device_words(device)}",
            allowed=_GPU_WORDS,
            fix="set runtime.float8 to off, or train where there is one; `seqpair doctor` says what is here",
        )
    if importlib.util.find_spec("torchao") is None:
        raise SeqpairError(
            "training in float8 needs the package torchao",
            seen=f"runtime.float8: {scaling}, torchao is not installed",
            fix=f"{_INSTALL}, or set runtime.float8 to off",
        )


def float8_copy(module: nn.Module, chosen: Callable[[str], bool], scaling: str, *, emulate: bool) -> Float8Copy:
    """Return a copy of a module, with the same parameters, that multiplies in float8.

    Args:
        module: On its device; it is left as it is.
        chosen: Whether the linear layer of this name is to be converted if its sizes allow it.
        scaling: `tensorwise`: one scale for a whole tensor, found anew in every product; or `rowwise`: one for every
            row, so that no token's rounding depends on another's.
        emulate: As in `require_float8`.

    Raises:
        SeqpairError: torchao cannot be imported, or no layer can be converted.
    """
    library = _torchao()
    shared = {id(parameter): parameter for parameter in module.parameters()}
    copied = copy.deepcopy(module, shared)  # a parameter that is there already is not copied
    linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and chosen(name)}
    odd = tuple(name for name, layer in linear.items() if any(size % _MULTIPLE for size in layer.weight.shape))
    converted = tuple(name for name in linear if name not in odd)
    if not converted:
        raise SeqpairError(
            "no layer can be trained in float8",
            seen=f"runtime.float8: {scaling}; " + ", ".join(f"{name} {_sizes(linear[name])}" for name in odd[:4]),
            allowed=f"matrices whose sizes are multiples of {_MULTIPLE}",
            fix=f"set runtime.float8 to off, or make the width and the inner width multiples of {_MULTIPLE}",
        )
    config = dataclasses.replace(library.Float8LinearConfig.from_recipe_name(scaling), emulate=emulate)
    library.convert_to_float8_training(copied, module_filter_fn=lambda _, name: name in converted, config=config)
    return Float8Copy(copied, converted, odd)


def _sizes(layer: nn.Module) -> str:
    return " x ".join(str(size) for size in layer.weight.shape)


def _torchao() -> Any:
    """Import torchao's float8 training.

    It complains about each of its own compiled files that does not suit this Python or machine. Those are for other
    things: the products here are torch's own. So only errors of it are shown.
    """
    logging.getLogger("torchao").setLevel(logging.ERROR)
    try:
        return importlib.import_module("torchao.float8")
    except (ImportError, AttributeError) as error:  # a torchao of another torch fails in either way
        raise SeqpairError(
            f"torchao cannot be used with torch {torch.__version__}",
            seen=f"{type(error).__name__}: {error}".splitlines()[0],
            fix=f"{_INSTALL}, or set runtime.float8 to off",
        ) from error


def _can_multiply(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY


def _device_words(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    name = torch.cuda.get_device_name(device)
    if torch.version.hip is not None:
        return f"{name}, by ROCm"
    major, minor = torch.cuda.get_device_capability(device)
    return f"{name}, compute capability {major}.{minor}"
