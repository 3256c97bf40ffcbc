"""A finished study made up for the report's tests: plausible files, none of them from a real run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from seqpair.checkpoint.manifest import CheckpointManifest
from seqpair.evaluate.results import ItemOutcome, TaskResult, items_name, standard_interval, weighted_mean, write_result
from seqpair.files import JsonLines, write_json, write_text
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Plan, StoreStats
from seqpair.recipe.resolve import resolve_plan

DIGEST = "5f" * 32
TITLES = {
    "continuation": "True continuation among four",
    "source_probe": "Source of a passage",
    "bits_per_byte": "Held-out text, bits per byte",
    "masked_accuracy": "Held-out text, masked tokens",
}


def made_up_plan(folder: Path, member: str) -> Plan:
    hybrid = ["members.both.objective={hybrid: {causal_frac: 0.25}}"] if member == "both" else []
    recipe = load_recipe("demo", [f"runs={folder}", f"data.stores={folder}/stores", *hybrid])
    stats = {
        source.name: StoreStats(
            source=source.name,
            digest=DIGEST,
            documents=600,
            tokens=2_400_000,
            text_bytes=8_000_000,
            sequences={phase.seq_len: 30_000 for phase in recipe.phases},
        )
        for source in recipe.data.sources
    }
    return resolve_plan(recipe, member, stats, 4096)


def write_metrics(folder: Path, plan: Plan) -> None:
    lines, phase = JsonLines(folder / "metrics.jsonl"), plan.phases[0]
    generator = np.random.default_rng({"encoder": 5, "decoder": 6, "both": 7}[plan.member])
    for step in range(1, phase.steps + 1):
        tokens = int(phase.planned_tokens(step))
        loss = 3.1 + 5.2 * math.exp(-4 * step / phase.steps) + float(generator.normal(0, 0.08))
        lines.append(
            {
                "kind": "train",
                "phase": phase.name,
                "step": step,
                "total_step": step,
                "tokens": tokens,
                "loss": loss,
                "predicted": 9000,
                "lr": 1e-3,
                "grad_norm": 1.0,
                "clipped_frac": 0.0,
                "update_rms": 1.0,
                "waste_frac": 0.02,
                "tokens_per_second": 9000.0 + step,
                "seconds": 1.7,
            }
        )
        if step in phase.held_out_steps:
            for source, end in (("prose", 2.05), ("code", 1.42)):
                bits = end + 2.2 * math.exp(-5 * step / phase.steps)
                lines.append(
                    {
                        "kind": "held_out", "phase": phase.name, "step": step, "total_step": step,
                        "tokens": tokens, "source": source, "loss": 3.0, "bits_per_byte": bits,
                        "accuracy": 0.3, "predicted": 5000,
                    }
                )  # fmt: skip
    lines.close()


def write_ledger(folder: Path, plan: Plan, digests: str = "order") -> None:
    lines, phase = JsonLines(folder / "ledger.jsonl"), plan.phases[0]
    for step in range(phase.steps):
        positions = phase.positions_of(step)
        lines.append(
            {
                "phase": phase.name, "step": step, "first_position": positions.start,
                "stop_position": positions.stop, "content_tokens": 16_000, "digest": f"{digests}{step}",
            }
        )  # fmt: skip
    lines.close()


def write_task(folder: Path, task: str, values, *, weights=None, chance=None, higher=True, **fields) -> None:
    weights = np.ones(len(values)) if weights is None else weights
    items = [
        ItemOutcome(id=f"item-{index:04d}", value=float(value), weight=float(weight))
        for index, (value, weight) in enumerate(zip(values, weights, strict=True))
    ]
    interval, method = standard_interval(items)
    result = TaskResult(
        **{
            "task": task, "version": 1, "title": TITLES.get(task, task), "study": "demo", "member": folder.parent.name,
            "metric": "accuracy" if higher else "bits per byte", "unit": "accuracy" if higher else "bits per byte",
            "higher_is_better": higher, "chance": chance, "n": len(items), "value": weighted_mean(items),
            "interval": interval, "interval_method": method, "settings": {}, "model_digest": DIGEST,
            "items": items_name(task), **fields,
        }
    )  # fmt: skip
    write_result(folder, result, items)


def write_results(folder: Path, member: str) -> None:
    generator = np.random.default_rng(11)
    difficulty = generator.uniform(size=400)
    better = {"encoder": 0.47, "decoder": 0.36}[member]
    own = np.random.default_rng({"encoder": 3, "decoder": 4}[member]).uniform(size=400)
    write_task(folder, "continuation", 0.6 * difficulty + 0.4 * own < better, chance=0.25)
    write_task(
        folder,
        "source_probe",
        own[:200] < {"encoder": 0.014, "decoder": 0.012}[member],
        chance=0.01,
        note="Both members embed by mean pooling.",
    )
    size = generator.integers(200, 4000, 300)
    if member == "decoder":
        bits = generator.normal(1.45, 0.2, 300)
        write_task(folder, "bits_per_byte", bits, weights=size, higher=False, baselines={"unigram": 2.75})
    else:
        write_task(
            folder, "masked_accuracy", generator.normal(0.31, 0.05, 300), weights=size, baselines={"unigram": 0.03}
        )


def write_samples(folder: Path, member: str) -> None:
    samples: dict[str, list] = {"fill_mask": [], "generation": []}
    if member == "encoder":
        for text in ("    return [MASK].path.join(folder, name)\n", "Return <b>True</b> if the [MASK] exists."):
            guesses = [{"token": " os", "probability": 0.62}, {"token": "self", "probability": 0.2}]
            samples["fill_mask"].append({"text": text, "predictions": guesses, "answer": " os", "source": "code"})
    else:
        text = "(self, name):\n        if name is None:\n            return <script>alert(1)</script>"
        samples["generation"].append({"prompt": "    def get", "text": text, "source": "code", "mode": "greedy"})
    write_json(folder / "samples.json", samples)


def write_checkpoint(folder: Path, plan: Plan) -> None:
    steps = plan.phases[0].steps
    manifest = CheckpointManifest(
        study=plan.study, member=plan.member, phase="pretrain", tag="step", phase_step=steps, total_steps=steps,
        content_tokens=2_500_000, positions={"pretrain": plan.phases[0].positions}, plan=plan,
        plan_digest=plan_digest(plan),
        tokenizer_digest=DIGEST, store_digests={"prose": DIGEST, "code": DIGEST},
        versions={"seqpair": "0.1.0.dev0", "torch": "2.13.0", "python": "3.11.7"}, format_version=2,
        name=f"step{steps}", files={"model.safetensors": {"sha256": DIGEST, "bytes": 5_000_000}},
        created="2026-01-01T00:00:00Z",
    )  # fmt: skip
    write_text(folder / "checkpoints" / manifest.name / "manifest.json", manifest.model_dump_json())


def write_member(runs: Path, member: str) -> Path:
    plan = made_up_plan(runs, member)
    folder = runs / plan.study / member
    write_text(folder / "plan.json", plan.model_dump_json())
    write_metrics(folder, plan)
    write_ledger(folder, plan)
    write_results(folder / "evaluation", member)
    write_samples(folder / "evaluation", member)
    write_checkpoint(folder, plan)
    record = {
        "class": plan.derived.hub_class, "checkpoint": "step150", "max_abs_difference": 3.1e-6, "tolerance": 1e-4,
        "checked_texts": 24, "transformers": "5.23.0",
    }  # fmt: skip
    write_json(folder / "export" / "seqpair_export.json", record)
    return folder


@pytest.fixture
def finished_study(tmp_path: Path) -> Path:
    """The folder of a finished two-member study."""
    runs = tmp_path / "runs"
    for member in ("decoder", "encoder"):
        study = write_member(runs, member).parent
    seconds = {"prepare": 21.0, "train encoder": 255.0, "train decoder": 291.0}
    (study / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    return study


@pytest.fixture
def hybrid_study(finished_study: Path) -> Path:
    """The finished study with a third member, trained with `hybrid`, whose two exports are both evaluated."""
    folder = finished_study / "both"
    plan = made_up_plan(finished_study.parent, "both")
    write_text(folder / "plan.json", plan.model_dump_json())
    write_metrics(folder, plan)
    write_ledger(folder, plan)
    write_checkpoint(folder, plan)
    for suffix, like, hub_class in (("", "encoder", "ModernBertForMaskedLM"), ("-clm", "decoder", "OfTheSecondExport")):
        write_results(folder / f"evaluation{suffix}", like)
        write_samples(folder / f"evaluation{suffix}", like)
        write_json(folder / f"export{suffix}" / "seqpair_export.json", {"class": hub_class, "checkpoint": "step150"})
    return finished_study
