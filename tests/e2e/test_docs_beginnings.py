"""Each page about a way of asking begins with at most five lines that work, pasted as they stand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lake import BUCKET, Lake
from tests.e2e.programs import BIN, Programs, on_tmpfs
from tests.support.bao import BaoServer
from tests.support.pages import ROOT
from tests.support.postgres import PostgresServer

AT_MOST = 5  # lines, blank ones not counted
_FIRST = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(shutil.which("psql") is None, reason="no psql on this machine")


def beginning(page: str) -> tuple[str, str]:
    """(language, lines) of the page's first block, which comes before its first section."""
    opening = (ROOT / "docs" / page).read_text().split("\n## ")[0]
    found = _FIRST.search(opening)
    assert found is not None, f"{page} begins with nothing to paste"
    return found[1], found[2]


@pytest.fixture(scope="module")
def programs(bao: BaoServer, pg: PostgresServer, lake: Lake) -> Iterator[Programs]:
    folder = on_tmpfs("docs")
    try:
        made = Programs(bao=bao, pg=pg, lake=lake, folder=folder, name="docs")
        (made.home / "report.csv").write_text("a,b\n")
        lake.ceph.client("s3").put_object(Bucket=BUCKET, Key="nightly-etl/there", Body=b"x")
        with made.deployment.daemon():
            yield made
    finally:
        shutil.rmtree(folder)


PAGES = ["sdk.md", "exec.md", "sidecar.md", "aws-credential-process.md", "can.md"]


@pytest.mark.parametrize("page", [*PAGES, "dev.md", "testing.md", "kubernetes.md"])
def test_a_page_begins_with_five_lines(page: str) -> None:
    _, text = beginning(page)
    assert len([line for line in text.splitlines() if line.strip()]) <= AT_MOST


@pytest.mark.parametrize("page", PAGES)
def test_its_five_lines_work(programs: Programs, page: str) -> None:
    language, text = beginning(page)
    argv: list[str | Path] = (
        [BIN / "python", "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    )
    where = {"AWS_ENDPOINT_URL": programs.lake.ceph.url, "AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true"}
    runtime = programs.folder / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    done = programs.run(argv, programs.env(**where, XDG_RUNTIME_DIR=str(runtime)))
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
