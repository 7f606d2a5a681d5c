"""Reading AMD assembly: LLVM annotates its loops and counts its waves, and the record must agree."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from kernels.compile.amdgcn import parse_amdgcn
from kernels.compile.control_flow import natural_loops
from kernels.compile.instructions import UnreadableCode
from kernels.compile.occupancy import occupancy
from tests.kernels.compile.conftest import Compiled

SAMPLES = [("matmul", "gfx942"), ("matmul", "gfx950"), ("persistent_matmul", "gfx942")]

DESCRIPTOR = """
\t.section\t.rodata
\t.amdhsa_kernel f
\t\t.amdhsa_private_segment_fixed_size 0
\t\t.amdhsa_next_free_vgpr 32
; codeLenInByte = 64
  - .agpr_count:     0
    .sgpr_count:     20
"""


def listing(*lines: str) -> str:
    return "".join(line + "\n" if line.startswith(".") else f"\t{line}\n" for line in lines) + DESCRIPTOR


@pytest.mark.parametrize(
    ("text", "form", "kind", "lane_bytes"),
    [
        ("global_load_dwordx4 v[2:5], v[6:7], off", "global_load_dwordx4", "global_load", 16),
        ("buffer_load_ushort v2, v3, s[4:7], 0 offen", "buffer_load_ushort", "global_load", 2),
        ("buffer_load_dword v2, s[4:7], 0 offen lds", "buffer_load_dword", "async_copy", 4),
        ("global_load_lds_dwordx4 v[2:3], off", "global_load_lds_dwordx4", "async_copy", 16),
        ("buffer_store_dwordx2 v[2:3], v4, s[4:7], 0 offen", "buffer_store_dwordx2", "global_store", 8),
        ("ds_read_b128 v[2:5], v6 offset:16", "ds_read_b128", "shared_load", 16),
        ("ds_read2st64_b64 v[2:5], v6 offset1:1", "ds_read2st64_b64", "shared_load", 16),
        ("ds_read_u16_d16_hi v2, v6", "ds_read_u16_d16_hi", "shared_load", 2),
        ("ds_read_b64_tr_b16 v[2:3], v6", "ds_read_b64_tr_b16", "shared_load", 8),
        ("ds_write2_b32 v2, v3, v4 offset1:1", "ds_write2_b32", "shared_store", 8),
        ("ds_bpermute_b32 v2, v3, v4", "ds_bpermute_b32", "shuffle", 0),
        ("scratch_load_dword v2, off, s33", "scratch_load_dword", "spill", 4),
        ("v_mfma_f32_32x32x16_bf16 a[0:15], v[2:5], v[6:9], 0", "v_mfma_f32_32x32x16_bf16", "tensor", 0),
        ("v_exp_f32_e32 v2, v3", "v_exp_f32", "transcendental", 0),
        ("v_cvt_pk_bf16_f32 v2, v3, v4", "v_cvt_pk_bf16_f32", "conversion", 0),
        ("v_perm_b32 v2, v3, v4, s5", "v_perm_b32", "logic", 0),
        ("v_pk_fma_f32 v[2:3], v[4:5], v[6:7], v[8:9]", "v_pk_fma_f32", "float", 0),
        ("v_lshl_add_u64 v[2:3], v[4:5], 1, v[6:7]", "v_lshl_add_u64", "logic", 0),
        ("v_add_u32_e32 v2, v3, v4", "v_add_u32", "integer", 0),
        ("v_accvgpr_read_b32 v2, a3", "v_accvgpr_read_b32", "move", 0),
        ("s_load_dwordx4 s[0:3], s[4:5], 0x0", "s_load_dwordx4", "constant", 0),
        ("s_waitcnt vmcnt(0)", "s_waitcnt", "barrier", 0),
        ("s_add_i32 s2, s3, 1", "s_add_i32", "uniform", 0),
    ],
)
def test_an_instruction_is_read_as(text: str, form: str, kind: str, lane_bytes: int) -> None:
    first, _ = parse_amdgcn(listing(text, "s_endpgm")).code
    assert (first.form, first.kind, first.lane_bytes) == (form, kind, lane_bytes)


def test_a_loop_is_named_by_its_label() -> None:
    kernel = parse_amdgcn(
        listing(
            "s_mov_b32 s0, 0",
            ".LBB0_1:",
            "s_add_i32 s0, s0, 1",
            "s_cbranch_scc1 .LBB0_1",
            "s_branch .LBB0_2",
            ".LBB0_2:",
            "s_endpgm",
        )
    )
    (loop,) = natural_loops(kernel.code)
    assert (kernel.labels[loop.header], len(loop.own)) == (".LBB0_1", 2)


def test_a_branch_to_no_label_is_refused() -> None:
    with pytest.raises(UnreadableCode, match=r"goes to \.LBB0_9"):
        parse_amdgcn(listing("s_branch .LBB0_9", "s_endpgm"))


def test_text_without_a_kernel_is_refused() -> None:
    with pytest.raises(UnreadableCode, match="this text has 0"):
        parse_amdgcn("\ts_endpgm\n")
    with pytest.raises(UnreadableCode, match="was it cut"):
        parse_amdgcn("\ts_endpgm\n\t.section\t.rodata\n\t.amdhsa_kernel f\n")


@pytest.mark.parametrize(("name", "arch"), SAMPLES)
def test_loops_are_those_that_llvm_annotates(name: str, arch: str, compiled: Callable[[str, str], Compiled]) -> None:
    text = compiled(name, arch).binary
    assert isinstance(text, str)
    kernel = parse_amdgcn(text)
    # ".LBB0_3:  ; =>This Inner Loop Header: Depth=2", or on the lines below the label.
    headers = re.findall(
        r"^(\.LBB\w+):[^\n]*\n?(?:\s+;[^\n]*\n)*?[^\n]*=>\s*This (?:Inner )?Loop Header: Depth=(\d)", text, re.M
    )
    found = {kernel.labels[loop.header]: str(loop.depth) for loop in natural_loops(kernel.code)}
    assert found == dict(headers)
    assert len(found) == (2 if name == "persistent_matmul" else 1)


@pytest.mark.parametrize(("name", "arch"), SAMPLES)
def test_waves_per_simd_are_those_that_llvm_counts(name: str, arch: str, compiled: Callable[[str, str], Compiled]) -> None:
    """LLVM does not know the shared memory of the launch, so none is given here; a block of one wave a SIMD counts waves."""
    text = compiled(name, arch).binary
    assert isinstance(text, str)
    kernel = parse_amdgcn(text)
    counted = re.search(r"; Occupancy: (\d+)", text)
    registers = re.search(r"; TotalNumVgprs: (\d+)", text)
    assert counted and registers
    assert kernel.registers == int(registers[1])
    found = occupancy(arch, num_warps=4, registers=kernel.registers, shared_bytes=0, scalar_registers=kernel.scalar_registers)
    assert found.blocks == int(counted[1])
