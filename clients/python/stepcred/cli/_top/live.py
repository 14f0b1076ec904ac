"""The live view. Reads; changes nothing at the broker."""

from __future__ import annotations

import asyncio
import signal
import traceback
from dataclasses import replace
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from stepcred._errors import BrokerUnavailable, DeadlineExceeded, StepcredError
from stepcred._settings import Settings
from stepcred.cli import _exits
from stepcred.cli._top.head import Answered
from stepcred.cli._top.poller import Poller
from stepcred.cli._top.view import Panes

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class TopApp(App[int]):
    """Asks every `interval` seconds, and shows what is known."""

    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c,ctrl+q", "quit", "quit", priority=True)]

    def __init__(self, poller: Poller, known: Answered, interval: float) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self.failure: Exception | None = None
        self._poller = poller
        self._known = known
        self._interval = interval
        self.panes = Panes(known)

    def get_default_screen(self) -> Panes:
        return self.panes

    def on_mount(self) -> None:
        self.run_worker(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            if not self.panes.paused:
                self._known = await asyncio.to_thread(ask, self._poller, self._known)
                self.panes.tell(self._known)

    def _fatal_error(self) -> None:
        """Textual's own shows the local variables of every frame."""
        self.failure = self._exception
        self._close_messages_no_wait()


def ask(poller: Poller, known: Answered) -> Answered:
    """An answer that does not come leaves the last one."""
    try:
        return Answered(snapshot=poller.poll())
    except StepcredError as error:
        return replace(known, problem=error)


def run(settings: Settings, interval: float) -> int:
    """Until the operator leaves. Raises StepcredError when the broker refuses from the start; one that is away may come."""
    poller = Poller(settings)
    try:
        known = ask(poller, Answered())
        if known.problem is not None and not isinstance(known.problem, (BrokerUnavailable, DeadlineExceeded)):
            raise known.problem
        app = TopApp(poller, known, interval)
        code = asyncio.run(_run(app, poller))
    finally:
        poller.close()
    if app.failure is not None:
        traceback.print_exception(app.failure)
        return _exits.SOFTWARE
    return code or 0


async def _run(app: TopApp, poller: Poller) -> int | None:
    """The terminal is given back whatever ends it, short of SIGKILL."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, app.exit, _exits.SIGNALLED + number)
    try:
        return await app.run_async(mouse=False)  # so that the terminal's own selection works
    finally:
        poller.close()  # lets go the thread that asks
