"""Generation on this machine: ours against `transformers.generate` with its cache, side by side in one process.

An exported decoder of random weights (wide enough that greedy tokens vary), fp32, greedy, the same prompts; the
tokens that come out are compared and must be equal. The runs alternate. Theirs pads ragged prompts on the left.

The bound at batch 1 is the time to read the weights once for every token: their bytes divided by the fastest
read of a buffer of the same bytes in the same round (`torch.sum`, or a matrix-vector product over it), with the
same number of threads. Its rows of 256 are those of the vocabulary product of `17m`, three quarters of the bytes, and
`torch.mv` over it is as fast as that product is. Keys and values are not counted (at 512 tokens of `17m` some 4 MB of
68), nor a prompt's matrix products: the bound is a little too fast, and more so for a long prompt. The share of
the bound is given twice: of whole runs, prompt included; and of the fastest tenth of single tokens by the fastest
tenth of reads, which other work on the machine disturbs less. With one thread all seconds are of processor time.

    python bench/generation.py --rounds 5 --out bench/results/generation.md
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from seqpair.data.tokenizer.tokenizer import SpecialIds
from seqpair.files import write_json
from seqpair.hub.config import ModelFacts, hub_config
from seqpair.hub.weights import to_hub
from seqpair.nn.decode.cached_decoder import CachedDecoder
from seqpair.nn.decode.generate import generate
from seqpair.nn.decode.one_token import find_library
from seqpair.nn.model import LanguageModel, initialise
from seqpair.nn.rope import RopeBases
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import SIZES

VOCAB_SIZE = 50_368
ROPE = RopeBases(10_000.0, 10_000.0)
RAGGED = (512, 380, 300, 256, 190, 150, 128, 100, 80, 64, 50, 40, 32, 24, 16, 8)
Run = Callable[[], list[list[int]]]


def make_model(size: str) -> LanguageModel:
    """Return a model of random weights whose greedy tokens vary."""
    plan = ModelPlan(shape=SIZES[size], vocab_size=VOCAB_SIZE)
    model = LanguageModel(plan).eval()
    initialise(model, plan, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embedding" not in name:
                parameter.mul_(8)
    return model


def load_theirs(model: LanguageModel, folder: Path) -> Any:
    """Write the export's configuration and weights, and load them as a user would."""
    plan = model.backbone.plan
    facts = ModelFacts(
        model=plan,
        direction="causal",
        seq_len=8192,
        rope_global_theta=ROPE.global_theta,
        rope_local_theta=ROPE.local_theta,
        specials=SpecialIds(unk=0, cls=1, sep=2, pad=3, mask=4),
        predicts="next",
    )
    write_json(folder / "config.json", hub_config(facts, transformers.__version__))
    save_file(
        to_hub(model.state_dict(), plan.shape.layers, "causal"), folder / "model.safetensors", metadata={"format": "pt"}
    )
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()


def run_theirs(model: Any, prompts: list[list[int]], new_tokens: int) -> Run:
    """Return a run of theirs: left padding and a mask, as generation needs."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[3] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def run() -> list[list[int]]:
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=3,
            )
        found: list[list[int]] = out[:, longest:].tolist()
        return found

    return run


def run_ours(decoder: CachedDecoder, prompts: list[list[int]], new_tokens: int, steps: list[float]) -> Run:
    """Return a run of ours, which adds the seconds of every step but the first, the prompt's, to `steps`."""

    def run() -> list[list[int]]:
        marks: list[float] = []
        found = generate(decoder, prompts, new_tokens, watch=lambda _: marks.append(clock()))
        steps.extend(after - before for before, after in itertools.pairwise(marks))
        return [continuation.ids for continuation in found]

    return run


def clock() -> float:
    """Return seconds: of this process with one thread, which other work on the machine stretches little, else wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something takes, and its result."""
    started = clock()
    result = work()
    return clock() - started, result


def read_seconds(buffer: torch.Tensor) -> list[float]:
    """Return the seconds of some reads of a buffer of shape (n, 256), each the faster of two ways."""
    ones = torch.ones(buffer.shape[1])
    return [min(timed(buffer.sum)[0], timed(lambda: torch.mv(buffer, ones))[0]) for _ in range(12)]


def fastest_tenth(seconds: list[float]) -> float:
    """Return the value that a tenth of the values do not exceed."""
    return sorted(seconds)[len(seconds) // 10]


def compare(
    model: LanguageModel, theirs: Any, prompts: list[list[int]], new_tokens: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of every round; one round more warms up and checks the tokens."""
    decoder = CachedDecoder(model, ROPE)
    steps: list[float] = []
    runs = {"ours": run_ours(decoder, prompts, new_tokens, steps), "theirs": run_theirs(theirs, prompts, new_tokens)}
    buffer = torch.ones(decoder.weight_bytes() // 1024, 256)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": [], "read": [], "reads": [], "steps": steps}
    for number in range(rounds + 1):
        order = list(runs) if number % 2 else list(runs)[::-1]
        outputs = {}
        for name in order:
            took, outputs[name] = timed(runs[name])
            if number:
                seconds[name].append(took)
        assert outputs["ours"] == outputs["theirs"], "the greedy tokens differ"
        if number:
            reads = read_seconds(buffer)
            seconds["reads"] += reads
            seconds["read"].append(min(reads))
    distinct = len({token for row in outputs["ours"] for token in row})
    assert distinct > new_tokens // 4, f"only {distinct} different tokens: these weights prove nothing"
    return seconds


def row(label: str, seconds: dict[str, list[float]], prompts: int, new_tokens: int) -> str:
    """Return a table's row; the share of the bound is of the whole run, prompt included."""
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)]
    bounds = [new_tokens * read / ours for ours, read in zip(seconds["ours"], seconds["read"], strict=True)]
    quiet = fastest_tenth(seconds["reads"]) / fastest_tenth(seconds["steps"])
    rates = [prompts * new_tokens / statistics.median(seconds[name]) for name in ("ours", "theirs")]
    bound = f"{statistics.median(bounds):.0%} ({min(bounds):.0%} to {max(bounds):.0%}) | {quiet:.0%}"
    bound = bound if prompts == 1 else " | "
    return (
        f"| {label} | {rates[0]:,.0f} | {rates[1]:,.0f} | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {bound} |"
    )


def describe_machine(model: LanguageModel, read: float) -> list[str]:
    """Return the lines that say where and on what the numbers were taken."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    size = CachedDecoder(model, ROPE).weight_bytes()
    return [
        f"{datetime.date.today()}, commit {commit.stdout.strip()}, {torch.get_num_threads()} threads, "
        f"{'processor' if torch.get_num_threads() == 1 else 'wall'} seconds "
        f"({torch.backends.cpu.get_cpu_capability()}, {platform.machine()}), torch {torch.__version__}, "
        f"transformers {transformers.__version__}, load average {os.getloadavg()[0]:.1f}.",
        f"Weights read for a token: {size / 1e6:.1f} MB; read at {size / read / 1e9:.1f} GB/s in the first round. "
        f"One row's tokens: {'tensor calls' if find_library().read_token is None else 'the compiled step'}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="17m", choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = make_model(args.size)
    with tempfile.TemporaryDirectory() as folder:
        theirs = load_theirs(model, Path(folder))
    generator = torch.Generator().manual_seed(0)
    ragged = [torch.randint(5, VOCAB_SIZE, (length,), generator=generator).tolist() for length in RAGGED]
    lines = ["# Generation: ours against transformers.generate", ""]
    for threads in args.threads:
        torch.set_num_threads(threads)
        table = []
        for label, prompts in (
            ("1 prompt of 24", [ragged[0][:24]]),
            ("1 prompt of 512", [ragged[0]]),
            ("16 prompts of 8 to 512", ragged),
            ("16 prompts of 64", [prompt[:64] for prompt in [ragged[0][n : n + 64] for n in range(16)]]),
        ):
            seconds = compare(model, theirs, prompts, args.new_tokens, args.rounds)
            table.append(row(label, seconds, len(prompts), args.new_tokens))
            print(table[-1], flush=True)
        lines += describe_machine(model, seconds["read"][0])
        lines += [
            "",
            f"`{args.size}`, greedy, {args.new_tokens} new tokens a prompt, {args.rounds} alternating rounds.",
        ]
        lines += [
            "",
            "| prompts | ours, tokens/s | theirs, tokens/s | ours is faster by | share of the bound | fastest tenth |",
        ]
        lines += ["|---|---|---|---|---|---|", *table, ""]
    lines += ["Written by `bench/generation.py`."]
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
