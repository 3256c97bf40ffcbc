"""The verb `publish`: a release goes to the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from seqpair.cli.options import DryRunOption, JsonOption
from seqpair.cli.table import print_table
from seqpair.text import format_bytes


def publish(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="The folder that `seqpair release` wrote.")],
    owner: Annotated[str, typer.Option("--to", metavar="OWNER", help="The user or organisation on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Upload a release to the Hugging Face Hub: one repository per member, one branch per revision, and the order.

    Each revision is one commit, and the digests that the Hub lists are compared before the next one begins. Repeat the
    command after an interruption: revisions that are there are left alone. Log in first with `hf auth login`. With
    --dry-run the repositories, revisions and bytes are printed, and no request is made.

    Example: seqpair publish releases/demo --to my-lab --dry-run
    """
    from seqpair.hub.publish import planned_uploads, publish_release

    uploads = planned_uploads(release, owner)
    if dry_run:
        if as_json:
            rows = [{"repository": one.repository, "kind": one.kind, "revision": one.revision} for one in uploads]
            print(json.dumps([row | {"bytes": one.bytes} for row, one in zip(rows, uploads, strict=True)], indent=1))
            return
        shown = [(one.repository, one.kind, one.revision, format_bytes(one.bytes)) for one in uploads]
        print_table(("repository", "kind", "revision", "size"), shown)
        print(f"{len(uploads)} revisions, {format_bytes(sum(one.bytes for one in uploads))}; nothing was uploaded")
        return
    lines = []
    for line in publish_release(uploads, private=private):
        lines.append(line)
        if not as_json:
            print(line, flush=True)
    if as_json:
        print(json.dumps(lines, indent=1))
