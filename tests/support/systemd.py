"""A real systemd as the first process of namespaces of its own, over a copy on write of this machine's root, to start
units as they would be installed. What it does to the machine ends with it. Needs root, and a cgroup2 that can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

SYSTEMD = Path("/lib/systemd/systemd")
_CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
_TOOLS = ("unshare", "pivot_root", "systemctl", "journalctl")
_SECONDS = 90
# $1 becomes a tmpfs, $2 are files to put over the root, $3 is the environment that the tests run in, $4 its Python's prefix.
_BOOT = r"""
set -e
base=$1 files=$2 venv=$3 prefix=$4
mount -t tmpfs -o mode=755 tmpfs $base
mkdir $base/upper $base/work $base/root
root=$base/root
mount -t overlay overlay -o lowerdir=/,upperdir=$base/upper,workdir=$base/work $root
mount -t proc proc $root/proc
mount --bind $root/proc/sys $root/proc/sys
mount -o remount,bind,ro $root/proc/sys
mount -t sysfs -o ro sysfs $root/sys
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $root/run
mount -t tmpfs -o mode=1777 tmpfs $root/tmp
mount -t tmpfs -o mode=755 tmpfs $root/dev
for one in null zero random urandom full tty; do touch $root/dev/$one; mount --bind /dev/$one $root/dev/$one; done
mkdir $root/dev/shm $root/dev/pts $root/old $root/told
mount -t tmpfs tmpfs $root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx
rm -rf $root/usr/lib/systemd/system/*.wants $root/lib/systemd/system/*.wants
rm -rf $root/etc/systemd/system; mkdir $root/etc/systemd/system
cp -r --no-preserve=ownership --preserve=mode $files/. $root/
folder=$venv; while [ "$folder" != / ]; do chmod o+x $root$folder; folder=$(dirname $folder); done
# Units have ProtectHome=yes, and the tests' Python may be in somebody's home.
mkdir $root/opt/python
mount --bind $root$prefix $root/opt/python
for one in $venv/bin/python*; do ln -sfn /opt/python/bin/$(basename $(readlink -f $one)) $root$one; done
sed -i 's#^home = .*#home = /opt/python/bin#' $root$venv/pyvenv.cfg
echo /opt/python/lib > $root/etc/ld.so.conf.d/python.conf
ldconfig -r $root
cat > $root/etc/systemd/system/told.target <<'UNIT'
[Unit]
DefaultDependencies=no
Wants=systemd-journald.service told.service
UNIT
cat > $root/etc/systemd/system/told.service <<'UNIT'
[Unit]
DefaultDependencies=no
After=systemd-journald.service
[Service]
Type=oneshot
ExecStart=/bin/bash -x /told.sh
ExecStopPost=/bin/systemctl --force exit
StandardOutput=file:/told/out
StandardError=inherit
UNIT
mount --bind $files/told $root/told
cd $root
pivot_root . old
umount -l old
mount --make-rshared / # as container managers leave it: the credentials of units come by propagation
exec env -i container=oci PATH=/usr/bin:/bin:/usr/sbin:/sbin /lib/systemd/systemd \
  --log-target=journal --show-status=no --unit=told.target </dev/null
"""


def why_not() -> str:
    """What keeps a systemd from being started here; "" when nothing does."""
    if os.geteuid() != 0:
        return "only root starts a systemd"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing or not SYSTEMD.exists():
        return f"not installed: {', '.join(missing) or 'systemd'}"
    return "" if _cgroup() else "no cgroup2 here that can be written to"


def told_by(script: str, files: Path, scratch: Path) -> str:
    """What `script` prints as the one service of a fresh system, over whose root the files were put (with their modes, as
    root's). Its network is this machine's."""
    (files / "told").mkdir()
    (files / "told.sh").write_text(script)
    above = _cgroup()
    assert above is not None
    group = above / f"stepcred-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    join = f"echo $$ > {group}/cgroup.procs && exec unshare --cgroup --mount --pid --ipc --uts --fork --kill-child"
    argv = [
        "bash",
        "-c",
        f'{join} --propagation=private bash -c "$0" "$@"',
        _BOOT,
        "boot",
        str(scratch),
        str(files),
        sys.prefix,
        sys.base_prefix,
    ]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
        out = files / "told" / "out"
        if not out.exists():
            pytest.skip(f"systemd does not start in namespaces here: {done.stdout}{done.stderr}")
        return out.read_text()
    finally:
        for folder in sorted(group.rglob("*"), reverse=True):
            if folder.is_dir():
                folder.rmdir()
        group.rmdir()


def _cgroup() -> Path | None:
    return next((found for found in _CGROUPS if (found / "cgroup.procs").exists() and os.access(found, os.W_OK)), None)
