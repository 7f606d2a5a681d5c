"""What a search tells workers elsewhere: what they must have, what they are to find, and which plans a choice stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna

from artifacts.errors import UserError
from artifacts.precision import Plan, Scheme
from optimizer.evaluation import NoScore
from optimizer.search.accuracy import Judge

_OFFER = "offer"


class CannotJoin(UserError):
    """There is nothing to join, or this machine would find other numbers."""


@dataclass(frozen=True)
class Offer:
    """`run` is the number of the lease of the run that made it."""

    run: int
    is_open: bool
    version: str
    """coldforge's."""
    sources: Mapping[str, str]
    """File of the model -> sha256."""
    request: str
    """Digest of what model.yaml and the search space ask for."""
    isa: str | None
    """The instruction set that kernels are built for; None where the target is emulated."""
    depends_on: Mapping[str, Any]
    """What scores follow from beside the plan."""
    kv_block_size: int
    study: str
    bands: Mapping[str, Sequence[str]]
    """Band -> its layer groups."""
    probes: Mapping[str, str]
    """Scheme -> the KL that a probe of it found, to the last bit."""

    def publish(self, runs: optuna.Study) -> None:
        """Beside the runs, where workers look."""
        runs.set_user_attr(_OFFER, json.dumps(asdict(self), sort_keys=True))

    @classmethod
    def read(cls, runs: optuna.Study) -> Offer | None:
        """The last one; None where there was none."""
        content = runs.user_attrs.get(_OFFER)
        return cls(**json.loads(content)) if content else None

    def plan(self, choice: Mapping[str, str]) -> dict[str, Scheme]:
        """Layer group -> scheme."""
        return {group: Scheme.parse(choice[band]) for band, groups in self.bands.items() for group in groups}

    def check_version(self, version: str) -> None:
        """Every check raises CannotJoin, which says what differs."""
        if version != self.version:
            raise CannotJoin(
                f"workers must have the coldforge of their search, {self.version}, got {version}; install that one"
            )

    def check_request(self, sources: Mapping[str, str], request: str) -> None:
        """Of the checkpoint and of model.yaml."""
        if other := sorted(name for name in {*sources, *self.sources} if sources.get(name) != self.sources.get(name)):
            raise CannotJoin(
                f"workers must have the checkpoint of their search, byte for byte; {other[0]!r} is another; copy it from there"
            )
        if request != self.request:
            raise CannotJoin(
                "workers must be asked for what their search is, and model.yaml, a text or the search space differs; copy them "
                "from there"
            )

    def check_numbers(self, depends_on: Mapping[str, Any]) -> None:
        """Of kernels, texts and weights."""
        for part, here in json.loads(json.dumps(depends_on)).items():
            if here != self.depends_on[part]:
                pairs = zip(here, self.depends_on[part], strict=False) if isinstance(here, list) else ()
                here, there = next(((h, t) for h, t in pairs if h != t), (here, self.depends_on[part]))
                raise CannotJoin(
                    f"scores must be the same to the bit on every machine, and {part} differ: the search has {_short(there)}, "
                    f"this machine {_short(here)}; use the same compiler and sources, or leave this machine out"
                )

    def check_probes(self, probes: Mapping[str, str]) -> None:
        """What this machine finds."""
        for scheme, there in self.probes.items():
            if probes.get(scheme) != there:
                raise CannotJoin(
                    f"scores must be the same to the bit on every machine, and a probe of {scheme} is {probes.get(scheme)} "
                    f"here, {there} in the search; leave this machine out"
                )


def probe_each(judge: Judge, schemes: Mapping[str, Plan]) -> dict[str, str]:
    """Scheme -> KL of every layer group that can have it in it, over parts of some texts, in hexadecimal or in words."""
    exact = replace(judge, workbench=judge.workbench.exact())

    def found(plan: Plan) -> str:
        try:
            return exact.probe_kl(plan).hex()
        except NoScore as error:
            return str(error)

    return {name: found(plan) for name, plan in schemes.items()}


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}... of {len(text)} characters"
