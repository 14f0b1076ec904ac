"""What the AWS-like servers of the tests share: a boto3 client of theirs, and policies as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def aws_client(service: str, url: str, region: str, credentials: Mapping[str, str], *, checked: bool = True) -> Any:
    """A boto3 client that asks once, waits seconds, and goes through no proxy.

    `checked`: boto3 itself refuses what AWS would not take, for example a session of less than 900 s.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=5,
        read_timeout=20,
        proxies={},
        parameter_validation=checked,
    )
    factory: Any = boto3.client  # one overload per service in the stubs; here the name is a variable
    return factory(service, endpoint_url=url, region_name=region, config=config, **credentials)


def document(*statements: Mapping[str, Any]) -> str:
    """A policy as compact JSON: Ceph takes nothing else (measured)."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)}, separators=(",", ":"))


def key_file(folder: Path, secret: str) -> Path:
    """A file that nobody else may read, as the daemon demands it."""
    path = folder / "aws.key"
    path.touch(mode=0o600)
    path.write_text(secret + "\n")
    return path


def aws_section(url: str, folder: Path, key: tuple[str, str], **more: Any) -> dict[str, Any]:
    """The [aws] section of a daemon whose key, id and secret, this is."""
    return {
        "region": "eu-west-1",
        "endpoint_url": url,
        "access_key_id": key[0],
        "secret_access_key_file": str(key_file(folder, key[1])),
        **more,
    }
