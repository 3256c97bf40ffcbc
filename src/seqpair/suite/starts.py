"""Finding what a member starts from: another member of the study, or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from seqpair.data.prepared import Prepared
from seqpair.hub.import_folder import read_hub_folder, require_fits, verify_import
from seqpair.recipe.plan import Plan
from seqpair.text import note
from seqpair.train.position import StartingPoint, starting_point_of


def start_finder(prepared: Prepared) -> Callable[[Plan], StartingPoint]:
    """Return how the start of a plan is found.

    The function raises `CheckpointError` for another member's run that is not there or not this plan's,
    and `HubFolderError` for a folder that does not fit, or whose logits are not reproduced.
    """

    def find(plan: Plan) -> StartingPoint:
        start = plan.start
        assert start is not None, "only a member with a start asks"
        if start.kind == "member":
            return starting_point_of(plan)
        imported = read_hub_folder(Path(str(start.path)))
        require_fits(plan, imported, prepared.tokenizer)
        proof = verify_import(imported)
        note(
            f"{plan.member}: {imported.folder} computes the same here (max |difference| {proof.max_abs_difference:.1e})"
        )
        for remark in imported.notes:
            note(f"{plan.member}: {remark}")
        return StartingPoint(place=str(imported.folder), model=imported.model)

    return find
