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
    return EvaluationSpec.model_construct(text=paths, num_sequences=4, max_sequences=None, tokens_per_sequence=16)


def test_search_and_proof_share_no_sequence(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("".join(f"{i:04d}" for i in range(100)))
    sets = read_texts(spec(path), tokenizer, prefix=[255])
    search, text = sets.search["prose"], sets.proof["prose"]
    assert len(search) == len(text.first) == 4 and [look.size for look in text.looks] == [4, 8, 16]
    proof = text.sequences(0, 16)
    assert proof[:4] == text.first and proof[4:8] == text.sequences(4, 8), "a look adds to what was heard"
    assert all(len(ids) == 16 and ids[0] == 255 for ids in search + proof)
    assert not {tuple(ids) for ids in search} & {tuple(ids) for ids in proof}
    places = sorted(path.read_text().index(tokenizer.decode(ids[1:])) for ids in text.first)
    assert places[0] < 100 and places[-1] >= 300, "what is heard first is from all parts of the file"


def test_a_file_too_short_for_both_halves(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "short.txt"
    path.write_text("x" * 16 * 7)
    with pytest.raises(ValueError, match=r"short\.txt: 8 sequences of 16 tokens are needed.* got 7"):
        read_texts(spec(path), tokenizer, prefix=[])
