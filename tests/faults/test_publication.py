"""The same faults where a run could make them, between proof and publication: `optimize` publishes none of these bundles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest
from click.testing import Result

import artifacts.writer
from artifacts.reader import verify_bundle
from artifacts.weights import Array, map_tensors, write_shard
from optimizer.measure import paired_speed
from optimizer.measure.timing import interleaved_ms
from tests.faults.bench import Bench
from tests.faults.faults import Fault
from tests.faults.written import in_bundle, write_with
from tests.optimizer.conftest import Project, num_records, small_space

#: kind of layer group -> its one scheme; where faults need two layers of a kind alike, or different parts
SCHEMES = {
    "embed": "int8",
    "qkv": "int4-g32-asym",
    "o": "int8",
    "gate_up": "int4-g32-asym-a8",
    "down": "int4-g32-sym",
    "head": "int8",
}
#: of the faults above, those that are cheap and that together stand for every check; the others are marked slow
QUICK = {
    "scales off by one group",
    "zero points transposed",
    "layers swapped",
    "a group has no scales",
    "RoPE theta of another model",
    "a layer has no scheme",
    "BOS twice in the template",
    "tokenizer lower-cases",
    "end of sequence of another model",
    "a byte flipped in the weights",
    "stale KV scales",
    "cache written one slot late",
}


@pytest.fixture(scope="session")
def proved(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run that was interrupted when its plan was proved and its bundle not yet written. Not to be changed."""
    project = Project(tmp_path_factory.mktemp("proved"))
    shutil.copytree(bench.folder / "toy", project.folder / "tiny")
    project.write({"gate": {"max_kl": 1.0}, "evaluation": {"num_sequences": 4, "tokens_per_sequence": 80}}, [])
    space = small_space([])
    for constants in space["kernels"].values():
        constants["constants"] = {name: values[:1] for name, values in constants["constants"].items()}
    space["precision"] = {"groups": {kind: [name] for kind, name in SCHEMES.items()}, "kv_cache": ["int8"]}
    (project.folder / "space.json").write_text(json.dumps(space))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            paired_speed, "interleaved_ms", lambda actions, **given: interleaved_ms(actions, **given | {"min_round_ms": 1.0})
        )
        patch.setattr("optimizer.run.command.emit", interrupted)
        result = project.optimize()
    assert result.exit_code == 130 and "writing the bundle" in result.output, result.output
    return project


@pytest.fixture
def project(proved: Project, tmp_path: Path) -> Project:
    shutil.copytree(proved.folder, tmp_path / "run")
    return Project(tmp_path / "run")


def refusal(project: Project) -> str:
    """The one error of a run that publishes nothing."""
    result = unpublished(project)
    assert isinstance(result.exception, SystemExit)
    assert result.output.count("Error: ") == 1
    return str(result.output.partition("Error: ")[2])


def unpublished(project: Project) -> Result:
    """A run that fails and publishes nothing."""
    result = project.optimize()
    assert result.exit_code == 1, result.output
    left = {path.name for path in project.folder.iterdir()}
    assert left == {"tiny", "model.yaml", "space.json", "out.work"}, "neither a bundle nor a part of one"
    return result


@pytest.mark.parametrize("fault", in_bundle(QUICK))
def test_a_fault_is_not_published(
    fault: Fault, bench: Bench, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_with(fault, bench, tmp_path, monkeypatch)
    if fault.stopped_by == "ValidationError":
        # What the writer is given cannot come from a user: a bug, with its traceback.
        assert "validation error for Deployment" in str(unpublished(project).exception)
    else:
        message = refusal(project)
        assert message.startswith("the bundle must be what was proved, but "), message


def test_a_writer_that_changes_a_scale_before_it_hashes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = "layers.1.down.scales"
    refused = f"the bundle must be what was proved, but the tensor {changed} has other values; it must not be served."

    def faulty(file: BinaryIO, tensors: dict[str, Array]) -> tuple[str, int]:
        return write_shard(file, tensors | {changed: tensors[changed] * tensors[changed].dtype.type(1.001)})

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.writer, "write_shard", faulty)
        assert refusal(project).startswith(refused)

    known = num_records(project.study_db)
    result = project.optimize()
    assert result.exit_code == 0 and "the bundle is what was proved" in result.output, result.output
    assert num_records(project.study_db) == known + 1, "nothing is measured again, but that the bundle is as proved"
    digest = verify_bundle(project.bundle).digest

    monkeypatch.setattr(artifacts.writer, "write_shard", faulty)
    again = project.optimize()
    assert again.exit_code == 1 and refused in again.output
    assert verify_bundle(project.bundle).digest == digest, "a bundle that was there stays"


def test_weights_that_changed_since_they_were_proved(project: Project) -> None:
    """The bundle has what the workspace has; only the scores tell that this is not what was proved."""
    (path,) = project.folder.glob("out.work/*/weights/*/int4-g32-sym/layers.1.down.safetensors")
    tensors = {name: array.copy() for name, array in map_tensors(path).items()}
    tensors["layers.1.down.scales"][0, 0, 0] *= 1.1
    with path.open("wb") as file:
        write_shard(file, tensors)
    assert "on sampled its KL is" in refusal(project)
