"""What `import stepcred` brings along, and what the library needs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import stepcred

LOADED = "import sys; before = set(sys.modules); {}; import json; print(json.dumps(sorted(set(sys.modules) - before)))"
# What the three distributions that the library needs install.
OURS = {"stepcred", "grpc", "google", "typing_extensions"}
CYTHON = ("_cython", "cython_runtime")  # grpc's own runtime names itself so


def loaded(code: str) -> set[str]:
    """Modules that are not the standard library's."""
    # -I: no PYTHONPATH; the site's own .pth files have run before.
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADED.format(code)], capture_output=True, text=True, check=True, timeout=60
    )
    return {name for name in json.loads(done.stdout) if name.partition(".")[0] not in sys.stdlib_module_names}


def test_the_import_alone_loads_neither_grpc_nor_generated_code() -> None:
    names = loaded("import stepcred; stepcred.current_step, stepcred.SettingsError")
    assert {name for name in names if name.partition(".")[0] != "stepcred"} == set()
    assert not {name for name in names if name.startswith("stepcred.v1")}


def test_connect_needs_nothing_but_grpc_protobuf_and_googleapis() -> None:
    names = loaded("import stepcred; stepcred.connect; stepcred.Step; stepcred.aio.connect")
    assert {name for name in names if name.partition(".")[0] not in OURS and not name.startswith(CYTHON)} == set()
    assert "grpc" in names


def test_the_distribution_says_so() -> None:
    base = [one.partition(">")[0] for one in requires("stepcred") or [] if "extra ==" not in one]
    assert sorted(base) == ["googleapis-common-protos", "grpcio", "protobuf"]


def test_it_is_typed() -> None:
    assert (Path(stepcred.__file__).parent / "py.typed").is_file()
