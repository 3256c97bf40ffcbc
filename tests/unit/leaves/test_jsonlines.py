import pytest

from seqpair.jsonlines import JsonLines


def test_rows_come_back_and_can_be_cut(tmp_path):
    lines = JsonLines(tmp_path / "run" / "rows.jsonl")
    for step in range(5):
        lines.append({"step": step})
    lines.sync()
    assert [row["step"] for row in lines.rows()] == [0, 1, 2, 3, 4]
    assert lines.keep(lambda row: row["step"] < 3) == 2
    lines.append({"step": 9})
    lines.close()
    assert [row["step"] for row in lines.rows()] == [0, 1, 2, 9]


def test_a_torn_last_line_is_left_out_and_removed_by_the_next_cut(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"ste', encoding="utf-8")
    lines = JsonLines(path)
    assert len(list(lines.rows())) == 2
    assert lines.keep(lambda row: True) == 0
    assert path.read_text(encoding="utf-8") == '{"step": 0}\n{"step": 1}\n'


def test_no_file_is_no_rows(tmp_path):
    lines = JsonLines(tmp_path / "rows.jsonl")
    assert list(lines.rows()) == []
    assert lines.keep(lambda row: False) == 0
    assert not lines.path.exists()


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    lines = JsonLines(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="Out of range"):
        lines.append({"loss": float("inf")})
    lines.close()
