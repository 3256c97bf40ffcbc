"""Tables as data: exports that keep every digit and cannot be taken for more than text."""

import base64
import csv
import io
import json

from seqpair.report.data_table import Cell, Column, DataTable, estimate_cell, latex_text, number_cell, script_json

COLUMNS = [Column("Task"), Column("Value & more", is_number=True)]


def rows_of(table):
    return list(csv.reader(io.StringIO(table.csv())))


def test_csv_has_all_digits_and_the_ends_of_an_interval():
    table = DataTable(
        "t", "A table.", COLUMNS, [[Cell("one"), estimate_cell(1 / 3, 0.25, 0.5)], [Cell("two"), Cell("")]]
    )
    assert rows_of(table) == [
        ["Task", "Value & more", "Value & more low", "Value & more high"],
        ["one", str(1 / 3), "0.25", "0.5"],
        ["two", "", "", ""],
    ]


def test_a_spreadsheet_takes_no_text_for_a_formula():
    table = DataTable("t", "A table.", COLUMNS, [[Cell("=1+1"), number_cell(-0.5)], [Cell("-"), number_cell(None)]])
    assert [row[0] for row in rows_of(table)[1:]] == ["'=1+1", "-"]
    assert rows_of(table)[1][1] == "-0.5"


def test_latex_escapes_what_it_would_read():
    assert latex_text("a_b & 50% $x$ {y} \\z\n#1") == r"a\_b \& 50\% \$x\$ \{y\} \textbackslash{}z \#1"
    text = DataTable("t", "It costs 5 %.", COLUMNS, [[Cell("a_b"), estimate_cell(-0.5, -1.0, 0.0)]]).latex()
    assert r"\begin{tabular}{lr}" in text
    assert r"\caption{It costs 5 \%.}" in text
    assert r"a\_b & $-$0.500 {\small[$-$1.000, 0.000]} \\" in text


def test_json_cannot_end_the_script_it_stands_in():
    text = script_json({"a": "</script><!-- & \u2028"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}


def test_a_long_table_has_its_first_rows_and_all_of_them_as_short_data():
    table = DataTable("t", "A table.", COLUMNS, [[Cell(f"row {n}"), number_cell(float(n))] for n in range(100)])
    assert table.is_long
    assert len(table.first_rows) == 60
    rows = json.loads(table.all_rows_json())
    assert len(rows) == 100
    assert rows[99] == ["row 99", ["99.000", 99.0]]


def test_a_short_export_is_in_the_link_and_a_long_one_beside_the_page():
    short = DataTable("t", "A table.", COLUMNS, [[Cell("one"), number_cell(1.0)]])
    kind, name, address = short.links()[0]
    assert (kind, name) == ("CSV", "t.csv")
    assert base64.b64decode(address.partition("base64,")[2]).decode() == short.csv()
    long = DataTable("t", "A table.", COLUMNS, [[Cell("one" * 40_000), number_cell(1.0)]])
    assert long.links()[0][2] == "tables/t.csv"
