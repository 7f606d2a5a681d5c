"""How many choices do two fresh tunes of one model disagree on?

    python benchmarks/tune_agreement.py examples/smollm2.yaml [--out benchmarks/results/NAME.json]

Runs `optimize` twice from nothing (new storage, new workspace, same seed) and compares the bundles: kernel constants, serving
limits, KV cache dtype, and the scheme of every layer group.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from artifacts.manifest import Manifest
from artifacts.reader import read_manifest
from kernels.cpu.host import host

OPTIMIZE = Path(sys.executable).with_name("optimize")


def choices(manifest: Manifest) -> dict[str, object]:
    """Everything in a bundle that a tune decided."""
    decided: dict[str, object] = {"kv_cache": manifest.precision.kv_cache}
    decided |= {f"scheme of {group}": scheme for group, scheme in manifest.precision.groups.items()}
    decided |= {f"limit {name}": value for name, value in manifest.serving.model_dump().items()}
    for kernels in manifest.kernels:
        decided |= kernels.constants
    return decided


def fresh_tune(spec: Path, folder: Path) -> Manifest:
    bundle = folder / "bundle"
    subprocess.run([OPTIMIZE, spec, "-o", bundle], check=True)
    return read_manifest(bundle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tunes = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            tunes.append(choices(fresh_tune(arguments.spec, Path(folder))))
    first, second = tunes
    differing = {name: [first[name], second.get(name)] for name in first if first[name] != second.get(name)}
    result = {"cpu": host().model, "num_choices": len(first), "num_differing": len(differing), "differing": differing}
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
