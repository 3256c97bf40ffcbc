"""Our model against the two Hugging Face classes, at tiny random sizes, weights mapped both ways.

The map is written out here, apart from the exporter's, so that each checks the other.
"""

import pytest
import torch

from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel, initialise
from seqpair.nn.rope import RopeBases
from seqpair.objectives.loss import summed_cross_entropy
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import Shape

transformers = pytest.importorskip("transformers")

SHAPE = Shape(layers=4, width=32, inner=48, heads=2)
PLAN = ModelPlan(shape=SHAPE, vocab_size=96, window_tokens=8)
ROPE = RopeBases(global_theta=10_000.0, local_theta=500.0)
LENGTHS = [40, 1, 23, 12, 33]
DIRECTIONS = ["bidirectional", "causal"]


def theirs_for(direction: str, *, attention: str = "sdpa") -> torch.nn.Module:
    """Return a random model of the class that computes this direction, with the window that is ours."""
    causal = direction == "causal"
    make_config = transformers.ModernBertDecoderConfig if causal else transformers.ModernBertConfig
    config = make_config(
        vocab_size=PLAN.vocab_size,
        hidden_size=SHAPE.width,
        intermediate_size=SHAPE.inner,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        local_attention=2 * PLAN.window_tokens + (2 if causal else 0),  # theirs counts the token itself if causal
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": ROPE.global_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": ROPE.local_theta},
        },
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        attn_implementation=attention,
    )
    torch.manual_seed(5)
    theirs = (transformers.ModernBertDecoderForCausalLM if causal else transformers.ModernBertForMaskedLM)(config)
    with torch.no_grad():  # values large enough for every part to matter
        for parameter in theirs.parameters():
            parameter.copy_(
                torch.randn_like(parameter) * (0.25 if parameter.ndim == 2 else 0.2) + (parameter.ndim == 1)
            )
    return theirs.eval()


def hub_names(direction: str) -> dict[str, str]:
    """Return their name of each of our parameters; the decoder's three projections still as one `Wqkv`."""
    head = "lm_head" if direction == "causal" else "head"
    names = {
        "backbone.embedding.weight": "model.embeddings.tok_embeddings.weight",
        "backbone.embedding_norm.weight": "model.embeddings.norm.weight",
        "backbone.final_norm.weight": "model.final_norm.weight",
        "head.dense.weight": f"{head}.dense.weight",
        "head.norm.weight": f"{head}.norm.weight",
        "output_bias": "decoder.bias",
    }
    for i in range(SHAPE.layers):
        ours, hub = f"backbone.layers.{i}", f"model.layers.{i}"
        if i > 0:
            names[f"{ours}.attention_norm.weight"] = f"{hub}.attn_norm.weight"
        names[f"{ours}.attention.wqkv.weight"] = f"{hub}.attn.Wqkv.weight"
        names[f"{ours}.attention.wo.weight"] = f"{hub}.attn.Wo.weight"
        names[f"{ours}.mlp_norm.weight"] = f"{hub}.mlp_norm.weight"
        names[f"{ours}.mlp.wi.weight"] = f"{hub}.mlp.Wi.weight"
        names[f"{ours}.mlp.wo.weight"] = f"{hub}.mlp.Wo.weight"
    return names


def take_theirs(model: LanguageModel, theirs: torch.nn.Module, direction: str) -> None:
    state = theirs.state_dict()
    mine = {}
    for ours, hub in hub_names(direction).items():
        if direction == "causal" and hub.endswith("Wqkv.weight"):
            mine[ours] = torch.cat([state[hub.replace("Wqkv", f"{part}_proj")] for part in "qkv"])
        else:
            mine[ours] = state[hub]
    model.load_state_dict(mine, strict=True)


def give_ours(model: LanguageModel, theirs: torch.nn.Module, direction: str) -> None:
    state = {}
    for ours, hub in hub_names(direction).items():
        value = model.state_dict()[ours]
        if direction == "causal" and hub.endswith("Wqkv.weight"):
            state |= {hub.replace("Wqkv", f"{n}_proj"): part for n, part in zip("qkv", value.chunk(3), strict=True)}
        else:
            state[hub] = value
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert set(missing) <= {"decoder.weight"}  # tied
    assert not unexpected


def random_ids() -> torch.Tensor:
    return torch.randint(3, PLAN.vocab_size, (sum(LENGTHS),), generator=torch.Generator().manual_seed(2))


def our_logits(model: LanguageModel, ids: torch.Tensor, direction: str) -> torch.Tensor:
    states = model(ids, Layout.from_lengths(LENGTHS), direction, ROPE, torch.arange(len(ids)))
    return model.logits(states)


def their_logits(theirs: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Each sequence alone, so that nothing of theirs about packing or padding is relied on."""
    return torch.cat([theirs(input_ids=part[None]).logits[0] for part in ids.split(LENGTHS)])


@pytest.mark.parametrize("kernel", ["reference", "blocked"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_their_weights_in_our_model_give_their_logits(direction, kernel):
    theirs = theirs_for(direction)
    model = LanguageModel(PLAN, kernel).eval()
    take_theirs(model, theirs, direction)
    ids = random_ids()
    with torch.no_grad():
        mine, wanted = our_logits(model, ids, direction), their_logits(theirs, ids)
    assert wanted.std() > 0.5
    torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_our_weights_in_their_model_give_our_logits(direction):
    model = LanguageModel(PLAN).eval()
    initialise(model, PLAN, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(12 if parameter.ndim == 2 and "embedding" not in name else 1)
        model.output_bias.copy_(torch.randn(PLAN.vocab_size))
    theirs = theirs_for(direction)
    give_ours(model, theirs, direction)
    ids = random_ids()
    with torch.no_grad():
        torch.testing.assert_close(our_logits(model, ids, direction), their_logits(theirs, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_loss_and_gradients_are_theirs(direction):
    theirs = theirs_for(direction)
    model = LanguageModel(PLAN).eval()
    take_theirs(model, theirs, direction)
    ids = random_ids()[: LENGTHS[0]]
    labels = ids.clone()
    layout = Layout.from_lengths([LENGTHS[0]])
    if direction == "causal":
        output_index, targets = torch.arange(LENGTHS[0] - 1), ids[1:]
    else:
        output_index = torch.arange(1, LENGTHS[0], 3)
        labels = torch.full_like(ids, -100).index_copy(0, output_index, ids[output_index])
        targets = ids[output_index]
    wanted = theirs(input_ids=ids[None], labels=labels[None]).loss
    wanted.backward()
    states = model(ids, layout, direction, ROPE, output_index)
    loss = summed_cross_entropy(states, model.output_weight, model.output_bias, targets) / len(targets)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    gradients = dict(theirs.named_parameters())
    pairs = [("output_bias", "decoder.bias"), ("backbone.embedding.weight", "model.embeddings.tok_embeddings.weight")]
    pairs += [(f"backbone.layers.{i}.mlp.wi.weight", f"model.layers.{i}.mlp.Wi.weight") for i in range(SHAPE.layers)]
    for ours, hub in pairs:
        mine, expected = dict(model.named_parameters())[ours].grad, gradients[hub].grad
        assert (mine - expected).norm() <= 1e-4 * expected.norm()


def test_the_window_that_looks_alike_is_not_ours():
    theirs = theirs_for("causal")
    model = LanguageModel(PLAN.model_copy(update={"window_tokens": PLAN.window_tokens - 1})).eval()
    take_theirs(model, theirs, "causal")
    with torch.no_grad():
        difference = (our_logits(model, random_ids(), "causal") - their_logits(theirs, random_ids())).abs()
    assert difference.max() > 1e-2
