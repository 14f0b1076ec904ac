from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from broker import permissions, process
from broker.permissions import Us, private_folder_problem, problem_if_there, public_problem, secret_problem

SOMEBODY = 54321
ME = Us(user=os.geteuid() or SOMEBODY, groups=frozenset({os.getegid()}))  # never root: it may do everything


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Folders that are taken for mounted read-only."""
    found: set[Path] = set()

    def is_read_only(path: Path) -> bool:
        return not found.isdisjoint({path, *path.parents})

    monkeypatch.setattr(permissions, "_is_read_only", is_read_only)
    return found.add


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "key"
    path.parent.mkdir(mode=0o700)
    path.write_text("k")
    path.chmod(0o600)
    _give(path, ME.user)
    _give(path.parent, ME.user)
    return path


def _give(path: Path, user: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, user, os.getegid())


def test_a_private_file_in_a_private_folder_is_fine(key: Path) -> None:
    assert secret_problem(key, ME) is None
    assert public_problem(key, ME) is None
    assert problem_if_there(key) is None
    assert problem_if_there(key.with_name("gone")) is None


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666, 0o777, 0o440])
def test_a_secret_that_others_can_touch_is_none(key: Path, mode: int) -> None:
    key.chmod(mode)
    assert secret_problem(key, ME) == f"can be read by others; run chmod 600 {key}"


@pytest.mark.parametrize(
    ("mode", "fine"), [(0o644, True), (0o664, True), (0o444, True), (0o646, False), (0o602, False)]
)
def test_what_decides_whom_to_believe_is_not_written_by_everybody(key: Path, mode: int, fine: bool) -> None:  # noqa: FBT001
    key.chmod(mode)
    assert public_problem(key, ME) == (None if fine else f"can be written by everybody; run chmod o-w {key}")


def test_a_file_of_somebody_else_can_be_changed_by_them(key: Path) -> None:
    other = Us(user=ME.user + 1, groups=ME.groups)
    for problem in (secret_problem, public_problem):
        assert problem(key, other) == (
            f"belongs to user {ME.user}, who can change it; run chown {other.user} {key}, or mount it read-only"
        )
    root = Us(user=0, groups=frozenset({0}))
    assert secret_problem(key, root) is None  # runs commands over the service user's files


# --- folders ---


@pytest.mark.parametrize(
    ("mode", "fine"), [(0o777, False), (0o707, False), (0o702, False), (0o1777, True), (0o755, True)]
)
def test_a_folder_that_everybody_writes_to_lets_everybody_replace_the_file(key: Path, mode: int, fine: bool) -> None:  # noqa: FBT001
    key.parent.chmod(mode)
    said = None if fine else f"is in a folder that everybody can write to; run chmod o-w {key.parent}"
    assert [look(key, ME) for look in (secret_problem, public_problem, private_folder_problem)] == [said] * 3
    assert private_folder_problem(key.with_name("gone"), ME) == said


def test_the_folder_behind_a_link_counts_too(key: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    key.rename(tmp_path / "open" / "key")
    key.symlink_to(tmp_path / "open" / "key")
    assert secret_problem(key, ME) == f"is in a folder that everybody can write to; run chmod o-w {tmp_path / 'open'}"


def test_a_folder_of_a_group_of_ours_is_fine_and_anothers_is_not(key: Path) -> None:
    key.parent.chmod(0o770)
    group = key.parent.stat().st_gid
    assert secret_problem(key, Us(user=ME.user, groups=frozenset({group}))) is None  # a volume with fsGroup
    stranger = Us(user=ME.user, groups=frozenset({group + 1}))
    assert secret_problem(key, stranger) == (
        f"is in a folder that group {group} can write to; run chmod g-w {key.parent}"
    )
    assert public_problem(key, stranger) is None  # a map's team may write its folder
    key.parent.chmod(0o1770)
    assert secret_problem(key, stranger) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_somebody_else_lets_them_replace_the_file(key: Path) -> None:
    os.chown(key.parent, SOMEBODY + 7, 0)
    assert secret_problem(key, ME) == (
        f"is in a folder of user {SOMEBODY + 7}, who can replace it; run chown {ME.user} {key.parent}"
    )


# --- what deployments look like ---


@pytest.fixture
def kubernetes(tmp_path: Path, read_only: Callable[[Path], None]) -> Path:
    """A Secret's volume as the kubelet makes it: links through ..data, 0777 and sticky, root's, mounted read-only."""
    volume = tmp_path / "volume"
    (volume / "..2026").mkdir(parents=True)
    (volume / "..2026" / "tls.key").write_text("k")
    (volume / "..data").symlink_to("..2026")
    (volume / "tls.key").symlink_to("..data/tls.key")
    volume.chmod(0o3777)
    (volume / "..2026").chmod(0o2755)
    read_only(volume)
    return volume / "tls.key"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of root")
@pytest.mark.parametrize("user", [1000, 0])
def test_a_secret_of_kubernetes_is_roots_and_its_pods_to_read(kubernetes: Path, user: int) -> None:
    group = 2000
    os.chown(kubernetes, 0, group)
    kubernetes.chmod(0o440)
    assert secret_problem(kubernetes, Us(user=user, groups=frozenset({user, group}))) is None
    # not its pod's, or to be changed, or for everybody: the default of a volume without defaultMode
    assert secret_problem(kubernetes, Us(user=1000, groups=frozenset({1000}))) is not None
    for mode in (0o460, 0o644, 0o444):
        kubernetes.chmod(mode)
        assert secret_problem(kubernetes, Us(user=1000, groups=frozenset({group}))) == (
            f"can be read by others; run chmod 600 {kubernetes} (in Kubernetes: defaultMode 0400, and fsGroup for the pod)"
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of root")
def test_the_same_file_where_it_can_be_written_is_refused(key: Path) -> None:
    os.chown(key, 0, 2000)
    key.chmod(0o440)
    assert secret_problem(key, Us(user=1000, groups=frozenset({2000}))) == f"can be read by others; run chmod 600 {key}"


def test_a_config_map_in_an_open_folder_is_read_only(key: Path, read_only: Callable[[Path], None]) -> None:
    key.parent.chmod(0o777)
    key.chmod(0o644)
    read_only(key.parent)
    assert public_problem(key, Us(user=ME.user + 1, groups=frozenset())) is None


def test_a_systemd_credential_shows_its_acl_as_a_groups_right(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key.chmod(0o440)
    monkeypatch.setattr(process, "credentials_directory", lambda: key.parent)
    assert secret_problem(key, ME) is None
    key.chmod(0o444)
    assert secret_problem(key, ME) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_as_a_service_user_for_real() -> None:
    program = (
        "import os, sys; from pathlib import Path; from broker.permissions import secret_problem\n"
        "os.setgroups([]); os.setgid(12345); os.setuid(12345); print(secret_problem(Path(sys.argv[1])))"
    )
    with tempfile.TemporaryDirectory() as made:  # tmp_path is closed to others
        path = Path(made) / "key"
        path.write_text("k")
        path.chmod(0o600)
        Path(made).chmod(0o755)

        def said() -> str:
            done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, timeout=30, check=True)
            return done.stdout.decode().strip()

        os.chown(path, 12345, 12345)
        assert said() == "None"
        os.chown(path, 12346, 12345)
        assert said().startswith("belongs to user 12346")
        os.chown(path, 12345, 12345)
        os.chown(made, 0, 12346)
        Path(made).chmod(0o775)
        assert said().startswith("is in a folder that group 12346 can write to")
