"""A failure told when it happens: pytest tells of all at its end, and a run that is killed has none."""

from __future__ import annotations

import pytest


class AtOnce:
    """A plugin for the process with the terminal (under xdist the controller, which gets the workers' reports)."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.failed:
            return
        self._terminal.ensure_newline()
        self._terminal.section(f"{report.nodeid} ({report.when}, after {report.duration:.1f} s)", sep="!", red=True)
        for text in (report.longreprtext, *(f"--- {title} ---\n{said}" for title, said in report.sections)):
            self._terminal.write_line(text)
        self._terminal.flush()
