from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.evaluation import text_sequences


def encode(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def write(path: Path, start: int, count: int) -> Path:
    path.write_text(" ".join(str(start + i) for i in range(count)))
    return path


def test_sequences_do_not_overlap_and_leave_the_rest(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a", 0, 11), write(tmp_path / "b", 100, 4)]
    sequences = text_sequences(paths, encode, num_tokens=4, max_sequences=9)
    assert sequences == [[0, 1, 2, 3], [4, 5, 6, 7], [100, 101, 102, 103]]


def test_a_prefix_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "a", 0, 6)
    assert text_sequences([path], encode, num_tokens=4, max_sequences=9, prefix=[7]) == [[7, 0, 1, 2], [7, 3, 4, 5]]


def test_what_is_too_much_is_thinned_evenly(tmp_path: Path) -> None:
    path = write(tmp_path / "a", 0, 200)
    sequences = text_sequences([path], encode, num_tokens=2, max_sequences=4)
    assert [ids[0] for ids in sequences] == [0, 50, 100, 150]


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fill one sequence of 8 tokens; .*a is too short"):
        text_sequences([write(tmp_path / "a", 0, 7)], encode, num_tokens=8, max_sequences=1)
    with pytest.raises(ValueError, match=r"UTF-8 file; .*absent"):
        text_sequences([tmp_path / "absent"], encode, num_tokens=8, max_sequences=1)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"UTF-8 file; .*binary"):
        text_sequences([tmp_path / "binary"], encode, num_tokens=8, max_sequences=1)
    with pytest.raises(ValueError, match="at least 3, got 2"):
        text_sequences([], encode, num_tokens=2, max_sequences=1, prefix=[1])
