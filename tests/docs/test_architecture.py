"""docs/architecture.md says where things are: every name is in the file it names, and the table is of this source."""

import re
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "seqpair"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
BEHAVIOURS = re.findall(r"^\| (.+?) \| `(.+?\.py)` \| `(\w+)` \|$", PAGE, re.MULTILINE)
README_TREE = (ROOT / "README.md").read_text(encoding="utf-8")


def defines(file, name):
    text = (SOURCE / file).read_text(encoding="utf-8")
    return re.search(rf"^\s*(async )?(def|class) {name}\b|^{name}\b.*=", text, re.MULTILINE) is not None


@pytest.mark.parametrize(("what", "file", "name"), BEHAVIOURS)
def test_a_behaviour_is_found_in_one_hop_from_the_readme(what, file, name):
    assert defines(file, name), f"{what}: {file} does not define {name}"
    assert re.search(rf"^  {file.split('/')[0]}/ ", README_TREE, re.MULTILINE)


def test_ten_behaviours_are_named():
    assert len(BEHAVIOURS) >= 10


@pytest.mark.parametrize("what", house.CALL_PATHS)
def test_a_reader_follows_a_call_from_file_to_file(what):
    steps = house.CALL_PATHS[what]
    assert len(steps) <= 8
    for (before, _), (file, name) in zip(steps, steps[1:], strict=False):
        assert defines(file, name)
        assert re.search(rf"\b{name}\b", (SOURCE / before).read_text(encoding="utf-8")), f"{before} does not use {name}"


def test_the_loop_imports_few_files():
    assert len(house.imported_by("seqpair.train.loop")) <= 75


def test_the_table_is_of_this_source():
    """Lines change with every commit; what describes the structure must not be stale."""
    assert house.BEGIN in PAGE
    shown = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", PAGE.split(house.BEGIN)[1], re.MULTILINE))
    for measure in ("files `train/loop` imports", "files from `seqpair train`", "files from `seqpair eval`"):
        assert any(measure.split("`")[1] in name for name in shown), f"no row of {measure}"
