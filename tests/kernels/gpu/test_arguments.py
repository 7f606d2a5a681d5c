"""Arguments are packed as Triton's own launcher packs them, and as the machine code wants them."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.gpu.arguments import Memory, pack, parameter_bytes
from kernels.gpu.binary import BinaryMetadata, TensorMapMetadata
from kernels.gpu.cubin import Cubin
from kernels.gpu.cuda import CudaDriver
from kernels.gpu.launch import F32, I32, I64, Descriptor, Launch, Ptr, RuntimeArgument, TensorMeta
from kernels.gpu.refusals import ArgumentMismatch, DescriptorRefused, KernelRefused, MisalignedPointer
from kernels.gpu.tensor_map import TensorMap
from tests.kernels.gpu import samples

ARCHS = ("sm_89", "sm_90", pytest.param("sm_100", marks=pytest.mark.slow))


def no_tensor_map(request: TensorMap) -> bytes:
    pytest.fail("no descriptor was to be encoded")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("index", range(len(samples.LAUNCHES)))
def test_what_is_packed_is_what_tritons_launcher_gives_the_driver(arch: str, index: int) -> None:
    sample = samples.compiled(arch)[index]
    driver = CudaDriver(library=str(samples.fake_driver()))
    scratch = samples.SCRATCH if sample.kernel.metadata.global_scratch_bytes else 0
    values = pack(sample.kernel.metadata, sample.launch, samples.TENSORS, driver.tensor_map, scratch)
    assert ",".join(value.hex() for value in values) == sample.triton_launch.split("parameters=")[1]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("index", range(len(samples.LAUNCHES)))
def test_sizes_are_those_that_cuobjdump_reads_from_the_cubin(arch: str, index: int) -> None:
    sample = samples.compiled(arch)[index]
    metadata = sample.kernel.metadata
    assert parameter_bytes(metadata) == tuple(size for _, size in sample.parameters)
    entry = Cubin.parse(sample.kernel.image).entries[metadata.entry]
    assert [tuple(parameter) for parameter in entry.parameters] == sample.parameters
    assert entry.num_threads == 32 * metadata.num_warps


def test_a_cubin_tells_its_gpu_its_toolkit_and_whether_it_is_locked() -> None:
    for arch, capability, locked, runs_on_next_minor in (("sm_89", (8, 9), False, True), ("sm_90", (9, 0), True, False)):
        cubin = Cubin.parse(samples.compiled(arch)[0].kernel.image)
        assert (cubin.capability, cubin.locked) == (capability, locked)
        assert cubin.entries["scalars"].toolkit >= (12, 8)
        major, minor = capability
        assert cubin.runs_on(capability)
        assert cubin.runs_on((major, minor + 1)) is runs_on_next_minor
        assert not any(map(cubin.runs_on, ((major, minor - 1), (major + 1, minor), (major - 1, minor))))


@example(place=0x28, damage=b"\xff" * 8)
@example(place=71, damage=b"\xff" * 8)
@given(st.integers(0, 399), st.binary(min_size=1, max_size=8))
def test_a_damaged_cubin_is_read_or_refused_and_nothing_else(place: int, damage: bytes) -> None:
    image = bytearray(samples.compiled("sm_89")[0].kernel.image)
    place = place if place < 64 else len(image) - 8 * (place - 63)
    image[place : place + len(damage)] = damage
    try:
        Cubin.parse(bytes(image[: len(image) - place % 7]))
    except KernelRefused as error:
        assert "cubin" in str(error) or "ELF" in str(error)


def metadata_of(
    *parameters: tuple[str, str], tensordesc: tuple[TensorMapMetadata, ...] = (), triton: str = "3.9.0"
) -> BinaryMetadata:
    return BinaryMetadata("k", "sm_90", parameters, 4, 0, 0, 1, 0, tensordesc, triton)


def launch_of(**arguments: RuntimeArgument) -> Launch:
    return Launch("op", "k", (1, 1, 1), arguments, {})


_C_TYPES = {"*bf16": ctypes.c_uint64, "i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}
_ARGUMENTS = st.one_of(
    st.tuples(st.just("*bf16"), st.integers(0, 2**60 - 1).map(lambda n: n * 16)),
    st.tuples(st.just("i32"), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just("i64"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("fp32"), st.floats(width=32)),
)


@given(st.lists(_ARGUMENTS, max_size=12), st.integers(0, 2**64 - 1))
def test_any_arguments_are_the_fields_of_the_equivalent_c_struct(arguments: list[tuple[str, float]], scratch: int) -> None:
    kinds = [*(kind for kind, _ in arguments), "*bf16", "*bf16"]
    fields = [(f"p{i}", _C_TYPES[kind]) for i, kind in enumerate(kinds)]
    struct = type("Struct", (ctypes.Structure,), {"_fields_": fields})(*(value for _, value in arguments), scratch, 0)

    memory = {
        f"p{i}": Memory(int(value), TensorMeta.contiguous("bf16", 8))
        for i, (kind, value) in enumerate(arguments)
        if kind == "*bf16"
    }
    make = {"i32": I32, "i64": I64, "fp32": F32}
    given_arguments = {
        f"p{i}": Ptr(f"p{i}") if kind == "*bf16" else make[kind](value) for i, (kind, value) in enumerate(arguments)
    }
    # The order of the launch's mapping means nothing: the metadata's is the kernel's.
    shuffled = dict(sorted(given_arguments.items(), reverse=True))
    metadata = metadata_of(*((f"p{i}", kind) for i, (kind, _) in enumerate(arguments)))
    values = pack(metadata, launch_of(**shuffled), memory, no_tensor_map, scratch)

    assert [len(value) for value in values] == list(parameter_bytes(metadata))
    for (name, kind), value in zip(fields, values, strict=True):
        place = getattr(type(struct), name)
        assert value == bytes(struct)[place.offset : place.offset + place.size], (name, kind)


def test_an_fp32_scalar_is_a_float_and_is_refused_where_it_would_be_none() -> None:
    metadata = metadata_of(("s", "fp32"))
    assert pack(metadata, launch_of(s=F32(0.1)), {}, no_tensor_map)[0] == bytes(ctypes.c_float(0.1))
    assert pack(metadata, launch_of(s=F32(float("-inf"))), {}, no_tensor_map)[0] == bytes(ctypes.c_float(float("-inf")))
    with pytest.raises(ArgumentMismatch, match=r"s of op.k must be a value of fp32, got 1e\+39"):
        pack(metadata, launch_of(s=F32(1e39)), {}, no_tensor_map)


def test_before_triton_3_7_a_decomposed_descriptor_has_one_flag() -> None:
    described = ("d", "tensordesc<bf16[16, 16]>")
    assert len(parameter_bytes(metadata_of(described, triton="3.6.0"))) + 1 == len(
        parameter_bytes(metadata_of(described, triton="3.7.0"))
    )


def test_what_a_kernel_would_misread_is_refused() -> None:
    memory = {"x": Memory(4096, TensorMeta.contiguous("bf16", 64)), "odd": Memory(4104, TensorMeta.contiguous("bf16", 64))}
    pointer = metadata_of(("x", "*bf16"))
    for launch, metadata, error, says in (
        (launch_of(x=Ptr("odd")), pointer, MisalignedPointer, "multiple of 16 bytes.*0x1008"),
        (launch_of(x=Ptr("x")), metadata_of(("x", "*fp16")), ArgumentMismatch, r"compiled as \*fp16.*gives \*bf16"),
        (launch_of(x=I32(3)), pointer, ArgumentMismatch, r"compiled as \*bf16.*gives i32"),
        (launch_of(x=I64(3)), metadata_of(("x", "i32")), ArgumentMismatch, "compiled as i32.*gives i64"),
        (launch_of(x=I32(1 << 31)), metadata_of(("x", "i32")), ArgumentMismatch, "value of i32, got 2147483648"),
        (launch_of(), pointer, ArgumentMismatch, r"lacks \['x'\]"),
        (launch_of(x=Ptr("x"), y=Ptr("x")), pointer, ArgumentMismatch, r"gives \['y'\] more"),
        (launch_of(x=Ptr("x")), metadata_of(("x", "fp64")), ArgumentMismatch, "compiled as fp64"),
    ):
        with pytest.raises(error, match=says):
            pack(metadata, launch, memory, no_tensor_map)
    with pytest.raises(ArgumentMismatch, match="x of k is fp64"):
        parameter_bytes(metadata_of(("x", "fp64")))


LEGAL = Descriptor("x", (64, 128), (136, 1), (32, 64))
HOW = TensorMapMetadata(swizzle=3, box=(32, 64))


@pytest.mark.parametrize(
    ("change", "how", "address", "says"),
    [
        ({"strides": (132, 1)}, HOW, 4096, "multiples of 16 bytes"),
        ({"strides": (136, 2)}, HOW, 4096, "the last stride is 1"),
        ({"strides": (1 << 40, 1), "shape": (1, 128)}, HOW, 4096, "below 1099511627776 bytes"),
        ({"strides": (1,)}, HOW, 4096, "same rank"),
        ({"shape": (0, 128)}, HOW, 4096, "every extent is 1"),
        ({"shape": (65, 128)}, HOW, 4096, "lies within its tensor"),
        ({"shape": (64, 137)}, HOW, 4096, "lies within its tensor"),
        ({}, HOW, 4104, "0x1008, is a multiple of 16"),
        ({}, TensorMapMetadata(3, (257, 64)), 4096, "extents of 1 to 256"),
        ({}, TensorMapMetadata(3, (64,)), 4096, "has 2 extents"),
        ({}, TensorMapMetadata(0, (32, 12)), 4096, "24 bytes, is a multiple of 16"),
        ({}, TensorMapMetadata(3, (32, 128)), 4096, "256 bytes, is at most its swizzle of 128"),
        ({}, TensorMapMetadata(1, (32, 64)), 4096, "128 bytes, is at most its swizzle of 32"),
        ({}, TensorMapMetadata(7, (32, 64)), 4096, "its swizzle, 7, is 0 to 3"),
    ],
)
def test_what_the_copy_hardware_cannot_have_is_refused(
    change: dict[str, object], how: TensorMapMetadata, address: int, says: str
) -> None:
    memory = {"x": Memory(address, TensorMeta("bf16", (64, 136), (136, 1)))}
    metadata = metadata_of(("d", "tensordesc<bf16[32, 64]>"), tensordesc=(how,))
    asked: list[TensorMap] = []

    def encode(request: TensorMap) -> bytes:
        asked.append(request)
        return bytes(128)

    if not change:
        pack(replace(metadata, tensordesc=(HOW,)), launch_of(d=LEGAL), {"x": replace(memory["x"], address=4096)}, encode)
        assert asked.pop() == TensorMap(9, 4096, (128, 64), (272,), (64, 32), 3, (63 * 136 + 127) * 2)
    with pytest.raises(DescriptorRefused, match=says):
        pack(metadata, launch_of(d=replace(LEGAL, **change)), memory, encode)
    assert not asked


def test_metadata_survives_json_and_is_the_compilers() -> None:
    for sample in samples.compiled("sm_90"):
        assert BinaryMetadata.from_json(sample.kernel.metadata.to_json()) == sample.kernel.metadata
    fields = samples.compiled("sm_90")[1].kernel.metadata.to_json()
    fields["tensordesc"][0]["is_im2col"] = True
    with pytest.raises(ValueError, match="tiled"):
        BinaryMetadata.from_json(fields)
