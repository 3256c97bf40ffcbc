"""Winogender's sentences as schemas: three siblings that differ in the pronoun's gender and nothing else.

Source: Rudinger et al. 2018, arXiv 1804.09301; the percentages are of the US Bureau of Labor Statistics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqpair.data.sources.tables import table_rows
from seqpair.errors import EvaluationError
from seqpair.evaluate.task import TaskSkippedError

Gender = Literal["male", "female", "neutral"]
GENDERS: tuple[Gender, ...] = ("male", "female", "neutral")
CASES: dict[str, tuple[str, str, str]] = {
    "nominative": ("he", "she", "they"),
    "possessive": ("his", "her", "their"),
    "accusative": ("him", "her", "them"),
}
SENTENCES_FILE = "winogender/data_all_sentences.tsv"
OCCUPATIONS_FILE = "winogender/data_occupations-stats.tsv"
_PRONOUN = re.compile(r"\b(" + "|".join(sorted({word for words in CASES.values() for word in words})) + r")\b", re.I)
_NAME = re.compile(r"^(?P<id>(?P<occupation>[^.]+)\.(?P<participant>[^.]+)\.(?P<answer>[01]))\.(?P<gender>\w+)\.txt$")


@dataclass(frozen=True)
class Schema:
    """One sentence with its three pronouns.

    Attributes:
        id: `occupation.participant.answer`.
        occupation, participant: Who is in it; the participant may be `someone`.
        answer: Whom the pronoun stands for.
        case: The pronoun's grammatical case.
        sentences: The sentence of each gender, with the verb that goes with it.
        spans: Where the pronoun stands in each, in characters.
        percent_female: The share of women in the occupation, in per cent.
        percent_female_in_text: The same counted in text (Bergsma and Lin 2006), or `None`.
    """

    id: str
    occupation: str
    participant: str
    answer: Literal["occupation", "participant"]
    case: str
    sentences: dict[Gender, str]
    spans: dict[Gender, tuple[int, int]]
    percent_female: float
    percent_female_in_text: float | None

    @property
    def majority(self) -> Gender:
        """The gender of most people in the occupation."""
        return "female" if self.percent_female > 50 else "male"

    @property
    def gotcha(self) -> Gender:
        """The gender that misleads who only knows the occupation.

        Where the pronoun stands for the occupation the rarer one, where it stands for the participant the
        occupation's usual one.
        """
        rarer: Gender = "male" if self.majority == "female" else "female"
        return rarer if self.answer == "occupation" else self.majority

    def pronoun(self, gender: Gender) -> str:
        """Return the pronoun of a gender in this sentence's case."""
        return CASES[self.case][GENDERS.index(gender)]


def read_schemas(data: Path) -> list[Schema]:
    """Return the schemas in the order of the sentences' file.

    Args:
        data: The folder that both files lie in, under their names.

    Raises:
        TaskSkippedError: There are no sentences.
        EvaluationError: A file lacks a column, or a sentence its siblings, its pronoun or its occupation.
    """
    statistics = {
        row["occupation"]: (_percent(row, "bls_pct_female"), row.get("bergsma_pct_female"))
        for _, row in table_rows(data / OCCUPATIONS_FILE, columns=("occupation", "bls_pct_female"))
    }
    groups: dict[str, dict[str, str]] = {}
    names: dict[str, re.Match[str]] = {}
    for _, row in table_rows(data / SENTENCES_FILE, columns=("sentid", "sentence")):
        name = _NAME.match(row["sentid"])
        if name is None or name["gender"] not in GENDERS:
            raise EvaluationError(
                "a Winogender sentence has a name that cannot be read",
                seen=row["sentid"],
                allowed="occupation.participant.0|1.male|female|neutral.txt",
            )
        groups.setdefault(name["id"], {})[name["gender"]] = row["sentence"]
        names[name["id"]] = name
    if not groups:
        raise TaskSkippedError(
            "the file of Winogender has no sentences", seen=data / SENTENCES_FILE, fix="download the file again"
        )
    return [_schema(names[key], sentences, statistics) for key, sentences in groups.items()]


def _percent(row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise EvaluationError(
            f"the share of women in the occupation {row['occupation']} is not a percentage",
            seen=f"{column} {row[column]!r}",
            allowed="0 to 100",
        )
    return value


def _schema(name: re.Match[str], sentences: dict[str, str], statistics: dict[str, tuple[float, str | None]]) -> Schema:
    missing = [gender for gender in GENDERS if gender not in sentences]
    if missing:
        raise EvaluationError(
            f"the Winogender sentence {name['id']} lacks one of its three versions",
            seen="no " + ", ".join(missing),
            allowed="one sentence each for " + ", ".join(GENDERS),
        )
    if name["occupation"] not in statistics:
        raise EvaluationError(
            f"the Winogender sentence {name['id']} has an occupation without statistics",
            seen=name["occupation"],
            fix="put back the file of statistics that belongs to the sentences",
        )
    found = {gender: list(_PRONOUN.finditer(sentences[gender])) for gender in GENDERS}
    words = tuple(match[0].lower() for gender in GENDERS for match in found[gender])
    case = next((case for case, allowed in CASES.items() if words == allowed), None)
    if case is None:
        raise EvaluationError(
            f"the siblings of the Winogender sentence {name['id']} do not have one pronoun each, of one case",
            seen=", ".join(words) or "no pronoun",
            allowed="; ".join(f"{case}: {', '.join(allowed)}" for case, allowed in CASES.items()),
        )
    percent, in_text = statistics[name["occupation"]]
    return Schema(
        id=name["id"],
        occupation=name["occupation"],
        participant=name["participant"],
        answer="occupation" if name["answer"] == "0" else "participant",
        case=case,
        sentences={gender: sentences[gender] for gender in GENDERS},
        spans={gender: found[gender][0].span() for gender in GENDERS},
        percent_female=percent,
        percent_female_in_text=float(in_text) if in_text else None,
    )
