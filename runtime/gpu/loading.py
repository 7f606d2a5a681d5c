"""From a verified GPU bundle to a runner: kernels loaded and tested, graphs captured, the KV cache as large as fits.

Its parts are tested where there is no GPU; no GPU has run it.
"""

from __future__ import annotations

import torch

from artifacts.manifest import Limits
from artifacts.precision import Scheme
from artifacts.reader import Bundle
from kernels.gpu import self_test
from kernels.gpu.cuda import CudaDriver
from kernels.gpu.frozen import FrozenKernels
from kernels.gpu.launcher import Launcher
from kernels.gpu.points import parse_tables
from kernels.gpu.refusals import NoDriver
from kernels.gpu.target import Target
from kernels.gpu.tensors import TORCH_DTYPES
from runtime.gpu.decoder import lay_out_gpu
from runtime.gpu.execution import Planner
from runtime.gpu.pool import affordable_blocks, kv_block_bytes
from runtime.gpu.runner import GpuRunner
from runtime.gpu.weights import stored_parts, to_device, to_torch
from runtime.stored_tensors import check_tensors, tensor_shapes

#: left free for what torch and the driver allocate on the way
_RESERVE_BYTES = 512 << 20


def host_arch() -> str | None:
    """The architecture of the first GPU, None where there is no driver."""
    try:
        return CudaDriver().device.arch
    except NoDriver:
        return None


def load_gpu_runner(bundle: Bundle) -> GpuRunner:
    """A runner on the first GPU, warmed up. KernelRefused (its kinds) where the kernels and the device do not fit."""
    driver = CudaDriver()
    arch = driver.device.arch
    folder = bundle.root / "kernels" / arch
    manifest, device = bundle.manifest, torch.device("cuda", 0)
    (kernels,) = manifest.kernels
    assert kernels.table is not None and kernels.activations is not None
    table = parse_tables(bundle.read(kernels.table))[arch]
    target = Target.of(arch, table.num_sms)
    launcher = Launcher(driver, FrozenKernels.read(folder))
    self_test.self_test(launcher.run, self_test.read(folder), target, device)

    plan = {group: Scheme.parse(name) for group, name in manifest.precision.groups.items()}
    check_tensors(bundle.tensors, tensor_shapes(manifest.architecture, plan, stored_parts))
    act = TORCH_DTYPES[kernels.activations]
    weights = to_device(to_torch(bundle.tensors), plan, act, device)

    def runner(limits: Limits) -> GpuRunner:
        program = lay_out_gpu(manifest.architecture, plan, manifest.precision.kv_cache, weights, limits, act, device)
        made = GpuRunner(program, Planner(launcher, target, table))
        made.capture()
        return made

    # The memory of graphs and lazy loads is not known in advance: captured once over the smallest cache, it is measured.
    limits = manifest.serving
    least = -(-limits.max_model_len // limits.kv_block_size)
    dry = runner(limits.model_copy(update={"num_kv_blocks": least}))
    block_bytes = kv_block_bytes(manifest.architecture, manifest.precision.kv_cache, limits.kv_block_size)
    free_bytes = torch.cuda.mem_get_info(device)[0] + least * block_bytes
    del dry
    torch.cuda.empty_cache()
    num_blocks = affordable_blocks(free_bytes, block_bytes, _RESERVE_BYTES, limits.num_kv_blocks, least)
    return runner(limits.model_copy(update={"num_kv_blocks": num_blocks}))
