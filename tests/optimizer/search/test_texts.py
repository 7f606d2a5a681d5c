from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from optimizer.search.texts import read_texts
from optimizer.spec import EvaluationSpec
from tests.tiny_models import byte_tokenizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    """One token for each byte."""
    return byte_tokenizer(())


def spec(*paths: Path) -> EvaluationSpec:
    return EvaluationSpec.model_construct(text=paths, num_sequences=4, tokens_per_sequence=16)


def test_search_and_proof_share_no_sequence(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("".join(f"{i:04d}" for i in range(100)))
    sets = read_texts(spec(path), tokenizer, prefix=[255])
    search, proof = sets.search["prose"], sets.proof["prose"]
    assert len(search) == len(proof) == 4
    assert all(len(ids) == 16 and ids[0] == 255 for ids in search + proof)
    assert not {tuple(ids) for ids in search} & {tuple(ids) for ids in proof}


def test_a_file_too_short_for_both_halves(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "short.txt"
    path.write_text("x" * 16 * 7)
    with pytest.raises(ValueError, match=r"short\.txt: 8 sequences of 16 tokens are needed.* got 7"):
        read_texts(spec(path), tokenizer, prefix=[])
