import subprocess
import sys

import pytest
from pydantic import ValidationError

from seqpair.checkpoint.manifest import CheckpointFields, CheckpointManifest, read_checkpoint_manifest
from seqpair.data.store.manifest import FileEntry


def test_it_does_not_import_torch() -> None:
    code = "import sys, seqpair.checkpoint.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_manifest_survives_json(save) -> None:
    manifest = read_checkpoint_manifest(save(3))
    assert CheckpointManifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.files["state.json"] == FileEntry(
        sha256=manifest.files["state.json"].sha256, bytes=manifest.files["state.json"].bytes
    )
    assert len(manifest.files["state.json"].sha256) == 64
    assert manifest.created.endswith("+00:00")


@pytest.mark.parametrize(
    ("field", "value"), [("tag", "step-1"), ("tag", "../up"), ("phase_step", -1), ("content_tokens", -5)]
)
def test_fields_that_make_no_name_or_no_count_are_refused(save, field: str, value: object) -> None:
    manifest = read_checkpoint_manifest(save(3))
    fields = {name: getattr(manifest, name) for name in CheckpointFields.model_fields}
    with pytest.raises(ValidationError, match=field):
        CheckpointFields(**{**fields, field: value})
