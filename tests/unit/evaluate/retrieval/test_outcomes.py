"""Chance levels against random rankings, and mteb's scores against a slow ranking of our own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqpair.errors import EvaluationError
from seqpair.evaluate.retrieval.embedders import embed_by_chunks, embedder_of
from seqpair.evaluate.retrieval.outcomes import chance_of, spearman_error
from seqpair.evaluate.retrieval.sets import checked_set
from seqpair.evaluate.retrieval.with_mteb import search_set
from seqpair.models.embed import Embedded
from seqpair.models.open import open_model


class GivenVectors:
    """An embedder that looks vectors up."""

    method, max_tokens = "given", 10

    def __init__(self, vectors):
        self.vectors, self.calls = vectors, 0

    def embed(self, texts):
        self.calls += len(texts)
        return Embedded(np.stack([self.vectors[text] for text in texts]).astype(np.float32), 1)


def slow_scores(given, vectors):
    """nDCG, recall and reciprocal rank at 10 of each query, by sorting all cosines."""
    found = {}
    for query, text in given.queries.items():
        unit = vectors[text] / np.linalg.norm(vectors[text])
        cosine = {
            name: float(unit @ vectors[own] / np.linalg.norm(vectors[own])) for name, own in given.documents.items()
        }
        order = sorted(cosine, key=lambda name: -cosine[name])[:10]
        gains = given.relevant[query]
        ideal = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(gains.values(), reverse=True)[:10]))
        gain = sum(gains.get(name, 0) / math.log2(place + 2) for place, name in enumerate(order))
        hits = [place + 1 for place, name in enumerate(order) if name in gains]
        found[query] = (gain / ideal, len(hits) / len(gains), 1 / hits[0] if hits else 0.0)
    return found


def test_mteb_gives_each_query_what_a_slow_ranking_gives():
    draw = np.random.default_rng(0)
    documents = {f"d{n}": f"document {n}" for n in range(60)}
    queries = {f"q{n}": f"query {n}" for n in range(15)}
    relevant = {
        query: {f"d{document}": int(draw.integers(1, 4)) for document in draw.choice(60, size=4, replace=False)}
        for query in queries
    }
    given = checked_set("made", documents, queries, relevant)
    vectors = {text: draw.normal(size=8) for text in [*documents.values(), *queries.values()]}
    outcome = search_set(given, GivenVectors(vectors))
    wanted = slow_scores(given, vectors)
    assert len(outcome.queries) == 15
    for own in outcome.queries:
        assert (own.ndcg, own.recall, own.mrr) == pytest.approx(wanted[own.query], abs=1e-6)
    assert outcome.scores["ndcg_at_10"] == pytest.approx(np.mean([own.ndcg for own in outcome.queries]), abs=1e-5)
    assert outcome.scores["mrr_at_10"] == pytest.approx(np.mean([own.mrr for own in outcome.queries]), abs=1e-5)
    chance = chance_of(outcome.gains, outcome.documents)
    drawn = [
        np.mean([row[0] for row in slow_scores(given, {text: draw.normal(size=8) for text in vectors}).values()])
        for _ in range(60)
    ]
    assert chance["ndcg"] == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / math.sqrt(60))


def test_chance_is_exact_for_small_sets():
    one = chance_of([[1]], 4)
    assert one["ndcg"] == pytest.approx(sum(1 / math.log2(rank + 1) for rank in range(1, 5)) / 4)
    assert one["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    two = chance_of([[1, 1]], 3)  # the first of two is at rank 1 in two of three rankings, else at rank 2
    assert two["mrr"] == pytest.approx((2 * 1 + 1 / 2) / 3)
    assert two["ndcg"] < 1
    assert chance_of([[1]], 100)["recall"] == 0.1


def test_the_error_of_a_correlation_is_near_that_of_draws():
    draw = np.random.default_rng(1)
    from scipy.stats import spearmanr

    found = []
    for _ in range(300):
        first = draw.normal(size=60)
        found.append(spearmanr(first, first + draw.normal(size=60)).statistic)
    assert spearman_error(float(np.mean(found)), 60) == pytest.approx(np.std(found), rel=0.25)
    assert spearman_error(0.5, 3) is None


def test_kept_vectors_are_not_computed_again(tmp_path):
    texts = [f"text {n}" for n in range(5)]
    embedder = GivenVectors({text: np.full(4, n) for n, text in enumerate(texts)})
    seen = []
    first = embed_by_chunks(embedder, texts, tmp_path, seen.append)
    again = embed_by_chunks(embedder, texts, tmp_path, seen.append)
    assert (first.vectors == again.vectors).all()
    assert (first.truncated, again.truncated) == (1, 1)
    assert embedder.calls == 5
    assert seen == [5, 5]
    broken = GivenVectors(dict.fromkeys(texts, np.full(4, np.nan)))
    with pytest.raises(EvaluationError, match="not finite"):
        embed_by_chunks(broken, texts, None, seen.append)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_our_forward_pass_and_the_hidden_states_give_the_same_vectors(random_exports, objective):
    model = open_model(random_exports[objective])
    texts = ["a river", "", "def f(x):\n    return x"]
    native = embedder_of(model, "mean").embed(texts).vectors
    other = model.with_network(model.network, model_digest="0")
    assert np.abs(native - embedder_of(other, "mean").embed(texts).vectors).max() < 1e-4
    with pytest.raises(EvaluationError, match="no pooling of this name"):
        embedder_of(model, "max")


def test_a_long_text_counts_once(random_exports):
    model = open_model(random_exports["mlm"])
    embedder = embedder_of(model, "mean")
    assert embedder.embed(["river " * 400, "short"]).truncated == 1
