"""The binding of the CUDA driver, against a stand-in that writes down what it is asked. No GPU has run it."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.gpu.cuda import CudaDriver
from kernels.gpu.driver import Device
from kernels.gpu.hip import HipDriver
from kernels.gpu.refusals import DescriptorRefused, DriverError, DriverTooOld, NoDriver
from kernels.gpu.tensor_map import TensorMap
from tests.kernels.gpu import samples


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "driver.log"
    path.touch()
    monkeypatch.setenv("FAKE_CUDA_LOG", str(path))
    return path


def fake() -> CudaDriver:
    return CudaDriver(library=str(samples.fake_driver()))


def test_a_device_is_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CAPABILITY", "103"), ("SMS", "148"), ("SHARED", "233000"), ("VERSION", "12090"), ("DEVICES", "2")):
        monkeypatch.setenv(f"FAKE_CUDA_{name}", value)
    device = CudaDriver(1, str(samples.fake_driver())).device
    assert device == Device("Fake GPU 1", "sm_103", 148, 233000, (12, 9))
    assert device.capability == (10, 3)


def test_a_machine_without_driver_or_device_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoDriver, match=r"libno_such_driver.*Install"):
        CudaDriver(library="libno_such_driver.so.1")
    with pytest.raises(DriverTooOld, match="must have cuInit"):
        CudaDriver(library="libm.so.6")
    with pytest.raises(NoDriver, match="one of the 1 that the driver sees, got 1; see CUDA_VISIBLE_DEVICES"):
        CudaDriver(1, str(samples.fake_driver()))
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuInit=100")
    with pytest.raises(NoDriver, match="cuInit failed with error 100"):
        fake()


@pytest.mark.parametrize("call", ["cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute", "cuCtxSetCurrent"])
def test_a_call_that_fails_is_an_error_in_the_drivers_words(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = fake()
    monkeypatch.setenv("FAKE_CUDA_FAIL", f"{call}=209")
    with pytest.raises(DriverError, match=f"{call} failed with error 209: no kernel image is available") as caught:
        driver.load(b"\x7fELF", "kernel", 64 * 1024)
    assert caught.value.status == 209


def test_shared_memory_is_asked_for_only_above_what_a_kernel_has_anyway(log: Path) -> None:
    driver = fake()
    for shared_bytes in (0, 49152, 49153, 232448):
        driver.load(b"\x7fELF", f"k{shared_bytes}", shared_bytes)
    asked = [line for line in log.read_text().splitlines() if line.startswith(("attribute", "cache"))]
    assert asked == ["cache k49153 1", "attribute k49153 8 49153", "cache k232448 1", "attribute k232448 8 232448"]


def test_the_context_is_entered_once_by_each_thread(log: Path) -> None:
    driver = fake()
    for _ in range(3):
        driver.enter()
    thread = threading.Thread(target=lambda: driver.load(b"\x7fELF", "k", 0))
    thread.start()
    thread.join()
    assert log.read_text().splitlines() == ["context", "context", "module"]


def test_memory_that_the_device_cannot_reach_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = fake()
    monkeypatch.setenv("FAKE_CUDA_ELSEWHERE", "0x1230")
    assert not driver.reaches(0x1230)
    assert driver.reaches(0x1240)


@given(st.data())
def test_a_tensor_map_is_asked_for_as_the_driver_wants_it(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 5))
    extents = st.lists(st.integers(1, 2**32 - 1), min_size=rank, max_size=rank).map(tuple)
    strides = st.lists(st.integers(0, 2**36 - 1).map(lambda n: 16 * n), min_size=rank - 1, max_size=rank - 1).map(tuple)
    boxes = st.lists(st.integers(1, 256), min_size=rank, max_size=rank).map(tuple)
    numbers = (data.draw(st.integers(0, 15)), 16 * data.draw(st.integers(0, 2**60 - 1)))
    swizzle, last = data.draw(st.integers(0, 3)), data.draw(st.integers(1 << 20, 1 << 30))
    request = TensorMap(*numbers, data.draw(extents), data.draw(strides), data.draw(boxes), swizzle, last)
    encoded = fake().tensor_map(request)

    no_interleave, promotion_128_bytes, zeros = 0, 2, 0
    head = (request.data_type, rank, no_interleave, request.swizzle, promotion_128_bytes, zeros, 2**64 - 1, request.address)
    padding = (0,) * (5 - rank)
    assert struct.unpack("<6B2xQQ5I4x4Q5I5B23x", encoded) == (
        *head,
        *(*request.shape, *padding),
        *(*request.strides_bytes, *padding)[:4],
        *(*request.box, *padding),
        *(*(1,) * rank, *padding),
    )


@pytest.mark.parametrize(
    ("version", "last_element_bytes", "cleared"),
    [(13010, 131070, True), (13010, 131071, False), (12000, 0, True), (13020, 0, False)],
)
def test_a_bit_is_cleared_for_small_tensors_on_old_drivers(
    version: int, last_element_bytes: int, cleared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_VERSION", str(version))
    encoded = fake().tensor_map(TensorMap(9, 4096, (8, 8), (16,), (8, 8), 0, last_element_bytes))
    word = int.from_bytes(encoded[8:16], "little")
    assert word == 2**64 - 1 - (cleared << 21)


def test_hip_is_behind_the_same_interface(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = HipDriver(library=str(samples.fake_driver("libamdhip64.so")))
    assert driver.device == Device("Fake GPU 0", "gfx942", 304, 65536, (6, 4))
    driver.load(b"\x7fELF", "k", 60 * 1024)
    assert log.read_text().splitlines() == ["context", "module"]
    assert driver.reaches(0x1240)
    with pytest.raises(DescriptorRefused, match="Fake GPU 0 has none"):
        driver.tensor_map(TensorMap(9, 4096, (8, 8), (16,), (8, 8), 0, 0))
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuModuleLoadData=1")
    with pytest.raises(DriverError, match="hipModuleLoadData failed with error 1: invalid argument"):
        driver.load(b"\x7fELF", "k", 0)
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "0")
    with pytest.raises(NoDriver, match="one of the 0 that the driver sees"):
        HipDriver(library=str(samples.fake_driver("libamdhip64.so")))
