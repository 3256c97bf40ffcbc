"""A Hugging Face `config.json` as a model's plan, or the reason why it cannot be one; the way back from `config`.

In a folder an explicit `sliding_window` replaces `local_attention // 2` in both classes.

Source: transformers 5.23, configuration_modernbert.py and configuration_modernbert_decoder.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seqpair.errors import HubFolderError
from seqpair.hub.config import CONFIG_NAME, HUB_CLASSES, PREDICTS_KEY, Predicts, layer_types, local_attention
from seqpair.nn.rope import RopeBases
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import Shape

_TASKS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
HEADLESS_CLASSES: dict[str, tuple[str, ...]] = {
    "bidirectional": ("ModernBertModel", *(f"ModernBertFor{task}" for task in _TASKS)),
    "causal": ("ModernBertDecoderModel", "ModernBertDecoderForSequenceClassification"),
}
"""Classes whose backbone is ours, without a language-model head: bare, or with a head for another task."""

_DEFAULT_GLOBAL_THETA = 160_000.0
_DEFAULT_LOCAL_THETA = 10_000.0
_DEFAULT_GLOBAL_EVERY = 3
_FIXED: dict[str, object] = {
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
    "is_causal": None,
    "rope_scaling": None,
    "quantization_config": None,
}
"""Keys with the one value that our model computes; another one is refused."""


class FolderConfig(BaseModel):
    """The keys of a `config.json` that matter here, with the classes' defaults; others are not read.

    Attributes are those of the two configuration classes; the legacy keys among them are
    `global_attn_every_n_layers`, `global_rope_theta` and `local_rope_theta`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    model_type: Literal["modernbert", "modernbert-decoder"]
    architectures: list[str] | None = None
    vocab_size: int = Field(default=50368, gt=0)
    hidden_size: int = Field(default=768, gt=0)
    intermediate_size: int = Field(default=1152, gt=0)
    num_hidden_layers: int = Field(default=22, gt=0)
    num_attention_heads: int = Field(default=12, gt=0)
    max_position_embeddings: int = Field(default=8192, gt=0)
    initializer_range: float = Field(default=0.02, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)
    local_attention: int = Field(default=128, gt=0)
    sliding_window: int | None = Field(default=None, gt=0)
    layer_types: list[str] | None = None
    global_attn_every_n_layers: int | None = Field(default=None, gt=0)
    rope_parameters: dict[str, dict[str, Any] | None] | None = None
    global_rope_theta: float | None = Field(default=None, gt=1)
    local_rope_theta: float | None = Field(default=None, gt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    embedding_dropout: float = Field(default=0.0, ge=0, lt=1)
    mlp_dropout: float = Field(default=0.0, ge=0, lt=1)
    tie_word_embeddings: bool = True
    hidden_activation: str = "gelu"
    classifier_activation: str = "gelu"
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    classifier_bias: bool = False
    decoder_bias: bool = True
    is_causal: bool | None = None
    rope_scaling: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    seqpair_predicts: Predicts | None = None

    @property
    def direction(self) -> Direction:
        """Return the attention direction of the class."""
        return "causal" if self.model_type == "modernbert-decoder" else "bidirectional"

    @property
    def hub_class(self) -> str:
        """Return the class with a language-model head."""
        return HUB_CLASSES[self.direction][0]

    @property
    def has_head(self) -> bool:
        """Return whether the folder has a language-model head; without `architectures` the model type decides."""
        return not self.architectures or self.hub_class in self.architectures

    @property
    def predicts(self) -> Predicts:
        """Return which output predicts which token, as in the objectives table."""
        return self.seqpair_predicts or ("next" if self.direction == "causal" else "masked")

    def trained_with(self, window_tokens: int) -> FolderConfig:
        """Return the configuration of the same model with another window, as `window_tokens` counts it."""
        attention = local_attention(window_tokens, self.direction)
        return self.model_copy(update={"local_attention": attention, "sliding_window": None})

    def window_tokens(self) -> int:
        """Return how many tokens a local layer sees on each visible side, the token itself not counted.

        Raises:
            HubFolderError: The layers see nothing but the token itself.
        """
        # transformers 5 lets `sliding_window` win over `local_attention`, transformers 4 the reverse (see `notes`).
        half = self.local_attention // 2 if self.sliding_window is None else self.sliding_window
        window = half if self.direction == "bidirectional" else half - 1
        if window < 1:
            raise HubFolderError(
                "the folder's local layers see nothing but the token itself",
                seen=f"local_attention {self.local_attention}, sliding_window {self.sliding_window}",
                allowed="a window of one token or more to a visible side",
                fix="use another model",
            )
        return window

    def global_every(self) -> int:
        """Return g where layer i is global when i is a multiple of g.

        Raises:
            HubFolderError: The layers do not follow such a pattern.
        """
        layers, legacy = self.num_hidden_layers, self.global_attn_every_n_layers or _DEFAULT_GLOBAL_EVERY
        if self.layer_types is None:
            return legacy
        # The stated period first: several periods give the same list where there are few layers.
        periods: list[int] = [legacy, *range(1, layers + 1)]
        for every in periods:
            if layer_types(layers, every) == self.layer_types:
                return every
        raise HubFolderError(
            "the folder's pattern of global and local layers cannot be expressed",
            seen=f"layer_types {[kind.split('_')[0] for kind in self.layer_types]} for {layers} layers",
            allowed="layer i is full_attention when i is a multiple of one number, else sliding_attention",
            fix="use another model",
        )

    def rope(self) -> RopeBases:
        """Return the RoPE bases of global and local layers.

        Raises:
            HubFolderError: Positions are not plain RoPE, or a decoder's local base is not stated.
        """
        given = self.rope_parameters or {}
        unknown = sorted(set(given) - {"full_attention", "sliding_attention"})
        local_stated = "rope_theta" in (given.get("sliding_attention") or {}) or self.local_rope_theta is not None
        if self.direction == "causal" and not local_stated:
            raise HubFolderError(
                "the folder does not state the RoPE base of a decoder's local layers",
                seen="neither rope_parameters.sliding_attention.rope_theta nor local_rope_theta in config.json",
                allowed="one of them: transformers 4 took 160000 where it is missing, transformers 5 takes 10000",
                fix="find out which base it was trained with and add local_rope_theta to config.json",
            )
        bases = []
        for kind, legacy, default in (
            ("full_attention", self.global_rope_theta, _DEFAULT_GLOBAL_THETA),
            ("sliding_attention", self.local_rope_theta, _DEFAULT_LOCAL_THETA),
        ):
            # What is left besides the base must be the default, since our positions have no other parameter.
            values = {"rope_type": "default", "partial_rotary_factor": 1.0, **(given.get(kind) or {})}
            theta = values.pop("rope_theta", default if legacy is None else legacy)
            plain = values == {"rope_type": "default", "partial_rotary_factor": 1.0}
            if unknown or not plain or not isinstance(theta, (int, float)) or not theta > 1:
                raise HubFolderError(
                    "the folder's positions cannot be expressed",
                    seen=f"rope_parameters {given}",
                    allowed="rope_type default with a rope_theta above 1, for full_attention and sliding_attention",
                    fix="use another model",
                )
            bases.append(float(theta))
        return RopeBases(*bases)

    def model_plan(self) -> ModelPlan:
        """Return the model's part of a plan.

        Dropout after the attention output is `attention_dropout`: the classes have one rate for it and
        for the attention weights, which ours never drops.

        Raises:
            HubFolderError: The shape, the pattern or the window cannot be expressed.
        """
        try:
            shape = Shape(
                layers=self.num_hidden_layers,
                width=self.hidden_size,
                inner=self.intermediate_size,
                heads=self.num_attention_heads,
            )
        except ValidationError as error:
            raise HubFolderError(
                "the folder's shape cannot be expressed", seen=error.errors()[0]["msg"], fix="use another model"
            ) from error
        return ModelPlan(
            shape=shape,
            vocab_size=self.vocab_size,
            window_tokens=self.window_tokens(),
            global_every=self.global_every(),
            norm_eps=self.norm_eps,
            attn_out_dropout=self.attention_dropout,
            init_std=self.initializer_range,
        )

    def notes(self) -> list[str]:
        """Return what a reader should know of the folder and an import does not keep."""
        found = []
        ignored = {"embedding_dropout": self.embedding_dropout, "mlp_dropout": self.mlp_dropout}
        found += [
            f"{name} {rate:g} is left out: training here has no such dropout" for name, rate in ignored.items() if rate
        ]
        if self.attention_dropout:
            found.append(
                f"attention_dropout {self.attention_dropout:g} also drops attention weights in transformers; "
                "training here drops after the attention output only"
            )
        rope = self.rope()
        if self.direction == "causal" and rope.global_theta != rope.local_theta:
            found.append(
                f"transformers 4 computes this decoder's local layers with the global base {rope.global_theta:g}; "
                f"the value of transformers 5 is used, {rope.local_theta:g}"
            )
        if self.sliding_window is not None and self.sliding_window != self.local_attention // 2:
            found.append(
                f"sliding_window {self.sliding_window} wins over local_attention {self.local_attention} "
                "in transformers 5, and is used; transformers 4 does the reverse"
            )
        return found


def read_folder_config(folder: Path) -> FolderConfig:
    """Read a folder's `config.json` and refuse what cannot be expressed.

    Raises:
        HubFolderError: The file is missing or unreadable, or the model is of another class, has biases,
            another activation, another predicted token, or anything else that our model does not compute.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise HubFolderError(
            "this folder contains no Hugging Face model",
            seen=f"no file {path}",
            allowed="a folder with config.json, model.safetensors and tokenizer.json",
            fix="make one with `seqpair export`, or download all files of a model",
        )
    try:
        config = FolderConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HubFolderError(
            f"{path} cannot be used", seen=_first_fault(error), allowed=_ALLOWED_CLASSES, fix="use another model"
        ) from error
    _require_expressible(path, config)
    return config


_ALLOWED_CLASSES = " or ".join(
    f"{name} (model_type {kind}), {', '.join(HEADLESS_CLASSES[way])}" for way, (name, kind) in HUB_CLASSES.items()
)


def _first_fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    value = "" if isinstance(fault["input"], (dict, list)) else f", but it is {fault['input']!r}"
    return f"{place or 'the file'}: {fault['msg']}{value}"


def _require_expressible(path: Path, config: FolderConfig) -> None:
    known = {config.hub_class, *HEADLESS_CLASSES[config.direction]}
    if config.architectures and not known & set(config.architectures):
        raise HubFolderError(
            "the folder's model is of another class",
            seen=f"architectures {config.architectures} in {path}",
            allowed=_ALLOWED_CLASSES,
            fix="use a folder of one of these classes",
        )
    # All of them at once, so that a reader sees everything that stands in the way.
    other = {key: getattr(config, key) for key, value in _FIXED.items() if getattr(config, key) != value}
    if other:
        raise HubFolderError(
            "the folder's model cannot be expressed",
            seen=", ".join(f"{key} {value!r}" for key, value in other.items()),
            allowed=", ".join(f"{key} {_FIXED[key]!r}" for key in other),
            fix="use another model",
        )
    if (config.predicts == "next") != (config.direction == "causal"):
        raise HubFolderError(
            f"{PREDICTS_KEY} does not fit the class",
            seen=f"{config.predicts} for {config.hub_class}",
            allowed="next for the decoder, masked or masked_next for the encoder",
            fix=f"correct {PREDICTS_KEY} in {path}",
        )
