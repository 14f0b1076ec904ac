"""A pod's volumes in a root file system, with the owners, modes, links and mounts that the kubelet gives them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.support.rootfs import Rootfs

Object = dict[str, Any]


def objects(path: Path) -> list[Object]:
    """Read as kubectl reads: YAML 1.1, in which 0400 is octal."""
    return [found for text in path.read_text().split("\n---\n") if (found := _read(text))]


def _read(text: str) -> Object | None:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)  # forgotten after one document
    found: Object | None = yaml.load(text)
    return found


def of_kind(path: Path, kind: str) -> Object:
    (found,) = [each for each in objects(path) if each["kind"] == kind]
    return found


def pod_of(path: Path, kind: str) -> Object:
    spec: Object = of_kind(path, kind)["spec"]["template"]["spec"]
    return spec


def prepare(
    root: Rootfs, pod: Object, contents: Mapping[str, Mapping[str, bytes]], *, claims: Sequence[str] = ()
) -> None:
    """Make the pod's volumes, once. `contents` are files; claims and emptyDirs begin empty."""
    group = str(pod["securityContext"].get("fsGroup", 0))
    for volume in [*pod["volumes"], *({"name": name, "claim": {}} for name in claims)]:
        kept = volume_of(root, volume["name"])
        root.outside("mkdir", "-p", kept)
        if "emptyDir" in volume or "claim" in volume:
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                root.outside("mount", "-t", "tmpfs", "tmpfs", kept)
            root.outside("chgrp", group, kept)
            root.outside("chmod", "0777" if "emptyDir" in volume else "2775", kept)
        else:
            _fill(root, volume, kept, contents[volume["name"]], group)


def mount(root: Rootfs, container: Object) -> None:
    """What this container sees of them. Before `root.read_only()`; containers of one pod are roots side by side."""
    for wanted in container["volumeMounts"]:
        target = root.inside(wanted["mountPath"])
        root.outside("mkdir", "-p", target)
        root.outside("mount", "--bind", volume_of(root, wanted["name"]), target)
        if wanted.get("readOnly"):
            root.outside("mount", "-o", "remount,bind,ro", target)


def volume_of(root: Rootfs, name: str) -> Path:
    return root.path.parents[1] / "volumes" / name


def environment(container: Object, labels: Mapping[str, str]) -> dict[str, str]:
    """Its variables; those that the downward API fills come from the pod's labels."""
    found = {}
    for entry in container.get("env", []):
        path = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        named = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
        found[entry["name"]] = labels[named[1]] if named else entry["value"]
    return found


def _fill(root: Rootfs, volume: Object, kept: Path, files: Mapping[str, bytes], group: str) -> None:
    """Files behind links that change together, root's and of the pod's group; a CSI driver has a group of its own."""
    source = next(value for key, value in volume.items() if key != "name")
    mode = source.get("defaultMode", 0o644)
    if group != "0":
        mode |= 0o040 if mode & 0o400 else 0  # fsGroup: the group reads what the owner reads
    if "csi" in volume:
        mode, group = (
            0o640,
            next(value for key, value in source["volumeAttributes"].items() if key.endswith("fs-group")),
        )
    with tempfile.TemporaryDirectory() as made:
        data = Path(made) / "..2026_11_28"
        data.mkdir()
        (Path(made) / "..data").symlink_to(data.name)
        for name, content in files.items():
            (data / name).write_bytes(content)
            (data / name).chmod(mode)
            (Path(made) / name).symlink_to(f"..data/{name}")
        root.outside("cp", "-aT", made, kept)
    root.outside("chgrp", "-R", group, kept)
    root.outside("chmod", "0777", kept)
    root.outside("chmod", "0755", kept / "..2026_11_28")
