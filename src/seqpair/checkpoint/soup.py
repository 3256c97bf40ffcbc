"""Soups: averages of checkpoints of one member, with the one that it started from mixed in if asked for.

A soup is read like a checkpoint with `load_checkpoint(..., model_only=True)`; its manifest is that of its newest
part, with the parts, their weights and the digests of their models. It has no optimiser, so no run resumes from it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import seqpair
from seqpair.checkpoint.catalog import CheckpointEntry, find_checkpoint, require_space, scan
from seqpair.checkpoint.lock import lock_run
from seqpair.checkpoint.manifest import MODEL_NAME, CheckpointFields, CheckpointManifest, Soup, SoupPart, soup_folder
from seqpair.checkpoint.store import load_checkpoint, write_whole, written_bytes
from seqpair.errors import CheckpointError
from seqpair.files import clear_partial
from seqpair.text import Progress

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


@dataclass(frozen=True)
class Weighting:
    """How much each checkpoint counts.

    Attributes:
        ratio: The weight of a checkpoint in proportion to that of the next newer one, 0 < ratio <= 1; 1 is uniform.
    """

    ratio: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Weighting:
        """Read `uniform` or `exponential:0.5`.

        Raises:
            CheckpointError: It is neither, or the ratio is not between 0 and 1.
        """
        kind, _, ratio = text.partition(":")
        if text == "uniform":
            return cls()
        try:
            given = float(ratio) if kind == "exponential" else 0.0
        except ValueError:
            given = 0.0
        if not 0 < given < 1:
            raise CheckpointError(
                "these weights are not known",
                seen=repr(text),
                allowed="uniform, or exponential:R with 0 < R < 1: each checkpoint weighs R times the next newer one",
                fix="for example --weights exponential:0.5",
            )
        return cls(given)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return "uniform" if self.ratio == 1 else f"exponential:{self.ratio!r}"

    def weights(self, count: int) -> list[float]:
        """Return the weights of `count` checkpoints, oldest first; they sum to 1.

        w_i = ratio^(count - 1 - i) / sum over j of ratio^j.

        Source: uniform as in model soups (arXiv 2203.05482) and LAWA (arXiv 2209.14981), along one trajectory.
        """
        raw = [self.ratio ** (count - 1 - index) for index in range(count)]
        return [value / sum(raw) for value in raw]


def choose_parts(run_folder: Path, names: Sequence[str] = (), last: int | None = None) -> list[CheckpointEntry]:
    """Return the checkpoints to average, oldest first: those named, or the newest `last`.

    Raises:
        CheckpointError: Neither or both were said, a name comes twice or is not there, there are fewer than
            `last`, or a manifest cannot be read.
    """
    if bool(names) == (last is not None):
        raise CheckpointError(
            "a soup is made of checkpoints that are named, or of the newest ones",
            seen="both" if names else "neither",
            allowed="one of --checkpoints and --last",
            fix="add --checkpoints step100,step200 or --last 3",
        )
    if last is None:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise CheckpointError(
                "a checkpoint goes into a soup once", seen=", ".join(twice), fix="name it once; --weights sets weights"
            )
        found = [find_checkpoint(run_folder, name) for name in names]
        return sorted(found, key=lambda entry: entry.manifest.total_steps)
    catalog = scan(run_folder)
    for fault in catalog.faults:
        raise fault
    if not 1 <= last <= len(catalog.entries):
        raise CheckpointError(
            f"the run {run_folder} cannot give that many checkpoints",
            seen=last,
            allowed=f"1 to {len(catalog.entries)}" if catalog.entries else "none was made yet",
            fix="ask for fewer, or train on; `keep` in the recipe says how many stay",
        )
    return list(catalog.entries[-last:])


def make_soup(
    run_folder: Path,
    parts: Sequence[CheckpointEntry],
    weighting: Weighting,
    name: str,
    start: tuple[CheckpointEntry, float] | None = None,
) -> Path:
    """Average checkpoints into `<run>/soups/<name>`: summed in float64, cast back to each tensor's own type.

    The result counts only once it was re-opened and found to hold what was written, as for a checkpoint.
    The run may be training meanwhile.

    Args:
        run_folder: The run that the parts belong to.
        parts: The checkpoints.
        weighting: Their weights; age is by steps done, in whatever order they come here.
        name: The soup's name.
        start: The checkpoint of another member that this one started from, and its share of the average; the parts then
            share the rest. The average is read by the objective of the newest part.

    Returns:
        The soup's folder.

    Raises:
        CheckpointError: The name cannot be used or is taken, a part is damaged, or the parts are not of one
            member, plan, tokenizer, objective, RoPE base and shape.
        DiskFullError: The disk cannot hold it.
        RunLockedError: Another soup of this run is being made.
    """
    final = soup_folder(run_folder, name)
    _require_free(final, name)
    # Oldest first, so that weights by age and the order of the sum do not depend on how the parts were named.
    ordered = sorted(parts, key=lambda entry: entry.manifest.total_steps)
    weights, said = weighting.weights(len(ordered)), str(weighting)
    _require_one_origin(ordered)
    if start is not None:
        _require_geometry(start[0], ordered[-1])
        said += f" (start: {start[1]:g})"
        ordered, weights = [start[0], *ordered], [start[1], *(weight * (1 - start[1]) for weight in weights)]
    with lock_run(final.parent):
        # Under the lock nobody writes here, so a temporary folder is what a killed process left.
        clear_partial(final.parent)
        model = _average(ordered, weights, name)
        require_space(final.parent, written_bytes(model), "the soup")
        write_whole(final, _fields(ordered, weights, said), name, {MODEL_NAME: model}, None)
    return final


def _require_free(final: Path, name: str) -> None:
    if not _NAME.match(name):
        raise CheckpointError(
            "this name cannot be a soup's folder",
            seen=repr(name),
            allowed="letters, digits, '.', '_' and '-', a letter or digit first",
            fix="for example --out last3",
        )
    if final.exists():
        raise CheckpointError(
            "there is already a soup of this name",
            seen=final,
            allowed="a new name",
            fix="choose another name, or remove that folder first",
        )


def _require_one_origin(parts: Sequence[CheckpointEntry]) -> None:
    """Refuse parts whose average would not be a model of one plan."""
    if not parts:
        raise CheckpointError("a soup needs a checkpoint", seen="none", fix="name some with --checkpoints, or --last N")
    newest = parts[-1]
    wanted = _origin(newest.manifest)
    for part in parts:
        for what, value in _origin(part.manifest).items():
            if value != wanted[what]:
                raise CheckpointError(
                    f"checkpoints that differ in their {what} cannot be averaged",
                    seen=f"{value} in {part.name}",
                    allowed=f"{wanted[what]}, as in {newest.name}",
                    fix="name checkpoints of one member and run, and of phases that agree in this",
                )


def _require_geometry(start: CheckpointEntry, newest: CheckpointEntry) -> None:
    """Refuse a start whose weights mean something else; its objective may be another, as a converted member's is."""
    seen, wanted = _origin(start.manifest), _origin(newest.manifest)
    for what in ("tokenizer", "RoPE bases"):
        if seen[what] != wanted[what]:
            raise CheckpointError(
                f"a member and its start that differ in their {what} cannot be averaged",
                seen=f"{seen[what]} in {start.manifest.member}@{start.name}",
                allowed=f"{wanted[what]}, as in {newest.name}",
                fix="merge members whose phases agree in this",
            )


def _origin(manifest: CheckpointManifest) -> dict[str, str]:
    phase = manifest.plan.phase(manifest.phase)
    trained = max(0, manifest.phase_step - 1)
    # The objective counts, not the phase: an average over a switch of objective is no model of either.
    last = max((span for span in phase.objectives if span.first_step <= trained), key=lambda span: span.first_step)
    return {
        "member": f"{manifest.study}/{manifest.member}",
        "plan": manifest.plan_digest[:16],
        "tokenizer": manifest.tokenizer_digest[:16],
        "RoPE bases": f"{phase.rope_global_theta:g} global, {phase.rope_local_theta:g} local",
        "objective": last.objective,
    }


def _average(parts: Sequence[CheckpointEntry], weights: Sequence[float], name: str) -> dict[str, Tensor]:
    """Return the weighted mean of the parts' models, each read once and held alone beside the sum."""
    sums: dict[str, Tensor] = {}
    forms: dict[str, str] = {}
    kinds: dict[str, torch.dtype] = {}
    progress = Progress(f"soup {name}", len(parts), "checkpoints")
    for done, (part, weight) in enumerate(zip(parts, weights, strict=True), 1):
        model = load_checkpoint(part.path, model_only=True).model
        seen = {key: f"{tuple(tensor.shape)} {tensor.dtype}" for key, tensor in model.items()}
        forms, kinds = forms or seen, kinds or {key: tensor.dtype for key, tensor in model.items()}
        _require_same_forms(part, seen, forms)
        for key, tensor in model.items():
            _require_averageable(part, key, tensor)
            # In float64 the sum of some fp32 weights loses nothing that the cast back to fp32 would keep.
            added = tensor.to(torch.float64).mul_(weight)
            sums[key] = sums[key].add_(added) if key in sums else added
        progress.update(done)
    progress.finish()
    return {key: total.to(kinds[key]) for key, total in sums.items()}


def _require_same_forms(part: CheckpointEntry, seen: dict[str, str], expected: dict[str, str]) -> None:
    for key in sorted({*seen, *expected}):
        if seen.get(key) != expected.get(key):
            raise CheckpointError(
                "checkpoints of different shapes cannot be averaged",
                seen=f"{key} {seen.get(key, 'is not there')} in {part.name}",
                allowed=f"{key} {expected.get(key, 'is not there')}, as in the parts before",
                fix="name checkpoints of one run",
            )


def _require_averageable(part: CheckpointEntry, key: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{key} in {part.name} cannot be averaged", seen=tensor.dtype, allowed="a floating-point tensor"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"{key} in {part.name} is not finite",
            seen="NaN or infinity",
            allowed="finite weights",
            fix="leave this checkpoint out",
        )


def _fields(parts: Sequence[CheckpointEntry], weights: Sequence[float], said: str) -> CheckpointFields:
    newest = parts[-1].manifest
    # All fields but two are the newest part's, so a soup is exported and evaluated like that checkpoint.
    known = {field: getattr(newest, field) for field in CheckpointFields.model_fields}
    soup = Soup(
        weighting=said,
        parts=tuple(
            SoupPart(
                name=part.name if part.manifest.member == newest.member else f"{part.manifest.member}@{part.name}",
                total_steps=part.manifest.total_steps,
                content_tokens=part.manifest.content_tokens,
                weight=weight,
                model_sha256=part.manifest.files[MODEL_NAME].sha256,
            )
            for part, weight in zip(parts, weights, strict=True)
        ),
    )
    versions = {"seqpair": seqpair.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return CheckpointFields(**{**known, "versions": versions, "soup": soup})
