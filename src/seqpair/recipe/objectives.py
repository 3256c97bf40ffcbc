"""The objectives table: everything that follows from the choice of an objective."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Direction = Literal["bidirectional", "causal"]


class Objective(BaseModel):
    """What one objective fixes.

    Attributes:
        name: Its name in a recipe, such as `mlm`.
        direction: The attention direction.
        masking: The rule of `seqpair.objectives.selection.MASKINGS` that chooses the tokens to predict; null where
            every next token is predicted.
        shows: What stands where a token was chosen: `bert` (80 % the mask, 10 % a random token, 10 % the token
            itself) or `mask` (always the mask).
        own_rate: The mean share of tokens that is predicted by a rule of its own; null where it is the phase's mask
            rate, or all.
        has_prefix: Whether a keyed cut divides each sequence: the tokens before it see each other and are not
            predicted, those after it are predicted from all that stands to their left.
        predicts: `next` (output t predicts token t + 1, every t), `masked` (output t predicts token t
            where t was chosen) or `masked_next` (output t - 1 predicts token t where t was chosen).
        ends_every_piece: Whether `[SEP]` ends every piece of a document, or only its last one.
        hub_class: The Hugging Face class that computes this direction.
        template: The special tokens around one text in the exported tokenizer.
        padding_side: The exported tokenizer's padding side.
        parts: For an objective whose steps mix two others, their names: that of the causal share of the
            sequences, then that of the rest. The other columns are then those of the rest.
        remark: What has to be known to read a member's figures; empty where they are what they seem.
        also_exports: The second objective whose class and template such a member is exported with too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    direction: Direction
    masking: str | None = None
    shows: Literal["bert", "mask"] = "bert"
    own_rate: float | None = None
    has_prefix: bool = False
    predicts: Literal["next", "masked", "masked_next"]
    ends_every_piece: bool
    hub_class: str
    template: str
    padding_side: Literal["left", "right"]
    parts: tuple[str, str] | None = None
    also_exports: str | None = None
    remark: str = ""

    @property
    def takes_mask_frac(self) -> bool:
        """Whether the phase's mask rate has an effect."""
        return self.masking is not None and self.own_rate is None


_ENCODER = {
    "direction": "bidirectional",
    "masking": "tokens",
    "ends_every_piece": True,
    "hub_class": "ModernBertForMaskedLM",
    "template": "[CLS] $A [SEP]",
    "padding_side": "right",
}

_DECODER = {
    "direction": "causal",
    "predicts": "next",
    "ends_every_piece": False,
    "hub_class": "ModernBertDecoderForCausalLM",
    "template": "[CLS] $A",
    "padding_side": "left",
}

_DIFFUSION = {
    "masking": "sequence_rates",
    "shows": "mask",
    "own_rate": 0.5,
    "remark": "The held-out bits per byte of diffusion estimate an upper bound, not the likelihood itself.",
}

_PREFIX = {
    "has_prefix": True,
    "own_rate": 0.5,
    "remark": "The exported class of prefix is causal, so evaluations read it with an empty prefix; its held-out bits "
    "per byte in training are of the tokens after the cut only.",
}

OBJECTIVES: dict[str, Objective] = {
    "clm": Objective(name="clm", **_DECODER),
    "mlm": Objective(name="mlm", predicts="masked", **_ENCODER),
    "mntp": Objective(name="mntp", predicts="masked_next", **_ENCODER),
    "diffusion": Objective(name="diffusion", predicts="masked", **_ENCODER | _DIFFUSION),
    "prefix": Objective(name="prefix", **_DECODER | _PREFIX),
    "hybrid": Objective(name="hybrid", predicts="masked_next", parts=("clm", "mntp"), also_exports="clm", **_ENCODER),
}

DECLARED_DIFFERENCES: dict[str, str] = {
    "member": "the member's name",
    "keep.names": "checkpoints that other members start from, which are kept",
    "phases[*].objectives": "the objective of each span of steps",
    "phases[*].mask_frac": "the mask rate: of objectives that take it, null for the others",
    "derived.direction": "the attention direction, fixed by the objective",
    "derived.predicts": "which output predicts which token, fixed by the objective",
    "derived.ends_every_piece": "whether [SEP] ends every piece or only a document's last, fixed by the objective",
    "derived.hub_class": "the exported class, fixed by the objective",
    "derived.template": "the exported tokenizer's template, fixed by the objective",
    "derived.padding_side": "the exported tokenizer's padding side, fixed by the objective",
    "derived.also_exports": "the second objective it is exported for, fixed by the objective",
}
"""Path patterns in which two members' plans may differ, each with its reason."""

DECLARED_OF_STARTS: dict[str, str] = {
    "start": "where the weights come from: another member's checkpoint, or a folder",
    "phases[*]": "a phase that only one of them runs, as not both start from scratch",
}
"""More patterns, declared only where at least one of the two members does not start from scratch.

A phase that both run is held to the same values all the same.
"""
