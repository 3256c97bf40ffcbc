"""The verb `verify`: is everything that a study left on disk what its plans, stores and records say?"""

from __future__ import annotations

import json
from dataclasses import asdict

from seqpair.cli.options import JsonOption, MemberOption, SetOption, StudyArgument
from seqpair.cli.table import print_table
from seqpair.errors import VerificationError

_MOST_NAMED = 10


def verify(
    study: StudyArgument, member: MemberOption = "", overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Check everything that a study left on disk: stores, ledgers, checkpoints, exports and results.

    Each step that a ledger records is read again from the stores, and its digest is compared. Files are compared with
    their SHA-256, a checkpoint with its run's plan, a result with its items and with the weights it was computed with.
    A member of the recipe that has no plan or no ledger is a fault. The exit code is 3 if there is any fault.

    Example: seqpair verify demo
    """
    from seqpair.suite.places import find_study
    from seqpair.suite.verify import verify_study

    found = verify_study(find_study(study, overrides or ()), [member] if member else [])
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
