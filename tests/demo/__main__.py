"""`python -m tests.demo [--keep] [--scopes FILE]`: exit 0 when every check held."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tests.demo.approval import approval
from tests.demo.keep import by_hand
from tests.demo.people_decide import people_decide
from tests.demo.runaway import audit, runaway
from tests.demo.screen import Screen
from tests.demo.setup import set_up
from tests.demo.workflow import extract, load, report

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody wants us to end; everything started is stopped on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="The main job, on real parts.")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--scopes", type=Path, default=Path(__file__).parent / "scopes.yaml", help="another scope map")
    arguments = parser.parse_args()
    screen = Screen()
    screen.title("stepcred demo: workflow nightly-etl, whose steps get credentials that die with them")
    screen.plain("Each step is a process with a certificate. A thief's copy of what it got is tried when it is over.")
    for number in SIGNALS:
        signal.signal(number, _stop)
    try:
        with temporary_folder() as folder:
            _play(screen, folder, arguments.scopes, stay=arguments.keep)
    except Stopped as stopped:
        screen.plain("", "stopped: every server that was started is gone")
        return stopped.exit_code
    except Exception as problem:  # noqa: BLE001 - a server that does not start, a full disk: one more that did not hold
        screen.check("the demo could go on", held=False, seen=f"{type(problem).__name__}: {problem}")
    return screen.total()


def _stop(number: int, _: FrameType | None) -> None:
    for one in SIGNALS:  # a second Ctrl-C must not cut the clean-up short
        signal.signal(one, signal.SIG_IGN)
    raise Stopped(number)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Ours alone (0700), under $TMPDIR, removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="stepcred-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _play(screen: Screen, folder: Path, scope_map: Path, *, stay: bool) -> None:
    with contextlib.ExitStack() as servers:
        stage = set_up(screen, folder, scope_map, servers)
        extract(stage)
        load(stage)
        reference = report(stage)
        waiting = approval(stage)
        runaway(stage)
        people_decide(stage)
        audit(stage)
        if stay:
            screen.total()
            screen.plain("", "Everything is still running. In another terminal:", "")
            screen.table(by_hand(stage.site, reference, waiting))
            screen.plain("", "Ctrl-C here stops all of it and removes the folder.")
            with contextlib.suppress(Stopped):
                signal.pause()
            screen.plain("", "stopping")


if __name__ == "__main__":
    sys.exit(main())
