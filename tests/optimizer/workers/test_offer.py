"""What keeps a machine out of a search, one line each."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from optimizer.cli import coldforge
from optimizer.records.hold import RUNS
from optimizer.records.holder import Holder
from optimizer.records.lease import Lease
from optimizer.records.ledger import Ledger
from optimizer.search.offer import CannotJoin, Offer
from tests.optimizer.conftest import MakeProject, Project
from tests.postgresql import PostgreSQL

OFFER = Offer(
    run=0,
    is_open=True,
    version="0.1.0",
    sources={"model.safetensors": "aa"},
    request="bb",
    isa="portable",
    depends_on={"numbers": ["g++ 12", "-O3", "x86-64-v3", "cc"], "weights": {"method": "rtn"}},
    kv_block_size=16,
    study="precision/1",
    bands={"qkv": ["layers.0.qkv", "layers.1.qkv"], "head": ["head"]},
    probes={"int8": (0.25).hex()},
)


def test_a_search_is_joined_by_its_own_numbers_only() -> None:
    OFFER.check_version("0.1.0")
    OFFER.check_request({"model.safetensors": "aa"}, "bb")
    OFFER.check_numbers({"numbers": ("g++ 12", "-O3", "x86-64-v3", "cc")})
    OFFER.check_probes({"int8": (0.25).hex()})
    with pytest.raises(CannotJoin, match=r"coldforge of their search, 0\.1\.0, got 0\.2\.0"):
        OFFER.check_version("0.2.0")
    with pytest.raises(CannotJoin, match=r"byte for byte; 'model.safetensors' is another"):
        OFFER.check_request({"model.safetensors": "ab"}, "bb")
    with pytest.raises(CannotJoin, match=r"'more.safetensors' is another"):
        OFFER.check_request({"model.safetensors": "aa", "more.safetensors": "aa"}, "bb")
    with pytest.raises(CannotJoin, match=r"model\.yaml, a text or the search space differs"):
        OFFER.check_request({"model.safetensors": "aa"}, "cc")
    with pytest.raises(CannotJoin, match=r"numbers differ: the search has g\+\+ 12, this machine g\+\+ 13"):
        OFFER.check_numbers({"numbers": ("g++ 13", "-O3", "x86-64-v3", "cc")})
    with pytest.raises(CannotJoin, match=r"a probe of int8 is 0x1.*; leave this machine out"):
        OFFER.check_probes({"int8": (0.25 + 2**-54).hex()})


def test_an_offer_is_what_it_was_behind_the_storage(tmp_path: Any) -> None:
    runs = Ledger(f"sqlite:///{tmp_path}/study.db", "toy").study(RUNS)
    assert Offer.read(runs) is None
    OFFER.publish(runs)
    read = Offer.read(runs)
    assert read == OFFER
    assert {group: scheme.name for group, scheme in OFFER.plan({"qkv": "int8", "head": "fp32"}).items()} == {
        "layers.0.qkv": "int8",
        "layers.1.qkv": "int8",
        "head": "fp32",
    }


def join(project: Project, *options: str) -> Result:
    return CliRunner().invoke(coldforge, ["worker", str(project.spec_path), *options])


def refused(told: Result) -> str:
    """The one line that `told` ended with."""
    assert told.exit_code == 1 and "Traceback" not in told.output and isinstance(told.exception, SystemExit), told.output
    (line,) = [line for line in told.output.splitlines() if line.startswith("Error: ")]
    return line


def test_a_worker_says_in_one_line_why_it_does_not_join(project: MakeProject, server: PostgreSQL) -> None:
    made, url = project(name="joined"), server.url
    assert "needs the storage of its search; give --storage" in refused(join(made))
    assert "check that its server runs and lets you in" in refused(join(made, "--storage", url.replace(str(server.port), "9")))
    wrong = refused(join(made, "--storage", server.url_of("study", "wrong")))
    assert "password authentication failed" in wrong and "wrong" not in wrong.replace("wrong,", "")
    assert 'database "absent" does not exist' in refused(join(made, "--storage", server.url_of("absent")))
    assert "not joined; start optimize --workers" in refused(join(made, "--storage", url))

    ledger = Ledger(url, "joined")
    assert "that of 'joined' is not running" in refused(join(made, "--storage", url))
    lease = Lease(ledger, RUNS, Holder.here())
    runs, offer = ledger.study(RUNS), replace(OFFER, run=lease.number)
    try:
        for changes, expected in (
            ({"is_open": False}, "search of 'joined' is finished"),
            ({"version": "0.0.1"}, "coldforge of their search, 0.0.1"),
            ({"isa": "x86-64-v4-amx"}, "this CPU lacks"),
            ({}, "the checkpoint of their search, byte for byte; "),
        ):
            replace(offer, **changes).publish(runs)
            if changes == {"isa": "x86-64-v4-amx"} and has_tiles():
                continue
            assert expected in refused(join(made, "--storage", url))
        sources = sources_of(made)
        replace(offer, sources=sources).publish(runs)
        assert "model.yaml, a text or the search space differs" in refused(join(made, "--storage", url))
    finally:
        lease.release()
    assert "that of 'joined' is not running" in refused(join(made, "--storage", url))
    replace(offer, is_open=False).publish(runs)
    assert "that of 'joined' is finished" in refused(join(made, "--storage", url))


def has_tiles() -> bool:
    from kernels.cpu.host import host
    from kernels.cpu.isa import isa

    return not isa("x86-64-v4-amx").missing(host())


def sources_of(project: Project) -> dict[str, str]:
    from optimizer.importers import open_source
    from optimizer.spec import load_spec

    return json.loads(json.dumps(dict(open_source(load_spec(project.spec_path).source).sha256())))
