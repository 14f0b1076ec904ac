"""The picture of `stepcred admin top` in docs/: a real session in a pseudo-terminal, drawn as an SVG.

python -m tests.support.top_picture makes it anew. The company and its data are invented.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
import tempfile
from pathlib import Path

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.fakes.operator_server import FakeOperatorService
from tests.support.acme import evening
from tests.support.certs import TestCA
from tests.support.terminal import Terminal

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "admin-top.svg"
COLUMNS, LINES = 100, 16
_COMMAND = Path(sys.executable).parent / "stepcred"
# Nothing is fetched from elsewhere when the picture is looked at.
_FORMAT = re.sub(r"@font-face \{\{.*?\n    \}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "Fira Code, Menlo, Consolas, DejaVu Sans Mono, monospace"
)


def draw(folder: Path) -> str:
    """The SVG. `folder` takes the certificates."""
    authority = TestCA(folder)
    operator = authority.operator("spiffe://test.local/operator/ann")
    acme = evening()
    tls = (*authority.server(), authority.operator_root_path)
    with FakeOperatorService(tls=tls, now=acme.now, **acme.lists()) as service:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "STEPCRED_ADMIN_ADDR": service.addr,
            "STEPCRED_ADMIN_CERT": str(operator.cert),
            "STEPCRED_ADMIN_KEY": str(operator.key),
            "STEPCRED_ADMIN_CA": str(operator.ca),
        }
        with Terminal([str(_COMMAND), "admin", "top"], env, columns=COLUMNS, lines=LINES) as terminal:
            terminal.wait_for("[1 Steps 6]", "LOCKED", "q quit")
            terminal.press("\x1b[B\x1b[B\x1b[B")
            terminal.wait(lambda: terminal.screen.buffer[8][0].reverse, "the cursor on the fourth row")
            picture = _svg(terminal.screen)
            terminal.press("q")
            terminal.ended()
    return picture


def _svg(screen: pyte.Screen) -> str:
    console = Console(
        record=True, width=screen.columns, file=io.StringIO(), force_terminal=True, color_system="standard"
    )
    for line in range(screen.lines):
        text = Text(no_wrap=True, end="\n")
        chars = [screen.buffer[line][column] for column in range(screen.columns)]
        for style, run in itertools.groupby(chars, _style):
            text.append("".join(char.data for char in run), style)
        console.print(text)
    return console.export_svg(title="stepcred admin top", code_format=_FORMAT, unique_id="admin-top")


def _style(char: pyte.screens.Char) -> Style:
    color = {"default": None, "brown": "yellow"}.get(char.fg, char.fg)  # pyte calls the third colour as the VT241 did
    return Style(color=color, bold=char.bold, underline=char.underscore, reverse=char.reverse)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        PICTURE.write_text(draw(Path(scratch)))
    print(PICTURE)
