"""The model card of an export: what it is, how to load it, how it was trained, what it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqpair.checkpoint.manifest import CheckpointManifest
from seqpair.hub.verify import TOLERANCE, Verification
from seqpair.recipe.objectives import Objective
from seqpair.recipe.plan import Plan
from seqpair.recipe.schedule import mask_frac_text
from seqpair.recipe.sizes import parameter_count
from seqpair.text import format_count

_MASKED = """from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForMaskedLM.from_pretrained("PATH")
fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
print(fill("They walked along the [MASK] in the evening."))"""

_CAUSAL = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")
batch = tokenizer(["They walked along the"], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch, max_new_tokens=40), skip_special_tokens=True))"""

_MASKED_NEXT = """import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForMaskedLM.from_pretrained("PATH")
batch = tokenizer("They walked along the [MASK] in the evening.", return_tensors="pt")
mask = int((batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
with torch.no_grad():
    logits = model(**batch).logits[0, mask - 1]  # one position to the left of the mask
print(tokenizer.batch_decode(logits.topk(5).indices[:, None]))"""

_NEXT_NOTE = """
## Predictions sit one position to the left

This model was trained to predict a masked token at the position *before* it (masked next-token prediction), as a
decoder does: the logits at position i - 1 are for the token at position i. Read them there, as above. The stock
`fill-mask` pipeline reads the mask's own position, which is the wrong one for this model: the logits there are about
the token after the mask. `config.json` says so too (`seqpair_predicts: "masked_next"`), and `seqpair fill` and
seqpair's evaluations read the right position. Embeddings and fine-tuning heads are not concerned.
"""

_PIPELINE_TAGS = {"next": "text-generation", "masked": "fill-mask", "masked_next": "feature-extraction"}
"""A tag for each kind of prediction; the Hub's fill-mask widget would read `masked_next` at the wrong position."""

_POOLED = {False: "the mean over all tokens", True: "the state of the last token"}

_LOADING = {"next": _CAUSAL, "masked": _MASKED, "masked_next": _MASKED_NEXT}


_FORMAT_LINES = {
    "bf16": "`model.safetensors`: weights rounded to bf16",
    "onnx": "`onnx/model.onnx` (last hidden states, for embeddings) and `onnx/model_lm.onnx` (logits), fp32",
    "onnx-int8": "`onnx/model_int8.onnx` and `onnx/model_lm_int8.onnx`: int8 weights",
    "gguf": "`gguf/model-f32.gguf` and `gguf/model-f16.gguf` for llama.cpp: embeddings, mean pooling",
}


def model_card(
    manifest: CheckpointManifest,
    objective: Objective,
    trained: Objective,
    verification: Verification,
    formats: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the model card of an export as Markdown.

    Args:
        manifest: The checkpoint's manifest.
        objective: The objective it is exported for.
        trained: The objective it was last trained with, perhaps mixed with another.
        verification: The proof.
        formats: For each further format, and for weights of lower precision, what was measured of it.
    """
    plan = manifest.plan
    phase = plan.phase(manifest.phase)
    counts = parameter_count(plan.model.shape, plan.model.vocab_size)
    causal = objective.direction == "causal"
    kind = "decoder" if causal else "encoder"
    rounded = " with its weights rounded to bf16" if "bf16" in formats else ""
    return f"""---
library_name: transformers
pipeline_tag: {_PIPELINE_TAGS[objective.predicts]}
tags: [seqpair, modernbert]
---

# {plan.study}: {plan.member}

A `{objective.hub_class}` of size `{plan.size}` ({format_count(counts.total)} parameters,
{format_count(counts.non_embedding)} of them outside the token table): {article(kind)} {kind} trained by seqpair as one
member of a pair. The pair's other members have the same shape, data, order and schedule.

## Loading

```python
{_LOADING[objective.predicts]}
```

For vectors, `SentenceTransformer("PATH").encode(texts)` of sentence-transformers: {_POOLED[causal]}. It was not
trained for similarity; fine-tune it first where that matters.
{_NEXT_NOTE if objective.predicts == "masked_next" else ""}
{_remark(objective)}## How it was trained

{_training_table(manifest, objective, trained)}

## Proof

Loaded with the Auto classes in fp32 ({", ".join(verification.attention)}), the largest absolute difference between its
logits and those of the trained model{rounded} was {verification.max_abs_difference:.2g}
(tolerance {verification.tolerance:g}) over {verification.checked_tokens} tokens of {verification.checked_texts} texts
of up to {verification.longest_tokens} tokens, in padded batches.
{_formats_table(formats, causal=causal)}
## Limits

It is a base model: not instructed, not filtered for harm, and it repeats what its sources say. It was trained on
sequences of at most {phase.seq_len} tokens, with a dropout of {plan.model.attn_out_dropout:g} after the attention
output, which this class cannot express; that matters for further training only.
{_needs(manifest, objective)}"""


def _needs(manifest: CheckpointManifest, objective: Objective) -> str:
    """Return what the model needs of transformers, where it is not any version."""
    phase = manifest.plan.phase(manifest.phase)
    if objective.direction != "causal" or phase.rope_global_theta == phase.rope_local_theta:
        return ""
    return (
        "\nIt needs transformers 5 or newer: it has two RoPE bases, and transformers 4 uses one for all layers of a "
        "decoder.\n"
    )


def _formats_table(formats: Mapping[str, Mapping[str, Any]], *, causal: bool) -> str:
    """Return the further formats as a Markdown section; empty without any."""
    if not formats:
        return ""
    lines = ["", "## Formats", "", "| files | compared with the trained model in fp32 |", "|---|---|"]
    for name, found in formats.items():
        if "loss_change" in found:
            seen = (
                f"largest difference of a logit {found['max_abs_difference']:.2g}; the likeliest token is the same at "
                f"{found['equal_argmax']:.2%} of {found['tokens']} positions; loss {found['loss']:.4f}, change "
                f"{found['loss_change']:+.4f} nats"
            )
        elif "max_abs_difference" in found:
            seen = f"largest difference {found['max_abs_difference']:.2g} (tolerance {TOLERANCE:g})"
        else:
            seen = f"read back: {found['read_back']}"
        lines.append(f"| {_FORMAT_LINES[name]} | {seen} |")
    if causal and {"onnx", "onnx-int8"} & set(formats):
        lines += ["", "The ONNX files have no cache: to generate with them, read the whole text again for each token."]
    return "\n".join([*lines, ""])


def _remark(objective: Objective) -> str:
    return f"## How to read its figures\n\n{objective.remark}\n\n" if objective.remark else ""


def _training_table(manifest: CheckpointManifest, objective: Objective, trained: Objective) -> str:
    """Return how the member was trained as a Markdown table."""
    plan = manifest.plan
    phase, shape = plan.phase(manifest.phase), plan.model.shape
    rate = phase.mask_frac if objective.takes_mask_frac else None
    mask = "" if rate is None else f", mask rate {mask_frac_text(rate)}"
    part = "" if trained == objective else f", its part in `{trained.name}`"
    sources = ", ".join(f"{source.name} ({source.kind})" for source in plan.sources) or "not named"
    window = plan.model.window_tokens
    reach = f"{window} tokens back" if objective.direction == "causal" else f"{window} tokens to each side"
    return f"""| | |
|---|---|
{_start(plan)}| checkpoint | `{manifest.name}` ({_place(manifest)}) |
| content tokens read | {format_count(manifest.content_tokens)} |
| objective | `{objective.name}`, {objective.direction}{mask}{part} |
| layers, width, inner width, heads | {shape.layers}, {shape.width}, {shape.inner}, {shape.heads} |
| vocabulary | {plan.model.vocab_size} rows |
| longest sequence | {phase.seq_len} tokens |
| local layers see | {reach}, and the token itself |
| optimiser | {plan.optimizer.name}, peak rate {plan.optimizer.lr:g}, weight decay {plan.optimizer.weight_decay:g} |
| sources | {sources} |
| seed | {plan.seed} |
| plan digest | `{manifest.plan_digest}` |"""


def _start(plan: Plan) -> str:
    """Return the table's row that says what the member started from; nothing from scratch."""
    return "" if plan.start is None else f"| started from | {plan.start.place} |\n"


def _place(manifest: CheckpointManifest) -> str:
    """Return where in the training a checkpoint stands, and for an average what it was made of."""
    steps = manifest.plan.phase(manifest.phase).steps
    place = f"phase `{manifest.phase}`, step {manifest.phase_step} of {steps}"
    if manifest.soup is None:
        return place
    return f"{place}; {manifest.soup.weighting} average of {', '.join(part.name for part in manifest.soup.parts)}"


def loading_code(predicts: str) -> str:
    """Return the code that loads a model and uses what it predicts; `PATH` stands for its folder."""
    return _LOADING[predicts]


def article(word: str) -> str:
    """Return `an` before a vowel, else `a`."""
    return "an" if word[:1] in "aeiou" else "a"
