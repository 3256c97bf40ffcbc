"""The verb `watch`: a study's page on this machine, up to date while it trains."""

from __future__ import annotations

from typing import Annotated

import typer

from seqpair.cli.options import SetOption, StudyArgument, require_text
from seqpair.cli.report import require_page_packages
from seqpair.errors import EvaluationError

DEFAULT_PORT = 8042


def watch(
    study: StudyArgument,
    port: Annotated[int, typer.Option(help="The port; 0 takes any that is free.", min=0, max=65535)] = DEFAULT_PORT,
    every_seconds: Annotated[
        float, typer.Option("--every", help="Look for changes no more often than this, in seconds.")
    ] = 5.0,
    host: Annotated[
        str, typer.Option(help="The address to serve at; any but the default lets other machines read the page.")
    ] = "127.0.0.1",
    overrides: SetOption = None,
) -> None:
    """Serve a study's page on this machine and update it while the study trains; Ctrl-C ends it.

    Nothing is written. The folder need not exist yet: the page appears when the first member has started.

    Example: seqpair watch runs/demo --port 8042
    """
    from seqpair.suite.places import find_study_folder

    folder = find_study_folder(study, overrides or [])
    if not 0.2 <= every_seconds <= 3600:
        raise EvaluationError(
            "--every is out of range", seen=every_seconds, allowed="0.2 to 3600 seconds", fix="leave it out for 5"
        )
    require_text(host, "--host")
    require_page_packages()
    from seqpair.report.live import LivePage, open_server
    from seqpair.text import note

    with open_server(LivePage(folder, every_seconds), host, port) as server:
        print(f"{server.address} shows {folder}; Ctrl-C ends it", flush=True)
        if not server.is_local:
            note("warning: whoever reaches this address can read the study's texts and results")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("stopped")
