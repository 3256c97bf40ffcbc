"""The verb `verify`: is everything that a study left, or published, what its plans, stores and records say?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import JsonOption, MemberOption, SetOption
from seqpair.cli.table import print_table
from seqpair.errors import VerificationError

if TYPE_CHECKING:
    from seqpair.suite.verify import Verification

_MOST_NAMED = 10


def verify(
    place: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|FOLDER|OWNER/NAME",
            help="A study in any of its forms, a release, a revision, an export, a checkpoint, or a published member.",
        ),
    ],
    member: MemberOption = "",
    study: Annotated[
        str | None, typer.Option(help="Compare a release with the checkpoints of this study, bit for bit.")
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Of a published member, download the weights and compute the losses again.")
    ] = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check everything that a study left on disk, or a release, one of its revisions, an export or a checkpoint.

    Of a study, each step that a ledger records is read again from the stores, and its digest is compared. Files are
    compared with their SHA-256, a checkpoint with its run's plan, a result with its items and with the weights it was
    computed with. A member of the recipe that has no plan or no ledger is a fault.

    Of a release, all files are compared with their SHA-256, each revision with its parent and its plan, and the loss of
    each revision is computed again. Of a published member the Hub's listings and small files are compared, and with
    --deep the weights, too. The exit code is 3 if there is any fault.

    Example: seqpair verify demo

    Example: seqpair verify releases/demo --study demo

    Example: seqpair verify my-lab/demo-encoder --deep
    """
    found = _verification(place, member, study, overrides or [], deep=deep)
    if as_json:
        answer = {
            "checks": [asdict(check) for check in found.checks],
            "faults": len(found.faults),
            "ledgers": {name: asdict(proof) for name, proof in found.ledgers.items()},
            "same_sequences": [{"members": [a, b], "common_steps": steps} for a, b, steps in found.same_sequences],
            "readings": [{**asdict(one), "epochs": one.epochs, "allowed": one.allowed} for one in found.readings],
        }
        print(json.dumps(answer, indent=1))
    else:
        rows = [
            (check.member, check.part, check.subject, "FAULT" if check.fault else "ok", check.fault or check.found)
            for check in found.checks
        ]
        print_table(("member", "part", "checked", "", "found"), rows)
    _require_no_fault(found)


def _require_no_fault(found: Verification) -> None:
    if found.faults:
        named = [
            " ".join(filter(None, (check.member, check.part, check.subject))) + f": {check.fault}"
            for check in found.faults[:_MOST_NAMED]
        ]
        raise VerificationError(
            f"{len(found.faults)} of {len(found.checks)} checks found a fault",
            seen="\n    ".join(named),
            allowed="files as they were written",
            fix="put back good copies, or make again what is wrong; trust nothing that rests on it",
        )


def _verification(place: str, member: str, study: str | None, overrides: list[str], *, deep: bool) -> Verification:
    """Check a place, which is a study unless its folder is something else."""
    from seqpair.suite.places import find_study
    from seqpair.suite.verify import verify_study
    from seqpair.suite.verify_place import is_hub_name, verify_place, verify_published

    folder, members = Path(place).expanduser(), [member] if member else []
    against = None if study is None else find_study(study, overrides)
    if folder.is_dir() and (found := verify_place(folder, members, against)) is not None:
        return found
    if is_hub_name(place):
        return verify_published(place, deep=deep or against is not None, study=against)
    return verify_study(find_study(place, overrides), members)
