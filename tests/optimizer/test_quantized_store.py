"""What a plan gets of a checkpoint that came quantized: its own codes and scales where the scheme holds them, else new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from artifacts.precision import Scheme
from kernels.formats.table import cpu_packing
from kernels.quant_matmul import gpu_packing
from optimizer.importers import Source, open_source
from optimizer.quantization import round_to_nearest
from optimizer.quantization.packed import CPU_LAYOUT, GPU_LAYOUT
from optimizer.weights.quantized_store import QuantizedStore
from tests.importers.gguf_writing import write_gguf
from tests.importers.prequantized_writing import Written, write_awq, write_fp8, write_gptq
from tests.importers.random_models import CONFIGS, random_model
from tests.importers.test_prequantized import MODULES, joined


def logical(store: QuantizedStore, group: str, scheme: str, num_rows: int, num_columns: int = 0) -> dict[str, np.ndarray]:
    """The parts of a layer group, unpacked again; with `num_columns` from the layout of GPUs."""
    parsed = Scheme.parse(scheme)
    parts = {name.removeprefix(f"{group}."): array for name, array in store.group_tensors(group, parsed).items()}
    if num_columns:
        return gpu_packing.unpack(parts, parsed.weights, num_rows, num_columns)
    return cpu_packing(parsed.variant).unpack(parts, num_rows)


def stores(written: Written, tmp_path: Path) -> tuple[Source, QuantizedStore, QuantizedStore]:
    source = open_source(written.folder)
    return source, QuantizedStore(source, tmp_path / "cpu", CPU_LAYOUT), QuantizedStore(source, tmp_path / "gpu", GPU_LAYOUT)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_int4_codes_scales_and_zeros_reach_the_packed_weights(method: str, tmp_path: Path) -> None:
    written = write_gptq(tmp_path / "m", sym=False) if method == "gptq" else write_awq(tmp_path / "m")
    source, cpu, gpu = stores(written, tmp_path)
    for group in MODULES:
        n, k = source.architecture.linear_shapes()[group]
        for parts in (
            logical(cpu, group, "int4-g32-asym", n),
            logical(cpu, group, "int4-g32-asym-a8", n),
            logical(gpu, group, "int4-g32-asym", n, k),
        ):
            np.testing.assert_array_equal(parts["codes"], joined(written.codes, group))
            np.testing.assert_array_equal(parts["scales"], joined(written.scales, group))
            np.testing.assert_array_equal(parts["zeros"], joined(written.zeros, group))
        assert cpu.relative_error(group, Scheme.parse("int4-g32-asym")) == 0


def test_fp8_blocks_reach_the_packed_weights(tmp_path: Path) -> None:
    written = write_fp8(tmp_path / "m", "block", suffix="weight_scale_inv")
    _, _, gpu = stores(written, tmp_path)
    parts = gpu.group_tensors("layers.0.qkv", Scheme.parse("fp8-block"))
    np.testing.assert_array_equal(parts["layers.0.qkv.codes"], joined(written.codes, "layers.0.qkv"))
    np.testing.assert_array_equal(parts["layers.0.qkv.scales"], joined(written.scales, "layers.0.qkv"))


def test_scales_in_fp32_are_rounded_once_under_the_same_codes(tmp_path: Path) -> None:
    written = write_gptq(tmp_path / "m", scales_dtype=torch.float32)
    source, cpu, _ = stores(written, tmp_path)
    scheme, group = Scheme.parse("int4-g32-sym"), "layers.0.o"
    parts = logical(cpu, group, "int4-g32-sym", source.architecture.linear_shapes()[group][0])
    np.testing.assert_array_equal(parts["codes"], joined(written.codes, group))
    np.testing.assert_array_equal(parts["scales"], joined(written.scales, group).astype(np.float16))
    again = round_to_nearest(group, weight := source.tensor(f"{group}.weight"), scheme).error(weight).relative_rms
    assert 0 < cpu.relative_error(group, scheme) < 2**-11 < again


def test_q4_0_of_gguf_is_int4_in_groups_of_32(tmp_path: Path) -> None:
    """With the rows of Q and K back in the order that llama.cpp changed."""
    model = random_model(CONFIGS["llama"])
    source = open_source(write_gguf(tmp_path / "model.gguf", model, GGMLQuantizationType.Q4_0))
    store = QuantizedStore(source, tmp_path / "store")
    state, scheme = model.state_dict(), Scheme.parse("int4-g32-sym")
    for layer in range(source.architecture.num_layers):
        weights = [state[f"model.layers.{layer}.self_attn.{x}_proj.weight"].numpy() for x in "qkv"]
        blocks = np.concatenate([quantize(weight, GGMLQuantizationType.Q4_0) for weight in weights]).reshape(-1, 18)
        group = f"layers.{layer}.qkv"
        n, _ = source.architecture.linear_shapes()[group]
        parts = logical(store, group, scheme.name, n)
        np.testing.assert_array_equal(parts["scales"].reshape(-1), blocks[:, :2].copy().view(np.float16)[:, 0])
        for block, codes in zip(blocks, parts["codes"].reshape(-1, 32), strict=True):
            assert [byte & 15 for byte in block[2:]] == codes[:16].tolist()
            assert [byte >> 4 for byte in block[2:]] == codes[16:].tolist()
        assert store.relative_error(group, scheme) == 0


@pytest.mark.parametrize(("kind", "reason"), [("Q8_0", "codes are uint8"), ("Q4_1", "codes are Q4_1"), ("F16", None)])
def test_other_types_of_gguf_are_values(kind: str, reason: str | None, tmp_path: Path) -> None:
    model = random_model(CONFIGS["llama"])
    source = open_source(write_gguf(tmp_path / "model.gguf", model, GGMLQuantizationType[kind]))
    found = source.stored("layers.0.o", Scheme.parse("int4-g32-asym"))
    assert (found is None) if reason is None else (found.reason == reason)  # type: ignore[union-attr]


def test_prepared_on_all_cores_weights_are_those_made_on_demand(tmp_path: Path) -> None:
    source = open_source(write_gptq(tmp_path / "m", sym=False).folder)
    prepared, demanded = (QuantizedStore(source, tmp_path / name) for name in ("prepared", "demanded"))
    schemes = [
        Scheme.parse(name) for name in ("fp32", "int8", "int8-a8", "int4-g32-sym", "int4-g32-asym-a8", "int4-twolevel", "int3")
    ]
    groups = {
        group: [s for s in schemes if s.refusal(*shape) is None] for group, shape in source.architecture.linear_shapes().items()
    }
    done: list[None] = []
    threads = torch.get_num_threads()
    prepared.prepare(groups, lambda: done.append(None))
    assert len(done) == len(groups) and torch.get_num_threads() == threads
    for group, some in groups.items():
        for scheme in some:
            demanded.group_tensors(group, scheme)
    made = {path.relative_to(tmp_path / "prepared"): path.read_bytes() for path in (tmp_path / "prepared").rglob("*.*")}
    assert made == {path.relative_to(tmp_path / "demanded"): path.read_bytes() for path in (tmp_path / "demanded").rglob("*.*")}
    times = {path: (tmp_path / "prepared" / path).stat().st_mtime_ns for path in made}
    prepared.prepare(groups)
    assert times == {path: (tmp_path / "prepared" / path).stat().st_mtime_ns for path in made}, "nothing is made twice"
