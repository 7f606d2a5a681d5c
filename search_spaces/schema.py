"""What a search space and a device may say. Every list of candidates is in order of preference: it breaks near-ties."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from artifacts.layer_groups import plain_group
from artifacts.precision import KvDtype, Scheme

T = TypeVar("T", bound=Hashable)
DeviceKind = Literal["cpu", "gpu"]
Dtype = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8"]


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("the list of candidates must not be empty; give at least one")
    if twice := [value for index, value in enumerate(values) if value in values[:index]]:
        raise ValueError(f"candidates must be distinct, got {twice[0]!r} twice; remove one")
    return values


def _scheme_name(name: str) -> str:
    return Scheme.parse(name).name


def _block_size(size: int) -> int:
    if size % 16:
        raise ValueError(f"a KV block size must be a multiple of 16 tokens, got {size}")
    return size


Candidates = Annotated[tuple[T, ...], AfterValidator(_distinct)]
SchemeName = Annotated[str, AfterValidator(_scheme_name)]
ThreadShare = Literal["all", "half"]
BlockSize = Annotated[PositiveInt, AfterValidator(_block_size)]
Constant = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


#: layer groups of latent attention, of experts and of inputs of each layer -> those of a plain decoder
_LIKE = {
    "q": "qkv", "q_a": "qkv", "q_b": "qkv", "kv_a": "qkv", "experts_gate_up": "gate_up", "experts_down": "down",
    "embed_per_layer": "embed", "per_layer_model_projection": "gate_up", "per_layer_input_gate": "gate_up",
    "per_layer_projection": "down",
}  # fmt: skip

#: the fewest that a weight of a rarely reached expert has
_RARE_BITS = 8


class GroupSchemes(_Record):
    """Schemes offered to each kind of layer group."""

    embed: Candidates[SchemeName]
    head: Candidates[SchemeName]
    qkv: Candidates[SchemeName]
    o: Candidates[SchemeName]
    gate_up: Candidates[SchemeName]
    down: Candidates[SchemeName]

    def of(self, kind: str) -> tuple[Scheme, ...]:
        """The schemes offered to layer groups of `kind`: those of its own, or of what does the same in a plainer model.

        Of what is offered to the other experts, rare ones are offered what has at least 8 bits, or int8 if nothing has.
        """
        plain = plain_group(kind)
        names: tuple[str, ...] = getattr(self, _LIKE.get(plain, plain))
        schemes = tuple(Scheme.parse(name) for name in names)
        if kind == plain:
            return schemes
        return tuple(scheme for scheme in schemes if scheme.bits_per_weight >= _RARE_BITS) or (Scheme("int8"),)


class PrecisionSpace(_Record):
    groups: GroupSchemes
    kv_cache: Candidates[KvDtype]


class ServingSpace(_Record):
    """Limits of the runtime that are searched. `max_num_batched_tokens` in tokens per step."""

    kv_block_size: Candidates[BlockSize]
    max_num_seqs: Candidates[PositiveInt]
    max_num_batched_tokens: Candidates[PositiveInt]
    threads: Candidates[ThreadShare] = ("all",)
    """Of a CPU: one for every core that the process may use, or for every second one, as where two share a core's units."""


class KernelSpace(_Record):
    """Compile-time constants of one op -> candidate values. Which combinations are legal is the kernel's to say."""

    constants: Mapping[Constant, Candidates[int]]


class SearchSpace(_Record):
    """All that may be tuned. `kernels` is by op."""

    precision: PrecisionSpace
    serving: ServingSpace
    kernels: Mapping[str, KernelSpace]


class Figure(_Record):
    """A number and the key of the source that states it."""

    value: PositiveFloat
    source: str


class Device(_Record):
    """A device as its vendor describes it. Rates are dense peaks; sizes of on-chip memory are per SM (per CU on AMD).

    A CPU states no figures: its peaks are measured on the host.
    """

    name: str
    title: str
    kind: DeviceKind
    buildable: bool
    arch: Annotated[str, Field(pattern=r"^(sm_\d+|gfx[0-9a-f]+)$")] | None = None
    """What a GPU's code is compiled for: compute capability (sm_90) or gfx target (gfx942)."""
    sources: Mapping[str, str] = Field(default_factory=dict)
    peak_tflops: Mapping[Dtype, Figure] = Field(default_factory=dict)
    memory_bandwidth_gbps: Figure | None = None
    """Gigabytes (1e9 bytes) a second."""
    memory_gb: Figure | None = None
    num_sms: Figure | None = None
    boost_clock_mhz: Figure | None = None
    """The clock at which `peak_tflops` are reached."""
    shared_memory_per_sm_kib: Figure | None = None
    shared_memory_per_block_kib: Figure | None = None
    registers_per_sm: Figure | None = None
    """32-bit registers."""
    l2_mib: Figure | None = None
    l2_bandwidth_gbps: Figure | None = None
    """Reads that hit, all SMs together, gigabytes (1e9 bytes) a second."""
    link_gbps: Figure | None = None
    """Device to device, both directions together, gigabytes a second."""
    link_latency_us: Figure | None = None
    """From one device to the next in a collective."""
    collective_start_us: Figure | None = None
    """What a collective takes before it sends anything."""
    linked_devices: Figure | None = None
    """How many the links join: all of a node."""

    @model_validator(mode="after")
    def _every_figure_has_a_source(self) -> Self:
        values = (getattr(self, name) for name in type(self).model_fields)
        cited = {value.source for value in values if isinstance(value, Figure)}
        cited |= {figure.source for figure in self.peak_tflops.values()}
        if unknown := sorted(cited - self.sources.keys()):
            raise ValueError(f"every figure's source must be a key of sources; {unknown[0]!r} is not")
        if unused := sorted(self.sources.keys() - cited):
            raise ValueError(f"every source must support a figure; {unused[0]!r} supports none, remove it")
        return self
