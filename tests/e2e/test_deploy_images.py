"""deploy/docker without Docker: the files' own steps in copies of this machine's root, and what they make as its user on a
root that is read-only. That takes a minute: STEPCRED_LONG=1. Else the sidecar's locked packages are taken from where the tests run."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.support import dockerfile, rootfs
from tests.support.dockerfile import Image
from tests.support.examples import LONG
from tests.support.pages import BIN, ROOT

DOCKER = ROOT / "deploy" / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
NO_ROOT = rootfs.why_not()
SHORT = "" if LONG else "builds for half a minute: STEPCRED_LONG=1"
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


@pytest.mark.skipif(shutil.which("hadolint", path=str(BIN)) is None, reason="no hadolint here")
def test_the_linter_finds_nothing() -> None:
    done = subprocess.run([BIN / "hadolint", *FILES], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_stage_stands_on_the_same_base_by_digest_and_on_the_tests_python(file: Path) -> None:
    (base,) = {rest.partition(" AS ")[0] for op, rest in dockerfile.instructions(file.read_text()) if op == "FROM"}
    found = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert found is not None
    assert found[1] in file.read_text().replace(base, "")  # the folders named after it
    if found[1] != f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"these tests run on another Python than the image's {found[1]}")


@pytest.mark.parametrize("extra", ["broker", "sidecar"])
def test_the_images_hold_what_the_tests_run_with(extra: str) -> None:
    tested, shipped = (
        dict(PIN.findall((ROOT / "requirements" / f"{name}.txt").read_text())) for name in ("dev", extra)
    )
    assert {"grpcio", "aiohttp", "typer"} <= shipped.keys()
    assert shipped.items() <= tested.items()
    assert "boto3" not in shipped or extra == "broker"


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Image]:
    scratch, text = tmp_path / "sidecar", (DOCKER / "sidecar.Dockerfile").read_text()
    scratch.mkdir()
    with rootfs.namespace(scratch) as holder:
        yield dockerfile.build(text, ROOT, holder, scratch) if LONG else assembled(text, holder, scratch)


def assembled(text: str, holder: int, scratch: Path) -> Image:
    """What the lock names, and nothing else that the tests have, in the image's place."""
    image = dockerfile.settings_of(text, rootfs.copy_of_ours(holder, scratch, "last"))
    root = image.root
    assert root is not None
    made = root.run(
        ["python", "-m", "venv", "--without-pip", "/opt/stepcred"], env={"PATH": "/usr/local/bin:/usr/bin:/bin"}
    )
    assert made.returncode == 0, made.stderr
    ours, site = site_packages(Path(sys.prefix)), site_packages(root.path / "opt/stepcred")
    locked = PIN.findall((ROOT / "requirements" / "sidecar.txt").read_text())
    parts = {"stepcred-0.1.0.dist-info"}
    for name, _ in locked:
        with contextlib.suppress(metadata.PackageNotFoundError):  # of another system, or of another Python
            parts |= {file.parts[0] for file in metadata.files(name) or () if file.parts[0] != ".."}
    root.outside("cp", "-rp", *(ours / part for part in sorted(parts)), ROOT / "clients" / "python" / "stepcred", site)
    script = root.path / "opt/stepcred/bin/stepcred"
    lines = "#!/opt/stepcred/bin/python\nfrom stepcred.cli import main\nmain()\n"
    root.outside("sh", "-c", 'printf %s "$1" > "$0"; chmod 755 "$0"', script, lines)
    return image


def site_packages(prefix: Path) -> Path:
    return prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


@pytest.mark.timeout(400 if LONG else 120)
@pytest.mark.skipif(bool(NO_ROOT), reason=NO_ROOT or "-")
def test_the_sidecars_image_holds_what_it_needs_and_runs_on_a_read_only_root(sidecar: Image, tmp_path: Path) -> None:
    root = sidecar.root
    assert root is not None
    must_be_sound(sidecar, "stepcred-sidecar")
    root.read_only()
    assert runs(sidecar, "--version").stdout == "stepcred 0.1.0\n"
    assert "--aws" in runs(sidecar, "sidecar", "--help").stdout
    told = runs(sidecar, "sidecar", "--aws=lake", "--token-file=/tmp/step/token", STEPCRED_CA="/nowhere")
    assert told.returncode == 78, told.stderr  # it is all there, and asks for its settings
    assert runs(sidecar, "stepcred-broker", entrypoint=False).returncode == 127  # the daemon has no business here
    assert runs(sidecar, "python", "-c", "import broker", entrypoint=False).returncode == 1


@pytest.mark.timeout(400)
@pytest.mark.skipif(bool(NO_ROOT or SHORT), reason=NO_ROOT or SHORT or "-")
def test_the_brokers_image_is_built_and_checks_a_configuration(tmp_path: Path) -> None:
    with rootfs.namespace(tmp_path) as holder:
        image = dockerfile.build((DOCKER / "broker.Dockerfile").read_text(), ROOT, holder, tmp_path)
        assert image.root is not None
        must_be_sound(image, "stepcred-broker")
        state = image.root.outside("stat", "-c", "%u:%g %a", image.root.path / "var/lib/stepcred/keys")
        assert state == "10001:10001 700\n"
        image.root.read_only()
        assert runs(image, "--version").stdout == "stepcred-broker 0.1.0\n"
        config = image.cmd[image.cmd.index("--config") + 1]
        told = runs(image, "check", "--config", config)
        assert told.returncode == 78
        assert config in told.stderr  # is not there yet: it is the operator's
        assert runs(image, "python", "-c", "import pip", entrypoint=False).returncode == 1


def must_be_sound(image: Image, title: str) -> None:
    """A user that is not root, whatever the name; a shell between signal and program in no place."""
    user, group = image.settings["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert image.settings["STOPSIGNAL"] == "SIGTERM"
    assert image.entrypoint
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert image.labels["org.opencontainers.image.title"] == title
    assert image.labels["org.opencontainers.image.version"] == version
    root = image.root
    assert root is not None
    if LONG:
        compiled = site_packages(root.path / "opt/stepcred") / "stepcred" / "__pycache__"
        assert root.outside("find", compiled, "-name", "_core.*.pyc").strip()
    writable = root.outside(
        "find", root.path / "opt", "(", "!", "-user", "0", "-o", "-perm", "/022", ")", "!", "-type", "l"
    )
    assert writable == ""


def runs(image: Image, *args: str, entrypoint: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """As its user; its environment is the image's and `env`."""
    assert image.root is not None
    argv = [*(image.entrypoint if entrypoint else ()), *args]
    return image.root.run(argv, env=image.env | env, cwd=image.cwd, user=image.settings["USER"])
