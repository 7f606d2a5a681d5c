"""Safetensors files against the safetensors library, both ways, and every way for one to be malformed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load as library_load
from safetensors.numpy import save as library_save

from artifacts.errors import WeightsError
from artifacts.weights import Array, map_tensors, shard_names, shard_tensors, write_shard

# uint16 stands for bfloat16, which the library does not give to numpy: it has a test of its own.
DTYPES = [np.dtype(name) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u1")]

some_tensors = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable()),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9))
    ),
    max_size=6,
)


def written(tensors: dict[str, Array]) -> bytes:
    file = io.BytesIO()
    write_shard(file, tensors)
    return file.getvalue()


def file_of(header: object, data: bytes, tmp_path: Path, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "shard.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def tensor(begin: int, end: int, dtype: Any = "U8", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@given(tensors=some_tensors)
@settings(max_examples=60)
def test_the_library_reads_what_we_write(tensors: dict[str, Array]) -> None:
    loaded = library_load(written(tensors))
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert loaded[name].dtype == array.dtype and loaded[name].tobytes() == array.tobytes()


@given(tensors=some_tensors)
@settings(max_examples=60)
def test_we_read_what_the_library_and_we_write(tensors: dict[str, Array], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "shard.safetensors"
    for data in (library_save(tensors), written(tensors)):
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        mapped = map_tensors(path)
        assert mapped.keys() == tensors.keys()
        for name, array in tensors.items():
            assert mapped[name].dtype == array.dtype and mapped[name].shape == array.shape
            assert mapped[name].tobytes() == array.tobytes()


@given(tensors=some_tensors)
@settings(max_examples=60)
def test_alignment(tensors: dict[str, Array], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "aligned.safetensors"
    path.unlink(missing_ok=True)
    path.write_bytes(written(tensors))
    for array in map_tensors(path).values():
        if array.size:
            assert array.ctypes.data % (64 if array.nbytes % 64 == 0 else array.itemsize) == 0


def test_bfloat16_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    path.write_bytes(written({"x": np.array([0x3F80, 0xC000], np.uint16)}))
    with safe_open(str(path), framework="pt") as file:
        assert file.get_tensor("x").tolist() == [1.0, -2.0]
        assert str(file.get_tensor("x").dtype) == "torch.bfloat16"
    assert map_tensors(path)["x"].tolist() == [0x3F80, 0xC000]


def test_golden_bytes() -> None:
    tensors = {"odd": np.arange(3, dtype=np.uint8), "even": np.zeros(16, np.float32)}
    header = (
        b'{"even":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"odd":{"dtype":"U8","shape":[3],"data_offsets":[64,67]}}'
    )
    padded = header.ljust(120)
    assert written(tensors) == (120).to_bytes(8, "little") + padded + bytes(64) + b"\x00\x01\x02"


def test_strided_arrays_are_written_by_value() -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert written({"x": array.T}) == written({"x": np.ascontiguousarray(array.T)})


def test_views_are_read_only_and_not_copies(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    path.write_bytes(written({"x": np.ones(4, np.float32)}))
    mapped = map_tensors(path)["x"]
    assert not mapped.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 2


def test_an_array_of_a_dtype_without_a_name() -> None:
    with pytest.raises(WeightsError, match=r"'x' must be one of .* got complex128"):
        written({"x": np.ones(1, np.complex128)})


def test_shards_are_filled_in_name_order() -> None:
    tensors = {name: np.zeros(size, np.uint8) for name, size in {"d": 1, "a": 6, "b": 4, "c": 30}.items()}
    assert [list(shard) for shard in shard_tensors(tensors, 10)] == [["a", "b"], ["c"], ["d"]]
    assert shard_names(1) == ["model.safetensors"]
    assert shard_names(2)[1] == "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("header", "data", "length", "rule"),
    [
        ({"x": tensor(0, 4)}, b"1234", 1 << 60, "header must fit"),
        ({"x": tensor(0, 4)}, b"123", None, "data must end where the file ends"),
        ({"x": tensor(0, 4)}, b"12345", None, "data must end where the file ends"),
        ({"x": tensor(0, 4), "y": tensor(3, 7)}, b"1234567", None, "'y' overlaps"),
        ({"x": tensor(0, 4), "y": tensor(5, 9)}, b"123456789", None, "'y' leaves a hole"),
        ({"x": tensor(1, 5)}, b"12345", None, "'x' leaves a hole"),
        ({"x": tensor(0, 4), "y": tensor(0, 4)}, b"1234", None, "overlaps"),
        ({"x": tensor(0, 4, dtype="F7")}, b"1234", None, "dtype of .* got 'F7'"),
        ({"x": tensor(0, 4, dtype=["F32"])}, b"1234", None, "dtype"),
        ({"x": tensor(0, 4, shape=[3])}, b"1234", None, "must not span 4 bytes"),
        ({"x": tensor(0, 4, shape=[-4])}, b"1234", None, "shape of non-negative"),
        ({"x": tensor(0, 4, shape=[True, 4])}, b"1234", None, "shape of non-negative"),
        ({"x": tensor(0, 4, shape="4")}, b"1234", None, "shape of non-negative"),
        ({"x": {**tensor(0, 4), "data_offsets": [4, 0]}}, b"1234", None, "must not span"),
        ({"x": {**tensor(0, 4), "data_offsets": [0]}}, b"1234", None, "two non-negative"),
        ({"x": {**tensor(0, 4), "more": 1}}, b"1234", None, "exactly dtype, shape and data_offsets"),
        ({"x": {"dtype": "U8", "shape": [4]}}, b"1234", None, "exactly dtype, shape and data_offsets"),
        ({"x": 3}, b"", None, "exactly dtype, shape and data_offsets"),
        ([], b"", None, "must be a JSON object"),
        (b" {}", b"", None, r"starts with '\{'"),
        (b"{", b"", None, "header must be JSON"),
        (b"\xff", b"", None, "header must be JSON"),
        (b'{"x":1,"x":2}', b"", None, "unique keys.*'x' appears twice"),
        (b"[" * 100_000, b"", None, "header must be JSON"),
        (b"", b"", None, "header must be JSON"),
    ],
)
def test_a_malformed_file(tmp_path: Path, header: object, data: bytes, length: int | None, rule: str) -> None:
    path = file_of(header, data, tmp_path, length)
    with pytest.raises(WeightsError, match=rule) as caught:
        map_tensors(path)
    assert caught.value.path == path


def test_a_file_too_short_for_a_length(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1234567")
    with pytest.raises(WeightsError, match="header must fit"):
        map_tensors(tmp_path / "x")


def test_a_huge_header(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(100_000_100)
    with pytest.raises(WeightsError, match="at most 100000000"):
        map_tensors(path)


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    path = file_of({"__metadata__": {"format": "pt"}, "x": tensor(0, 1)}, b"1", tmp_path)
    assert list(map_tensors(path)) == ["x"]
