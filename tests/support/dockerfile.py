"""A Dockerfile's own steps, run without Docker: each stage in a root of its own, its FROM replaced by this machine's.

What is understood is what ours use; anything else fails, so that nothing is passed over.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import rootfs
from tests.support.rootfs import Rootfs

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(kw_only=True, slots=True)
class Image:
    """A stage after its last step."""

    base: str
    root: Rootfs | None = None
    env: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    labels: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)  # USER, STOPSIGNAL, HEALTHCHECK, EXPOSE as written
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    cwd: str = "/"


def instructions(text: str) -> list[tuple[str, str]]:
    """Continued lines joined, comments gone."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(op, rest) for op, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def build(text: str, context: Path, holder: int, scratch: Path) -> Image:
    """The last stage, after all of its steps."""
    stages: dict[str, Image] = {}
    image: Image | None = None
    for op, rest in instructions(text):
        if op == "FROM":
            base, _, name = rest.partition(" AS ")
            image = Image(base=base, root=rootfs.copy_of_ours(holder, scratch, name or "last"))
            stages[name] = image
        else:
            assert image is not None
            _step(op, rest, image, stages, context)
    assert image is not None
    return image


def settings_of(text: str, root: Rootfs) -> Image:
    """The last stage's settings over another root: what it says, without what it makes."""
    found = instructions(text)
    last = max(place for place, (op, _) in enumerate(found) if op == "FROM")
    image = Image(base=found[last][1], root=root)
    for op, rest in found[last + 1 :]:
        if op not in ("RUN", "COPY"):
            _step(op, rest, image, {}, Path())
    return image


def _step(op: str, rest: str, image: Image, stages: dict[str, Image], context: Path) -> None:
    root = image.root
    assert root is not None
    match op:
        case "ENV":
            image.env |= _pairs(rest)
        case "LABEL":
            image.labels |= _pairs(rest)
        case "WORKDIR":
            image.cwd = rest
            root.outside("mkdir", "-p", f"{root.path}{rest}")
        case "RUN":
            done = root.run(["sh", "-c", rest], env=image.env, cwd=image.cwd, network=True)
            assert done.returncode == 0, f"RUN {rest}\n{done.stdout}{done.stderr}"
        case "COPY":
            _copy(shlex.split(rest), image, stages, context)
        case "ENTRYPOINT":
            image.entrypoint = json.loads(rest)  # the exec form, or this fails
        case "CMD":
            image.cmd = json.loads(rest)
        case "USER" | "STOPSIGNAL" | "HEALTHCHECK" | "EXPOSE":
            image.settings[op] = rest
        case _:
            raise AssertionError(f"{op} is not understood here")


def _copy(words: list[str], image: Image, stages: dict[str, Image], context: Path) -> None:
    """Owned by root, as Docker has it. A folder's content goes into the destination."""
    assert image.root is not None
    source_root = str(context)
    if words[0].startswith("--from="):
        stage = stages[words.pop(0).removeprefix("--from=")].root
        assert stage is not None
        source_root = str(stage.path)
    *sources, destination = words
    target = Path(image.cwd) / destination
    folder = destination.endswith("/")
    into = Path(f"{image.root.path}{target}")
    for source in sources:
        if source_root == str(context):
            assert source.split("/")[0] in _allowed(context), f".dockerignore keeps {source} out of the context"
        path = Path(source_root) / source.lstrip("/")
        image.root.outside("mkdir", "-p", into if folder else into.parent)
        image.root.outside("cp", "-rT", path, into / path.name if folder else into)
    image.root.outside("chown", "-R", "0:0", into)


def _allowed(context: Path) -> set[str]:
    """What .dockerignore lets in: everything is out, and then some folders and files are in."""
    first, *rest = [line for line in (context / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert first == "*"
    return {line[1:] for line in rest if line.startswith("!")}


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(text))
