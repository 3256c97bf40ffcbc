import pytest

from seqpair.cli import table
from seqpair.cli.table import counted, print_table


def printed(capsys, *arguments, **options) -> list[str]:
    print_table(*arguments, **options)
    return capsys.readouterr().out.splitlines()


def test_whole_numbers_stand_at_the_right_with_separators_and_nothing_is_cut(capsys):
    rows = [("a", 1200, "x" * 200), ("long name", 7, "y")]
    lines = printed(capsys, ("name", "steps", ""), rows, title="what")
    assert lines[0] == "what"
    assert lines[1] == "  name       steps"
    assert lines[2] == "  a          1,200  " + "x" * 200
    assert lines[3] == "  long name      7  y"


def test_text_goes_to_the_right_where_asked_and_empty_headings_give_no_line(capsys):
    assert printed(capsys, ("", ""), [("a", "1.5"), ("b", "12.25")], right=(1,), indent=0) == ["a    1.5", "b  12.25"]


def test_long_cells_continue_below_where_the_table_is_wider_than_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(table, "terminal_width", lambda: 60)
    rows = [("key", "short", "one two three four five six seven eight nine ten eleven twelve")]
    lines = printed(capsys, ("", "", ""), rows, fold=(1, 2), indent=0)
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("key  short  one two")
    assert " ".join(line[12:].strip() for line in lines) == rows[0][2]


def test_a_cell_may_have_lines_of_its_own(capsys):
    assert printed(capsys, ("", ""), [("a", "1 x\n22 y"), ("b", "none")], indent=0) == ["a  1 x", "   22 y", "b  none"]


def test_without_a_terminal_lines_are_wide():
    assert table.terminal_width() == table.WIDTH_WITHOUT_TERMINAL


@pytest.mark.parametrize(("count", "text"), [(0, "0 files"), (1, "1 file"), (1200, "1,200 files")])
def test_a_count_has_its_word(count, text):
    assert counted(count, "file") == text
