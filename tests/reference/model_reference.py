"""The model's forward pass written as its definition, one sequence at a time: the oracle of every other."""

import torch
import torch.nn.functional as F


def head_states(model, ids, direction, rope):
    """Return the (T, D) head states of one sequence, from the model's parameters alone."""
    plan, weights = model.backbone.plan, {name: p.detach() for name, p in model.named_parameters()}

    def norm(states, name):
        return F.layer_norm(states, states.shape[-1:], weights[name], None, plan.norm_eps)

    states = norm(weights["backbone.embedding.weight"][ids], "backbone.embedding_norm.weight")
    for index in range(plan.shape.layers):
        layer = f"backbone.layers.{index}"
        is_global = index % plan.global_every == 0
        normed = states if index == 0 else norm(states, f"{layer}.attention_norm.weight")
        theta = rope.global_theta if is_global else rope.local_theta
        window = None if is_global else plan.window_tokens
        mixed = mix(normed @ weights[f"{layer}.attention.wqkv.weight"].T, plan.shape.heads, theta, window, direction)
        states = states + mixed @ weights[f"{layer}.attention.wo.weight"].T
        activated, gate = (norm(states, f"{layer}.mlp_norm.weight") @ weights[f"{layer}.mlp.wi.weight"].T).chunk(2, -1)
        states = states + (F.gelu(activated) * gate) @ weights[f"{layer}.mlp.wo.weight"].T
    hidden = norm(states, "backbone.final_norm.weight")
    return norm(F.gelu(hidden @ weights["head.dense.weight"].T), "head.norm.weight")


def mix(qkv, heads, theta, window, direction):
    """Return what the heads mix, (T, D), of (T, 3D) projections."""
    tokens = len(qkv)
    offset = torch.arange(tokens)[None, :] - torch.arange(tokens)[:, None]  # key minus query
    visible = torch.ones(tokens, tokens, dtype=torch.bool)
    if window is not None:
        visible &= offset.abs() <= window
    if direction == "causal":
        visible &= offset <= 0
    mixed = []
    for query, key, value in zip(*(part.chunk(heads, -1) for part in qkv.chunk(3, -1)), strict=True):
        scores = turned(query, theta) @ turned(key, theta).T * query.shape[-1] ** -0.5
        mixed.append(scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value)
    return torch.cat(mixed, -1)


def turned(states, theta):
    """Return (T, K) features turned by their position: feature j with feature j + K/2, as complex numbers."""
    first, second = states.chunk(2, -1)
    angles = torch.arange(len(states))[:, None] * theta ** (-torch.arange(first.shape[1]) / first.shape[1])
    product = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([product.real, product.imag], -1)
