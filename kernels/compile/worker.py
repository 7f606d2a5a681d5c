"""Compiles kernels for GPUs that need not be present: `python -m kernels.compile.worker`, a JSON job and an answer a line.

A process of its own, because Triton compiles only where it was not imported for interpretation, and because a compiler that
crashes takes its process along. A job is {"source": KernelSource.to_json(), "folder": where the result goes}; there then lie
`image` (cubin or hsaco), `metadata.json` and, for AMD, `amdgcn`. The answer is {"error": null or why there is no kernel}.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.gpu.launch import ALIGNMENT
from kernels.gpu.target import ARCHS


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        job = json.loads(line)
        error = None
        try:
            _compile(job["source"], Path(job["folder"]))
        except Exception as failure:
            # Whatever the compiler raises about one kernel is the answer to that job, and the next one is not affected.
            error = f"{type(failure).__name__}: {failure}"
        print(json.dumps({"error": error}), file=answers, flush=True)


def _compile(source: dict[str, Any], folder: Path) -> None:
    arch = ARCHS[source["arch"]]
    function = getattr(importlib.import_module(f"kernels.{source['op']}.triton"), source["function"])
    types = dict(source["signature"])
    signature = {name: types.get(name, "constexpr") for name in function.arg_names}
    constants = {parameter.name: parameter.default for parameter in function.params if parameter.has_default}
    constants = {name: value for name, value in constants.items() if name not in types} | source["constants"]
    missing = [name for name, kind in signature.items() if kind == "constexpr" and name not in constants]
    if missing or types.keys() - signature.keys():
        raise ValueError(f"the launch gives {sorted(types.keys() - signature.keys())} too much and lacks {missing}")
    aligned = {
        (index,): [["tt.divisibility", ALIGNMENT]] for index, kind in enumerate(signature.values()) if kind.startswith("*")
    }
    options = {name: source[name] for name in ("num_warps", "num_stages")} | {"enable_fp_fusion": True}
    if source["maxnreg"] is not None:
        options["maxnreg"] = source["maxnreg"]
    compiled = triton.compile(
        ASTSource(function, signature, constants, aligned),
        target=GPUTarget(arch.backend, arch.number, arch.warp_size),
        options=options,
    )
    facts = compiled.metadata._asdict()
    image = compiled.asm["cubin" if arch.backend == "cuda" else "hsaco"]
    metadata = {
        "entry": facts["name"],
        "arch": source["arch"],
        "parameters": [[name, kind] for name, kind in signature.items() if kind != "constexpr"],
        "num_warps": facts["num_warps"],
        "shared_bytes": facts["shared"],
        "global_scratch_bytes": facts.get("global_scratch_size") or 0,
        "global_scratch_align": facts.get("global_scratch_align") or 1,
        "profile_scratch_bytes": facts.get("profile_scratch_size") or 0,
        "tensordesc": facts.get("tensordesc_meta") or [],
        "triton": triton.__version__,
    }
    folder.mkdir(parents=True)
    (folder / "image").write_bytes(image)
    if arch.backend == "hip":
        (folder / "amdgcn").write_text(compiled.asm["amdgcn"], encoding="utf-8")
    (folder / "metadata.json").write_text(json.dumps(metadata, sort_keys=True, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
