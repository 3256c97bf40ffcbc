"""Finding what a member starts from: another member of the study, or any other model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from seqpair.checkpoint.catalog import latest_valid
from seqpair.checkpoint.store import load_checkpoint
from seqpair.data.prepared import Prepared
from seqpair.errors import HubFolderError
from seqpair.hub.export import checkpoint_tokenizer
from seqpair.hub.import_folder import ImportedModel, read_hub_folder, require_fits, verify_import
from seqpair.models.place import ModelPlace, find_model
from seqpair.nn.rope import RopeBases
from seqpair.paths import run_folder
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import Plan
from seqpair.text import note
from seqpair.train.position import StartingPoint, starting_point_of


def start_finder(prepared: Prepared, plans: Iterable[Plan] = ()) -> Callable[[Plan], StartingPoint]:
    """Return how the start of a plan is found.

    The function raises `CheckpointError` for another member's run that is not there or not this plan's, and
    `HubFolderError` or `EvaluationError` for another model that does not fit, or whose outputs are not reproduced.

    Args:
        prepared: The study's tokenizer and stores.
        plans: Check the models that these start from now, before any of them trains; a run with a checkpoint of its own
            needs its start no more.
    """
    proven: set[tuple[str, int]] = set()

    def imported_for(plan: Plan) -> ImportedModel:
        start = plan.start
        assert start is not None, "only a member with a start asks"
        place = find_model(str(start.path))
        imported = read_start(place, start.window_tokens)
        require_fits(plan, imported, prepared.tokenizer)
        key = (imported.digest, imported.model_plan.window_tokens)
        if key not in proven:
            _prove(plan.member, place, imported)
            proven.add(key)
        return imported

    def find(plan: Plan) -> StartingPoint:
        assert plan.start is not None, "only a member with a start asks"
        if plan.start.kind == "member":
            return starting_point_of(plan)
        imported = imported_for(plan)
        return StartingPoint(place=str(plan.start.path), model=imported.model, drawn=imported.headless)

    for plan in plans:
        if plan.start is not None and plan.start.kind == "folder" and latest_valid(run_folder(plan)) is None:
            imported_for(plan)
    return find


def read_start(place: ModelPlace, window_tokens: int | None = None) -> ImportedModel:
    """Read the weights, the plan and the tokenizer of a model in any of its forms.

    Args:
        place: The model.
        window_tokens: The window that it was trained with, where its Hugging Face class computes another one.

    Raises:
        HubFolderError: The model cannot be expressed here, or a checkpoint was trained with another window.
        CheckpointError: The checkpoint cannot be used.
    """
    if not place.as_class:
        return read_hub_folder(place.folder, window_tokens)
    loaded = load_checkpoint(place.folder, model_only=True)
    plan, phase = loaded.manifest.plan, loaded.manifest.plan.phase(loaded.manifest.phase)
    if window_tokens not in (None, plan.model.window_tokens):
        raise HubFolderError(
            f"the checkpoint {place.folder} was trained with another window",
            seen=f"window_tokens {window_tokens}",
            allowed=plan.model.window_tokens,
            fix="leave window_tokens out: a checkpoint's plan has it",
        )
    return ImportedModel(
        folder=place.folder,
        hub_class=OBJECTIVES[place.as_class].hub_class,
        model_plan=plan.model,
        rope=RopeBases(phase.rope_global_theta, phase.rope_local_theta),
        direction=place.direction,
        predicts=OBJECTIVES[place.as_class].predicts,
        seq_len=phase.seq_len,
        model=loaded.model,
        tokenizer=checkpoint_tokenizer(place.folder, loaded.manifest),
        digest=place.model_digest,
        notes=(),
    )


def _prove(member: str, place: ModelPlace, imported: ImportedModel) -> None:
    """Compare a folder with what transformers computes from it, and print what a reader should know of it."""
    if place.as_class:
        note(f"{member}: {place.name} is the checkpoint {place.folder.name}, read as it is")
    else:
        proof = verify_import(imported)
        note(f"{member}: {place.name} computes the same here (max |difference| {proof.max_abs_difference:.1e})")
    if imported.headless:
        note(f"{member}: {place.name} lacks the language-model head, drawn by the seed: {', '.join(imported.headless)}")
    for remark in imported.notes:
        note(f"{member}: {remark}")
