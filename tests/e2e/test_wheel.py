"""A user's own test suite (tests/fixtures/user_project), with stepcred installed from the built wheel.

In the suite the wheel alone is installed, into an environment of its own, and what it depends on is lent by ours: to
install that takes 15 s of CPU and a minute on a busy machine. With STEPCRED_LONG=1 the environment is empty, and pip
installs `stepcred[testing]` with everything that the wheel says it needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "tests" / "fixtures" / "user_project"
LONG = bool(os.environ.get("STEPCRED_LONG"))
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
pytestmark = pytest.mark.timeout(900 if LONG else 180)


def run(*argv: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("stepcred-*.whl")
    venv = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    if LONG:
        run(*PIP, "--python", python, "install", f"stepcred[testing] @ {wheel.as_uri()}")
    else:
        run(*PIP, "--python", python, "install", "--no-deps", wheel)
        own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        # A path in a .pth is searched, but the .pth files in it are not read: the checkout's own code stays out.
        (own / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


@pytest.fixture
def clean() -> dict[str, str]:
    """No setting of whoever runs us, and nothing of the checkout."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("STEPCRED_", "PYTEST_", "PYTHON"))
    }


def test_a_users_own_suite_passes(python: Path, clean: dict[str, str], tmp_path: Path) -> None:
    project = shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    where = "import broker, stepcred, stepcred.testing as t; print(broker.__file__, stepcred.__file__, t.__file__)"
    assert str(ROOT) not in run(python, "-c", where, cwd=project, env=clean)
    only = ["-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:xdist", "-p", "no:timeout"]
    said = run(python, "-m", "pytest", "-q", *only, cwd=project, env=clean)
    assert "4 passed" in said


def test_its_suite_can_fail(python: Path, clean: dict[str, str], tmp_path: Path) -> None:
    """A step that does not ask again when its login has expired: the fixture shows it."""
    project = shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    step = project / "report.py"
    text = step.read_text()
    assert "except PermissionError:" in text
    step.write_text(text.replace("except PermissionError:", "except ZeroDivisionError:"))
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        cwd=project,
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 failed, 3 passed" in done.stdout, done.stdout[-3000:]


def test_the_library_itself_needs_none_of_it(python: Path, clean: dict[str, str]) -> None:
    """`import stepcred` brings neither pytest nor the daemon; that is for those who ask for `stepcred.testing`."""
    loaded = "import sys, stepcred; print({m.split('.')[0] for m in sys.modules} & {'pytest', 'broker', 'aiohttp'})"
    assert run(python, "-c", loaded, env=clean).strip() == "set()"
