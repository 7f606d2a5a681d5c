"""The network of a decoder, once: what each layer computes, from what, and in which order. How is a builder's business.

A builder turns the ops below into calls of kernels over buffers (CPU, GPU), into torch, or into the nodes of a graph. What
differs between families comes to it as an argument or as a name: no builder asks which model it builds.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, TypeVar

from artifacts.architecture import Architecture

Stream = TypeVar("Stream")
"""The residual stream, [T, hidden_size]."""
Value = TypeVar("Value")
"""Any other intermediate result."""


class Activation(NamedTuple):
    """The activation of a gate: its name, and the numbers of those that have some (`Architecture.activation`)."""

    name: Literal["silu", "gelu", "clamped_silu"]
    limit: float
    slope: float

    @property
    def scalars(self) -> dict[str, float]:
        """What its kernels take beside the gate."""
        return {"limit": self.limit, "slope": self.slope} if self.name == "clamped_silu" else {}


class Latents(Protocol[Value]):
    """Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, 2.1)."""

    def attend(self, layer: int, q: Value, kv: Value) -> Value:
        """Attention of q [T, heads head_dim] over latents: kv [T, cache_dim] is this step's, before its norm and rotation."""
        ...


class Mixtures(Protocol[Value]):
    """Experts in place of a feed-forward network, or beside one."""

    def route(self, name: str, x: Value) -> None:
        """Chooses the experts of each token of layer `name`; what follows in the layer goes to them."""
        ...

    def linear(self, group: str, x: Value) -> Value:
        """x W^T, plus the bias, for each pair of a token and an expert; x is of tokens, or of pairs, whose results are then
        weighted."""
        ...

    def combine(self, name: str, pairs: Value, shared: Value | None) -> Value:
        """The sum of a token's pairs, and of the shared expert's output."""
        ...


class Extras(Protocol[Stream, Value]):
    """What layers of some families have beside attention and a feed-forward network."""

    def norm_without_gain(self, name: str, x: Value, eps: float) -> Value:
        """RMSNorm of each head of x, which stays as it is."""
        ...

    def rows(self, group: str) -> Value:
        """Those of the step's tokens in the table `group`."""
        ...

    def shares(self, x: Value, width: int) -> Value:
        """[T, n, width] of [T, n width]."""
        ...

    def share(self, x: Value, index: int) -> Value:
        """One of them, [T, width]."""
        ...

    def add(self, x: Value, more: Value, factor: float) -> Value:
        """x + factor more; x has no other use."""
        ...

    def gated_by(self, name: str, gate: Value, x: Value, activation: Activation) -> Value:
        """activation(gate) * x, as `gated` of one value."""
        ...

    def times(self, stream: Stream, factor: float) -> Stream:
        """The stream times a number."""
        ...

    def scale(self, name: str, stream: Stream) -> Stream:
        """The same by the number `name`.weight."""
        ...

    def settled(self, stream: Stream) -> Stream:
        """The stream with all that joined it, so that several norms may read it."""
        ...


class LayerBuilder(Protocol[Stream, Value]):
    """The ops of a layer.

    One norm, or `read`, takes a stream before the next branch joins it, unless it is settled, and the last reader of a value
    comes before the next value of its name: a builder may add where a norm reads, round where a value is made, and keep one
    buffer for all layers.
    """

    @property
    def latents(self) -> Latents[Value] | None:
        """None if the builder has no such ops, or the model needs none."""
        ...

    @property
    def mixtures(self) -> Mixtures[Value] | None:
        """Likewise."""
        ...

    @property
    def extras(self) -> Extras[Stream, Value] | None:
        """Likewise."""
        ...

    def norm(self, name: str, stream: Stream, readers: tuple[str, ...], eps: float) -> Value:
        """RMSNorm (Zhang & Sennrich 2019) with the gain `name`.weight, for the layer groups `readers` (and a router)."""
        ...

    def read(self, stream: Stream) -> Value:
        """The stream as it is."""
        ...

    def norm_in_place(self, name: str, x: Value, readers: tuple[str, ...], eps: float) -> Value:
        """The same of a value that has no other use: of each head where x has heads."""
        ...

    def linear(self, group: str, x: Value) -> Value:
        """x W^T, plus the group's bias where it has one."""
        ...

    def split(self, qkv: Value, sizes: tuple[int, ...]) -> tuple[Value, ...]:
        """Queries, and keys and values as far as there are any: [T, size] each."""
        ...

    def heads(self, x: Value, head_dim: int) -> Value:
        """One of them as [T, heads, head_dim]."""
        ...

    def attend(
        self, layer: int, q: Value, k: Value | None, v: Value | None, scale: float, window: int, softcap: float
    ) -> Value:
        """softmax(f(scale q k^T)) v, causal, with q and k rotated; k and v go to the cache of the layer. [T, q_size].

        Without k and v they are those in the cache of another layer, which the architecture names. f(s) is softcap tanh(s /
        softcap), or s where softcap is 0. A query sees `window` positions, all where that is 0. The layer's sinks, where it has
        any, are scores of heads that join the softmax and stand for no value.
        """
        ...

    def gated(self, name: str, gate_up: Value, reader: str, activation: Activation) -> Value:
        """activation(gate) * up (Shazeer 2020), for the layer group `reader`; what clamped_silu is the architecture says."""
        ...

    def join(self, stream: Stream, branch: Value, factor: float) -> Stream:
        """stream + factor branch."""
        ...


class Builder(LayerBuilder[Stream, Value], Protocol[Stream, Value]):
    """The ops of a network."""

    def embed(self) -> Stream:
        """The embedding's rows of the step's tokens."""
        ...

    def gather(self, x: Value) -> Value:
        """The rows whose logits are wanted."""
        ...

    def head(self, group: str, x: Value, softcap: float) -> None:
        """f(x W^T), with the f of `attend`: the logits."""
        ...


def network(a: Architecture, build: Builder[Stream, Value]) -> None:
    """Builds the whole model."""
    stream = build.embed()
    if a.embedding_factor != 1.0:
        assert build.extras is not None
        stream = build.extras.times(stream, a.embedding_factor)
    inputs = per_layer_inputs(a, build, stream) if a.per_layer_size else None
    for i in range(a.num_layers):
        stream = layer(a, i, build, stream, inputs)
    build.head("embed" if a.tie_embeddings else "head", build.gather(final_norm(a, build, stream)), a.logit_softcap)


def per_layer_inputs(a: Architecture, build: LayerBuilder[Stream, Value], stream: Stream) -> Value:
    """Builds what layers read beside the stream, [T, layers, per_layer_size]: (norm(embeddings W^T) + rows sqrt(size)) 2^-1/2.

    The norm's gain has been divided by the root of 2; its eps is the larger, because transformers 5.23 divides what it reads by
    the root of hidden_size.
    """
    assert build.extras is not None
    size, extras = a.per_layer_size, build.extras
    projected = extras.shares(build.linear("per_layer_model_projection", build.read(stream)), size)
    normed = build.norm_in_place("per_layer_norm", projected, (), a.rms_norm_eps * a.hidden_size)
    return extras.add(normed, extras.shares(extras.rows("embed_per_layer"), size), (size / 2) ** 0.5)


def layer(a: Architecture, i: int, build: LayerBuilder[Stream, Value], stream: Stream, inputs: Value | None = None) -> Stream:
    """Builds layer i: the stream behind it. `inputs` are `per_layer_inputs`."""
    attention = _latent_attention if a.mla else _attention
    branch = attention(a, i, build, stream)
    stream = _joined(a, f"layers.{i}.attn_post_norm", build, stream, branch)
    feed_forward = _mixture if a.is_moe(i) else _feed_forward
    if a.moe and a.is_moe(i) and a.moe.beside_dense:
        assert build.extras is not None
        feed_forward, stream = _mixture_beside_dense, build.extras.settled(stream)
    branch = feed_forward(a, i, build, stream)
    stream = _joined(a, f"layers.{i}.mlp_post_norm", build, stream, branch)
    if inputs is not None:
        stream = _join_inputs(a, i, build, stream, inputs)
    if a.layer_scalars:
        assert build.extras is not None
        stream = build.extras.scale(f"layers.{i}.scalar", stream)
    return stream


def _read(a: Architecture, norm: str, build: LayerBuilder[Stream, Value], stream: Stream, readers: tuple[str, ...]) -> Value:
    return build.norm(norm, stream, readers, a.stream_eps) if a.pre_norms else build.read(stream)


def _joined(a: Architecture, norm: str, build: LayerBuilder[Stream, Value], stream: Stream, branch: Value) -> Stream:
    if a.post_norms:  # whose gains have the factor
        return build.join(stream, build.norm_in_place(norm, branch, (), a.rms_norm_eps), 1.0)
    return build.join(stream, branch, a.branch_factor)


def final_norm(a: Architecture, build: LayerBuilder[Stream, Value], stream: Stream) -> Value:
    """Builds what the head reads."""
    return build.norm("final_norm", stream, (), a.stream_eps)


def _attention(a: Architecture, i: int, build: LayerBuilder[Stream, Value], stream: Stream) -> Value:
    """Grouped-query attention (Ainslie et al. 2023)."""
    name = f"layers.{i}"
    qkv = build.linear(f"{name}.qkv", _read(a, f"{name}.attn_norm", build, stream, (f"{name}.qkv",)))
    q, *kv = build.split(qkv, a.qkv_sizes(i))
    q, k, v = _heads(a, i, f"{name}.q_norm", build, q), None, None
    if kv:
        head_dim = a.layer_shape(i).head_dim
        v = build.heads(kv[-1], head_dim)  # before the norm of keys, which they may be
        if a.value_norm:
            assert build.extras is not None
            v = build.extras.norm_without_gain(f"{name}.v_norm", v, a.rms_norm_eps)
        k = _heads(a, i, f"{name}.k_norm", build, kv[0])
    return build.linear(f"{name}.o", build.attend(i, q, k, v, a.score_scale, a.window(i), a.attention_softcap))


def _heads(a: Architecture, i: int, norm: str, build: LayerBuilder[Stream, Value], x: Value) -> Value:
    head_dim = a.layer_shape(i).head_dim
    if not a.qk_norm:
        return build.heads(x, head_dim)
    if a.qk_norm_of_all_heads:
        return build.heads(build.norm_in_place(norm, x, (), a.rms_norm_eps), head_dim)
    return build.norm_in_place(norm, build.heads(x, head_dim), (), a.rms_norm_eps)


def _latent_attention(a: Architecture, i: int, build: LayerBuilder[Stream, Value], stream: Stream) -> Value:
    assert a.mla is not None and build.latents is not None
    name, eps = f"layers.{i}", a.rms_norm_eps
    queries = f"{name}.q" if a.mla.q_lora_rank is None else f"{name}.q_a"
    normed = build.norm(f"{name}.attn_norm", stream, (queries, f"{name}.kv_a"), a.stream_eps)
    # First, because rounding the queries again may take the place of the rounded norm.
    kv = build.linear(f"{name}.kv_a", normed)
    q = build.linear(queries, normed)
    if a.mla.q_lora_rank is not None:
        q = build.linear(f"{name}.q_b", build.norm_in_place(f"{name}.q_norm", q, (f"{name}.q_b",), eps))
    return build.linear(f"{name}.o", build.latents.attend(i, q, kv))


def _activation(a: Architecture) -> Activation:
    return Activation(a.activation, a.activation_limit, a.activation_slope)


def _feed_forward(a: Architecture, i: int, build: LayerBuilder[Stream, Value], stream: Stream) -> Value:
    """down(activation(gate x) * up x) (Shazeer 2020)."""
    name = f"layers.{i}"
    gate_up = build.linear(f"{name}.gate_up", _read(a, f"{name}.mlp_norm", build, stream, (f"{name}.gate_up",)))
    return build.linear(f"{name}.down", build.gated(f"{name}.activation", gate_up, f"{name}.down", _activation(a)))


def _join_inputs(a: Architecture, i: int, build: LayerBuilder[Stream, Value], stream: Stream, inputs: Value) -> Stream:
    """The stream with a branch of what layer i reads beside it: norm(W2 (activation(W1 x) * input))."""
    assert build.extras is not None
    name = f"layers.{i}"
    gate = build.linear(f"{name}.per_layer_input_gate", build.read(stream))
    gated = build.extras.gated_by(f"{name}.per_layer_activation", gate, build.extras.share(inputs, i), _activation(a))
    branch = build.linear(f"{name}.per_layer_projection", gated)
    return build.join(stream, build.norm_in_place(f"{name}.per_layer_post_norm", branch, (), a.rms_norm_eps), 1.0)


def _mixture(a: Architecture, i: int, build: LayerBuilder[Stream, Value], stream: Stream) -> Value:
    """Routed experts, and one that all tokens go to where there is one."""
    assert a.moe is not None and build.mixtures is not None
    name, experts = f"layers.{i}", build.mixtures
    has_shared = a.moe.shared_intermediate_size > 0
    readers = (f"{name}.router", f"{name}.experts_gate_up", *((f"{name}.gate_up",) if has_shared else ()))
    normed = build.norm(f"{name}.mlp_norm", stream, readers, a.stream_eps)
    experts.route(name, normed)
    # First, because rounding the experts' activations may take the place of the rounded norm.
    shared = build.linear(f"{name}.gate_up", normed) if has_shared else None
    pairs = experts.linear(f"{name}.experts_gate_up", normed)
    activated = build.gated(f"{name}.activation", pairs, f"{name}.experts_down", _activation(a))
    pairs = experts.linear(f"{name}.experts_down", activated)
    if shared is not None:
        activated = build.gated(f"{name}.shared_activation", shared, f"{name}.down", _activation(a))
        shared = build.linear(f"{name}.down", activated)
    return experts.combine(name, pairs, shared)


def _mixture_beside_dense(a: Architecture, i: int, build: LayerBuilder[Stream, Value], stream: Stream) -> Value:
    """norm(routed experts) + norm(feed-forward network): these two and the router read norms of their own."""
    assert build.mixtures is not None and build.extras is not None
    name, experts, eps = f"layers.{i}", build.mixtures, a.rms_norm_eps
    experts.route(name, build.norm(f"{name}.router_norm", stream, (f"{name}.router",), a.stream_eps))
    readers = tuple(a.expert_groups(f"{name}.experts_gate_up"))
    pairs = experts.linear(f"{name}.experts_gate_up", build.norm(f"{name}.mixture_norm", stream, readers, a.stream_eps))
    activated = build.gated(f"{name}.activation", pairs, f"{name}.experts_down", _activation(a))
    routed = experts.combine(name, experts.linear(f"{name}.experts_down", activated), None)
    routed = build.norm_in_place(f"{name}.mixture_post_norm", routed, (), eps)
    dense = build.norm_in_place(f"{name}.dense_post_norm", _feed_forward(a, i, build, stream), (), eps)
    return build.extras.add(dense, routed, 1.0)
