"""Root file systems to build and run images in where there is no Docker: copies on write of this machine's own root, as
Debian with a Python, in a mount namespace that ends with the block. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.pages import ROOT

_ANYTHING = ("pyproject.toml", "bin")  # that is in the checkout, and where Python is
_PREPARE = "mount -t tmpfs -o mode=755,size=2g tmpfs {base} && echo ready && exec cat >/dev/null"
_TOOLS = ("unshare", "nsenter", "setpriv", "chroot", "mount", "bash", "ip")
# How this machine reaches the package index; the image has no part in it.
_OF_THE_NETWORK = ("pip_", "http_proxy", "https_proxy", "no_proxy", "ssl_cert_file")


def why_not() -> str:
    """What keeps these from being made here; "" when nothing does."""
    if os.geteuid() != 0:
        return "only root makes mount namespaces with overlays"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    script = (
        "mount -t tmpfs t /mnt && cd /mnt && mkdir u w r && mount -t overlay o -o lowerdir=/,upperdir=u,workdir=w r"
    )
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, timeout=10, check=False
    )
    if done.returncode:
        return f"no overlay here: {done.stderr.strip()}"
    return "the checkout is in /tmp, where an image has a tmpfs of its own" if ROOT.is_relative_to("/tmp") else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rootfs:
    """One root; `path` is seen from inside of the namespace alone."""

    holder: int  # pid of the process that keeps the namespace
    path: Path

    def outside(self, *argv: str | Path) -> str:
        """Run in the namespace, with this machine's own root, as root. A failure fails the test."""
        return _checked([*entering(self.holder), *map(str, argv)], dict(os.environ))

    def inside(self, path: str) -> Path:
        """Where it leads to in there, seen from outside: /var/run is a link to /run, which would be this machine's."""
        return Path(f"{self.path}{self.outside('chroot', self.path, 'realpath', '-m', path).strip()}")

    def command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str = "/",
        user: str = "0:0",
        groups: Sequence[int] = (),
        network: bool = False,
    ) -> list[str]:
        """What runs inside, with nothing else in its environment, and as another user without any capability."""
        uid, gid = user.split(":")
        supplement = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
        whoever = [f"--reuid={uid}", f"--regid={gid}", supplement, "--no-new-privs"]
        if uid != "0":
            whoever += ["--bounding-set=-all", "--inh-caps=-all"]
        passed = {name: value for name, value in os.environ.items() if name.lower().startswith(_OF_THE_NETWORK)}
        variables = [f"{name}={value}" for name, value in {**(passed if network else {}), **env}.items()]
        into = [*entering(self.holder), "chroot", str(self.path)]
        return [*into, "setpriv", *whoever, "env", "-i", "-C", cwd, *variables, *argv]

    def run(self, argv: Sequence[str], **how: Any) -> subprocess.CompletedProcess[str]:
        """The same, until it has ended."""
        return subprocess.run(self.command(argv, **how), capture_output=True, text=True, timeout=240, check=False)

    def read_only(self) -> None:
        """From here on, as `docker run --read-only --tmpfs /tmp` and `readOnlyRootFilesystem` have it."""
        self.outside("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", self.path / "tmp")
        self.outside("mount", "-o", "remount,ro", self.path)


def entering(holder: int) -> list[str]:
    """Before a command that is to run in the namespaces."""
    return ["nsenter", f"--target={holder}", "--mount", "--net"]


@contextlib.contextmanager
def namespace(scratch: Path, *, alone: bool = False) -> Iterator[int]:
    """The pid of its keeper; `scratch` is a tmpfs in it, and what is mounted there goes with it. `alone`: with a loopback
    of its own, as a pod has it, and no other network."""
    script = ("ip link set lo up && " if alone else "") + _PREPARE.format(base=scratch)
    keeper = subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", *(["--net"] if alone else []), "bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        assert keeper.stdout.readline() == b"ready\n"
        yield keeper.pid
    finally:
        keeper.stdin.close()
        keeper.wait(10)
        keeper.stdout.close()


def copy_of_ours(holder: int, scratch: Path, name: str, *, readable: Path = Path("/")) -> Rootfs:
    """A root in which `python` is the Python that runs the tests. Everybody gets as far as to `readable`."""
    root = Rootfs(holder=holder, path=scratch / name / "root")
    _overlay(root, Path("/"), scratch / name)
    for number, folder in enumerate((ROOT, Path(sys.base_prefix))):
        if not root.outside("bash", "-c", '[ -e "$0/$1" ] || echo no', str(root.path), f"{folder}/{_ANYTHING[number]}"):
            continue
        _overlay(
            root, folder, scratch / name / f"mount{number}"
        )  # a mount of its own, which the overlay of / leaves behind
    root.outside("mount", "--rbind", "/dev", root.path / "dev")
    root.outside("mount", "-t", "proc", "proc", root.path / "proc")
    for file in ("/etc/resolv.conf", "/etc/hosts"):  # in a container they are mounts, which an overlay leaves behind
        root.outside("cp", "--remove-destination", "-L", file, f"{root.path}{file}")
    for folder in (readable, *readable.parents):
        root.outside("chmod", "o+x", f"{root.path}{folder}")
    _install_python(root)
    return root


def _overlay(root: Rootfs, folder: Path, scratch: Path) -> None:
    """A copy on write of this folder, where it is in the root."""
    upper, work = scratch / "upper", scratch / "work"
    at = Path(f"{root.path}{folder}")
    root.outside("mkdir", "-p", "-m", "755", upper, work, at)
    options = f"lowerdir={folder},upperdir={upper},workdir={work}"
    root.outside("mount", "-t", "overlay", "overlay", "-o", options, at)


def _install_python(root: Rootfs) -> None:
    """Below /usr/local, as the official images have it."""
    base, version = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    if base not in (Path("/usr"), Path("/usr/local")):
        for folder in (base, *base.parents):  # it may be in root's home
            root.outside("chmod", "o+x", f"{root.path}{folder}")
        local = root.path / "usr/local"
        root.outside("rm", "-rf", local / "lib" / version)
        root.outside("ln", "-s", base / "lib" / version, local / "lib" / version)
        root.outside("cp", "--remove-destination", base / "bin" / version, local / "bin" / version)
        base = Path("/usr/local")
    root.outside("ln", "-sfn", base / "bin" / version, root.path / "usr/local/bin/python")


def _checked(argv: Sequence[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout
