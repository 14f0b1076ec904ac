"""What `/readyz` says of providers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from broker.http.readiness import Readiness


def test_a_provider_is_named_once() -> None:
    core: Any = SimpleNamespace(store=SimpleNamespace(sparing=False), epoch=SimpleNamespace(fresh=lambda: True))
    engine: Any = SimpleNamespace(draining=False)
    readiness = Readiness(core, engine)
    readiness._looked = True
    readiness._provider_problems = {"aws": ["aws: STS in eu-west-1 gave no answer"], "vault": ["it is sealed"]}
    assert readiness.problems() == ["aws: STS in eu-west-1 gave no answer", "vault: it is sealed"]
