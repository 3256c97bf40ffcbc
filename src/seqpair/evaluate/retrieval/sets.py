"""Texts for retrieval: sets of documents and queries to search, and pairs to train on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqpair.data.sources.tables import table_rows
from seqpair.errors import EvaluationError
from seqpair.files import hash64, sha256_json
from seqpair.text import decoded_text

DOCUMENTS_PER_QUERY, LONG_DOCUMENTS_PER_QUERY = 20, 2
"""How many documents a limited set keeps for each of its queries, where they are short and where they are long."""
KNOWN_COLUMNS = (
    ("query", "positive"),
    ("question", "answer"),
    ("anchor", "positive"),
    ("docstring", "code"),
    ("sentence1", "sentence2"),
)
NEGATIVES = ("negatives", "negative")
MOST_HELD_OUT = 300
LEAST_PAIRS = 20


@dataclass(frozen=True)
class RetrievalSet:
    """A corpus with questions about it.

    Attributes:
        name: What it is called.
        documents: Text by id; a title is a part of it.
        queries: Text by id; all have at least one relevant document.
        relevant: For each query, the gain of each relevant document, at least 1.
        whole_documents: Documents before a limit.
        unjudged: Queries that were left out because no document is relevant to them.
        clusters: What some queries have in common, by query: the article or the document that they are about.
    """

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    relevant: dict[str, dict[str, int]]
    whole_documents: int
    unjudged: int = 0
    clusters: Mapping[str, str] = field(default_factory=dict)

    @property
    def empty_documents(self) -> int:
        """How many documents have no text; they stay, and can be found by nobody."""
        return sum(not text.strip() for text in self.documents.values())

    def limited(self, queries: int | None, documents_per_query: int = DOCUMENTS_PER_QUERY) -> RetrievalSet:
        """Return the first queries, with their relevant documents and others drawn by the hash of their ids.

        Args:
            queries: Most queries; `None` keeps all of it.
            documents_per_query: Documents to keep for each of them.
        """
        if queries is None or queries >= len(self.queries):
            return self
        kept = dict(list(self.queries.items())[:queries])
        needed = {document for query in kept for document in self.relevant[query]}
        room = max(0, documents_per_query * queries - len(needed))
        others = sorted((hash64(document), document) for document in self.documents if document not in needed)
        needed.update(document for _, document in others[:room])
        return RetrievalSet(
            self.name,
            {document: text for document, text in self.documents.items() if document in needed},
            kept,
            {query: self.relevant[query] for query in kept},
            self.whole_documents,
            self.unjudged,
            self.clusters,
        )


def checked_set(
    name: str, documents: dict[str, str], queries: dict[str, str], relevant: dict[str, dict[str, int]]
) -> RetrievalSet:
    """Return a set after its checks.

    Raises:
        EvaluationError: There is nothing to search or to ask, a query is empty, or a judgement names an id that does
            not exist.
    """
    if not documents or not queries:
        raise EvaluationError(
            f"{name} is not a retrieval set", seen=f"{len(documents)} documents, {len(queries)} queries", allowed="some"
        )
    empty = [query for query, text in queries.items() if not text.strip()]
    if empty:
        raise EvaluationError(
            f"a query of {name} is empty", seen=f"{len(empty)}, the first is {empty[0]!r}", fix="leave it out"
        )
    for query, gains in relevant.items():
        if query not in queries:
            raise EvaluationError(
                f"the judgements of {name} name a query that does not exist",
                seen=repr(query),
                fix="remove the line, or add the query",
            )
        strange = next((document for document in gains if document not in documents), None)
        if strange is not None:
            raise EvaluationError(
                f"the judgements of {name} name a document that does not exist",
                seen=f"{strange!r} for {query!r}",
                fix="remove the line, or add the document",
            )
    gains = {
        query: {document: gain for document, gain in found.items() if gain > 0} for query, found in relevant.items()
    }
    judged = {query: text for query, text in queries.items() if gains.get(query)}
    if not judged:
        raise EvaluationError(
            f"no query of {name} has a relevant document", seen=f"{len(queries)} queries", fix="correct the judgements"
        )
    return RetrievalSet(
        name, documents, judged, {query: gains[query] for query in judged}, len(documents), len(queries) - len(judged)
    )


def read_folder(folder: Path, queries: str = "queries.jsonl", judgements: str = "qrels.tsv") -> RetrievalSet:
    """Read a folder of `corpus.jsonl` (`_id`, `text`, perhaps `title`), queries and judgements.

    Args:
        folder: The folder.
        queries: The file of the queries (`_id`, `text`).
        judgements: The tab-separated file with the columns query-id, corpus-id, score.

    Raises:
        EvaluationError: A file is missing, a line cannot be read, an id comes twice or does not exist, a query is
            empty.
    """
    documents = {}
    for where, row in _id_and_text(folder / "corpus.jsonl"):
        title, text = str(row.get("title") or "").strip(), str(row["text"])
        _add(documents, where, row, f"{title} {text}" if title else text)
    asked: dict[str, str] = {}
    for where, row in _id_and_text(folder / queries):
        _add(asked, where, row, str(row["text"]))
    return checked_set(folder.name, documents, asked, _judgements(folder / judgements))


def read_squad(path: Path) -> RetrievalSet:
    """Read a file of SQuAD's form: the passages are the documents, each question's own passage answers it.

    Raises:
        EvaluationError: It is not of that form.
    """
    _require_file(path)
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    ids: dict[str, str] = {}
    clusters: dict[str, str] = {}
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        paragraphs = [
            (article.get("title", ""), paragraph) for article in articles for paragraph in article["paragraphs"]
        ]
        for title, paragraph in paragraphs:
            document = ids.setdefault(paragraph["context"], f"passage-{len(ids)}")
            documents[document] = paragraph["context"]
            for question in paragraph["qas"]:
                if question["id"] in queries:
                    raise EvaluationError(
                        f"an id occurs twice in {path.name}",
                        seen=question["id"],
                        fix="give each question an id of its own",
                    )
                queries[question["id"]] = question["question"]
                relevant[question["id"]] = {document: 1}
                clusters[question["id"]] = str(title)
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{path.name} is not of SQuAD's form",
            seen=f"{type(error).__name__}: {error}",
            allowed="data > paragraphs > context and qas > id, question",
        ) from error
    return replace(checked_set(path.name, documents, queries, relevant), clusters=clusters)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise EvaluationError(
            "a file of a retrieval set is missing",
            seen=path,
            fix="correct --data, or see docs/evaluation.md for the files",
        )


def _id_and_text(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    _require_file(path)
    return table_rows(path, columns=("_id", "text"))


def _add(known: dict[str, str], where: str, row: dict[str, Any], text: str) -> None:
    identity = str(row["_id"])
    if identity in known:
        raise EvaluationError(f"{where} repeats an id", seen=repr(identity), fix="give each row an id of its own")
    known[identity] = text


def _judgements(path: Path) -> dict[str, dict[str, int]]:
    _require_file(path)
    lines = decoded_text(path.read_bytes(), str(path)).split("\n")
    columns = ["query-id", "corpus-id", "score"]
    if lines[0].rstrip("\r").split("\t") != columns:
        raise EvaluationError(f"{path.name} lacks a column", seen=repr(lines[0]), allowed=", ".join(columns))
    relevant: dict[str, dict[str, int]] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        parts = line.rstrip("\r").split("\t")
        if len(parts) != len(columns) or not parts[2].strip().isdigit():
            raise EvaluationError(
                f"{path.name}, line {number} is not a judgement", seen=repr(line), allowed="two ids and a whole number"
            )
        relevant.setdefault(parts[0], {})[parts[1]] = int(parts[2])
    return relevant


@dataclass(frozen=True)
class LocalSet:
    """A set of the data folder that the suite searches.

    Attributes:
        name, tuned_name: Of the task with models as they are, and with fine-tuned ones.
        title: What it is, in words.
        path: Where it lies in the data folder.
        read: Reads it there.
        documents_per_query: How many documents are kept for a query under a limit.
        by_document: Whether the queries of one document are a cluster.
    """

    name: str
    tuned_name: str
    title: str
    path: str
    read: Callable[[Path], RetrievalSet]
    documents_per_query: int = DOCUMENTS_PER_QUERY
    by_document: bool = False

    def load(self, data: Path, limit: int | None) -> RetrievalSet:
        """Return the set, or what counts of it under a limit.

        Raises:
            EvaluationError: It cannot be read.
        """
        found = self.read(data / self.path)
        if self.by_document:
            first = {query: min(gains) for query, gains in found.relevant.items()}
            found = replace(found, clusters=first)
        return found.limited(limit, self.documents_per_query)


LOCAL_SETS = (
    LocalSet("xquad_passages", "xquad_tuned", "XQuAD passages", "retrieval/xquad.en.json", read_squad),
    LocalSet("cosqa", "cosqa_tuned", "CoSQA Python functions", "retrieval/cosqa_python", read_folder),
    LocalSet(
        "qmsum_long",
        "qmsum_long_tuned",
        "QMSum meetings, long documents",
        "retrieval/qmsum_long",
        read_folder,
        LONG_DOCUMENTS_PER_QUERY,
        by_document=True,
    ),
)


@dataclass(frozen=True)
class TrainingPair:
    """A query, its positive, and hard negatives if the file has some."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """What a file gave.

    Attributes:
        pairs: The pairs, each once.
        left_out: Rows with an empty text or that were there before.
        digest: Of the pairs.
    """

    pairs: list[TrainingPair]
    left_out: int

    @property
    def digest(self) -> str:
        """The digest of the pairs in their order."""
        return sha256_json([[pair.query, pair.positive, list(pair.negatives)] for pair in self.pairs])


def read_training_pairs(path: Path, columns: str = "", most: int | None = None) -> Pairs:
    """Read pairs from JSON Lines, or from CSV or TSV with a header.

    Args:
        path: The file.
        columns: Names with commas of query, positive and perhaps negatives; empty tries the usual names.
        most: Most pairs to keep, drawn by the hash of their texts; `None` keeps all.

    Raises:
        EvaluationError: The file cannot be read, lacks a column, or has too few pairs.
    """
    names = [name.strip() for name in columns.split(",")] if columns else []
    if names and len(names) not in (2, 3):
        raise EvaluationError("two or three columns make a training pair", seen=columns, allowed="query,positive")
    found: dict[TrainingPair, None] = {}
    rows = 0
    for where, row in table_rows(path):
        rows += 1
        names = names or _find_columns(where, row)
        missing = [name for name in names if name not in row]
        if missing:
            raise EvaluationError(
                f"{where} lacks a column", seen=f"no {', no '.join(missing)}", allowed=", ".join(map(str, row))
            )
        query, positive = (str(row[name] or "").strip() for name in names[:2])
        negatives = _negatives(row[names[2]]) if len(names) == 3 else ()
        if query and positive:
            found[TrainingPair(query, positive, negatives)] = None
    pairs = list(found)
    left_out = rows - len(pairs)
    if len(pairs) < LEAST_PAIRS:
        raise EvaluationError(
            f"{path.name} has too few training pairs", seen=len(pairs), allowed=f"{LEAST_PAIRS} or more"
        )
    if most is not None and most < len(pairs):
        pairs = sorted(pairs, key=lambda pair: hash64(pair.query + "\n" + pair.positive))[: max(most, LEAST_PAIRS)]
    return Pairs(pairs, left_out)


def hold_out(pairs: Sequence[TrainingPair]) -> tuple[list[TrainingPair], RetrievalSet]:
    """Split pairs into those to train on, and a retrieval set of a twentieth of them to choose a rate on.

    What is held out is fixed by the texts' hashes; no held-out positive or query is trained on.

    Returns:
        The training pairs, and the set: the held-out queries, and the held-out positives as its documents.
    """
    order = sorted(range(len(pairs)), key=lambda index: (hash64("held out\n" + pairs[index].query), index))
    held = order[: min(MOST_HELD_OUT, max(2, len(pairs) // 20))]
    ids: dict[str, str] = {}
    queries: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for index in held:
        document = ids.setdefault(pairs[index].positive, f"d{len(ids)}")
        query = f"q{hash64(pairs[index].query)}"
        queries[query] = pairs[index].query
        relevant.setdefault(query, {})[document] = 1
    asked = set(queries.values())
    kept = [pair for pair in pairs if pair.positive not in ids and pair.query not in asked]
    if len(kept) < 2:
        raise EvaluationError("too few pairs are left to train on", seen=len(kept), allowed="2 or more")
    return kept, checked_set("held-out pairs", {name: text for text, name in ids.items()}, queries, relevant)


def _find_columns(where: str, row: dict[str, Any]) -> list[str]:
    for query, positive in KNOWN_COLUMNS:
        if query in row and positive in row:
            return [query, positive, *[name for name in NEGATIVES if name in row][:1]]
    raise EvaluationError(
        f"{where} has no columns of a training pair",
        seen=", ".join(map(str, row)),
        allowed="; ".join(" and ".join(names) for names in KNOWN_COLUMNS),
        fix="name them, as in --choice columns=title,text",
    )


def _negatives(value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    return tuple(str(text).strip() for text in texts if text and str(text).strip())
