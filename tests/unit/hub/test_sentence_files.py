"""`SentenceTransformer(export)` gives the vectors of `seqpair embed`, with the pooling that the export states."""

from __future__ import annotations

import json

import numpy as np
import pytest
from checkpointed_run import real_texts, write_run

from seqpair.hub.export import export_checkpoint
from seqpair.models.embed import embed_texts
from seqpair.models.open import open_model


@pytest.mark.parametrize(("objective", "pooling", "mode"), [("mlm", "mean", "mean"), ("clm", "last", "lasttoken")])
def test_a_sentence_transformer_of_an_export_embeds_as_we_do(tmp_path, objective, pooling, mode):
    library = pytest.importorskip("sentence_transformers", reason="the eval extra is not installed")
    export_checkpoint(write_run(tmp_path, objective), tmp_path / "export", real_texts()[:2])
    model = library.SentenceTransformer(str(tmp_path / "export"), device="cpu", local_files_only=True)
    assert model[1].pooling_mode == mode
    assert model.max_seq_length == open_model(tmp_path / "export").max_tokens
    texts = ["a river", "def length(text):\n    return len(text)", "It rained. " * 60, "x"]
    wanted = embed_texts(open_model(tmp_path / "export"), texts).vectors  # by default as the export states
    assert (wanted == embed_texts(open_model(tmp_path / "export"), texts, pooling).vectors).all()
    assert np.abs(model.encode(texts, show_progress_bar=False) - wanted).max() < 1e-4
    other = embed_texts(open_model(tmp_path / "export"), texts, "cls").vectors
    assert np.abs(other - wanted).max() > 1e-2
    stated = json.loads((tmp_path / "export" / "1_Pooling" / "config.json").read_text())
    assert [name for name, on in stated.items() if on is True] == [
        f"pooling_mode_{'mean_tokens' if mode == 'mean' else mode}"
    ]
