"""What the AWS-like servers of the tests share: a boto3 client of theirs, and policies as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
