"""The samples of docs/sdk.md about approvals, run as they stand there."""

from __future__ import annotations

import threading

import pytest

from stepcred import _refusals
from tests.fakes.broker_server import FakeBroker
from tests.support.pages import blocks, page


def samples() -> list[str]:
    section = page("sdk.md").split("\n## Approvals\n")[1].split("\n## ")[0]
    return blocks(section, "python")


@pytest.mark.parametrize("sample", samples(), ids=["sync", "asyncio"])
def test_a_sample_waits_and_gets_its_credential(
    sample: str, fake: FakeBroker, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_refusals, "FIRST_PAUSE", 0.05)
    fake.needs["lake-write"] = 1

    def approve() -> None:
        assert fake.wait_for(lambda: bool(fake.requests("CheckAccess")))
        fake.approve("lake-write")

    operator = threading.Thread(target=approve)
    operator.start()
    exec(compile(sample, "docs/sdk.md", "exec"), {"__name__": "__main__"})
    operator.join(timeout=10)
    assert len(fake.requests("IssueCredential")) == 2
    assert fake.only_step().ended
