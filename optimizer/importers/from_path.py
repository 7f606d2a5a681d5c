"""Opening a model, whatever it is stored as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from artifacts.errors import UserError
from optimizer.importers.end_of_sequence import completed, doubts
from optimizer.importers.errors import DamagedFile, MissingFile
from optimizer.importers.gguf_model import open_gguf
from optimizer.importers.graph_path import graph_at
from optimizer.importers.hf_folder import open_hf_folder
from optimizer.importers.lora_checkpoint import with_adapter
from optimizer.importers.source import Source
from runtime.generation_config import eos_token_ids
from runtime.loading import chat_template_of
from runtime.prompts import Prompts


def open_source(path: Path, adapter: Path | None = None) -> Source:
    """The model at `path`, a Hugging Face folder, a folder or file of ONNX, or a .gguf file.

    The LoRA in the folder `adapter` is merged into it.

    Everything but the tensors' data is read and checked now. Raises SourceError (each kind its own class) for what is
    missing, damaged or contradictory, and UnsupportedModel for what the runtime does not do.
    """
    if not path.exists():
        raise MissingFile(f"{path} is not there; a source is a Hugging Face folder, a folder or file of ONNX, or a .gguf file")
    source = _opened(path)
    if adapter is not None:
        source = with_adapter(source, adapter)
    try:
        return _with_ends(source)
    except UserError as error:
        raise DamagedFile(f"{path}: {error}") from error


def _opened(path: Path) -> Source:
    graph = graph_at(path)
    if graph is not None:
        try:
            from optimizer.importers.onnx_decoder import open_onnx
        except ModuleNotFoundError as error:
            raise UserError(f"a model in ONNX needs {error.name}: pip install 'coldforge[onnx]'") from error
        return open_onnx(graph)
    return open_hf_folder(path) if path.is_dir() else open_gguf(path)


def _with_ends(source: Source) -> Source:
    """`source`, whose replies also end where its chat template and vocabulary end turns.

    ValueError for an invalid template, and for ends that are not tokens.
    """
    template = chat_template_of(source.chat_template, source.generation_config)
    prompts = Prompts(Tokenizer.from_str(source.tokenizer_json), template)
    stated = eos_token_ids(source.generation_config)
    if not all(isinstance(token, int) and 0 <= token < 1 << 31 for token in stated):
        raise UserError(f"eos_token_id must be a token id, or a list of them, got {stated}")
    ends = completed(prompts, stated)
    config = source.generation_config if ends == stated else {**source.generation_config, "eos_token_id": ends}
    return replace(source, generation_config=config, notes=(*source.notes, *doubts(prompts, stated)))
