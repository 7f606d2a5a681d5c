"""Peak memory of GPTQ on a random model of a billion parameters, and what a kill costs it.

    python -m benchmarks.one_billion_gptq FOLDER [--kill-at-layer 3] [--out benchmarks/results/NAME.json]

Writes a random bf16 llama (16 layers, hidden 2048, intermediate 8192: 1.04 B parameters, 2.1 GB) as a Hugging Face folder,
quantizes every layer by GPTQ to int4-g64-sym and the embedding to int8 in a process of its own, kills that with SIGKILL when it
has calibrated --kill-at-layer layers, and starts it again. Reports the peak resident memory of both processes (VmHWM), and how
many of the files that the first one had finished were made again. FOLDER needs about 8 GB: model, statistics and codes.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

from artifacts.precision import Scheme
from kernels.cpu.host import host
from optimizer.importers import open_source
from optimizer.quantization import Calibration, gptq_method
from optimizer.weights.quantized_store import QuantizedStore
from runtime.models import architecture, checkpoint_tensors

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
NUM_SEQUENCES, NUM_TOKENS = 8, 128
SCHEME, EMBEDDING_SCHEME = Scheme.parse("int4-g64-sym"), Scheme.parse("int8")


def write_model(folder: Path) -> int:
    """The random model, a shard for each layer; the number of its parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    shards: dict[str, dict[str, torch.Tensor]] = {}
    num_parameters = 0
    for name, parts in checkpoint_tensors(architecture(CONFIG)).items():
        shard = f"{'.'.join(name.split('.')[:2])}.safetensors" if name.startswith("layers.") else "rest.safetensors"
        for part in parts:
            drawn = torch.randn(part.shape, generator=generator) * part.shape[-1] ** -0.5
            shards.setdefault(shard, {})[part.name] = (drawn if len(part.shape) > 1 else drawn + 1).to(torch.bfloat16)
            num_parameters += drawn.numel()
    for shard, tensors in shards.items():
        save_file(tensors, folder / shard, metadata={"format": "pt"})
    index = {"weight_map": {name: shard for shard, tensors in shards.items() for name in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    Tokenizer(BPE()).save(str(folder / "tokenizer.json"))
    # Last: a folder with a config is whole.
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return num_parameters


def quantize(folder: Path) -> None:
    source = open_source(folder / "model")
    drawn = torch.randint(CONFIG["vocab_size"], (NUM_SEQUENCES, NUM_TOKENS), generator=torch.Generator().manual_seed(1))
    method = gptq_method(Calibration(source, drawn.tolist(), folder / "calibration"))
    store = QuantizedStore(source, folder / "weights", method=method)
    for group in source.architecture.linear_shapes():
        store.group_tensors(group, EMBEDDING_SCHEME if group == "embed" else SCHEME)
        print("quantized", group, flush=True)


def calibrated(folder: Path) -> list[Path]:
    return sorted((folder / "calibration").glob("layers.*.safetensors"))


def watch(folder: Path, kill_at_layer: int | None) -> tuple[int, int]:
    """Run `quantize` in a process of its own: (peak resident bytes, exit status)."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.one_billion_gptq", str(folder), "--quantize"])
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            peak = max(peak, int(found[1]) * 1024)
        if kill_at_layer is not None and len(calibrated(folder)) >= kill_at_layer:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    return peak, process.returncode


def files(folder: Path) -> dict[str, int]:
    """Path -> time of last change of what calibration and quantization have finished."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("[cw]*/**/layers.*.safetensors")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-at-layer", type=int, default=3)
    parser.add_argument("--quantize", action="store_true", help="what the watched process does")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if arguments.quantize:
        quantize(folder)
        return
    num_parameters = write_model(folder / "model")
    killed_peak, killed_status = watch(folder, arguments.kill_at_layer)
    before = files(folder)
    begin = time.monotonic()
    peak, status = watch(folder, None)
    after = files(folder)
    result = {
        "cpu": host().model,
        "num_parameters": num_parameters,
        "model_bytes": sum(path.stat().st_size for path in (folder / "model").iterdir()),
        "calibration": {"num_sequences": NUM_SEQUENCES, "tokens_per_sequence": NUM_TOKENS},
        "killed_run": {"exit_status": killed_status, "peak_resident_bytes": killed_peak, "num_finished_files": len(before)},
        "second_run": {"exit_status": status, "peak_resident_bytes": peak, "num_finished_files": len(after)},
        "num_files_made_twice": sum(after.get(name) != changed for name, changed in before.items()),
        "second_run_s": round(time.monotonic() - begin),
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
