"""The calls that may show whether a session is dead. Each only reads, names few things and costs next to nothing.

A denied call says so by one code of its service, and by nothing else. What cannot tell is not in the table: a call
that needs no permission, one whose refusal has no code (HEAD), one that answers "not found" to whom it denies.
Imports no SDK.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.model import JsonValue

MAX_VALUE = 2048  # characters of one argument: more than any ARN has

_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_READS = ("Get", "List", "Describe", "Head", "BatchGet", "Query", "Scan", "Select", "Search", "Lookup")
_DENIED_STATUS = (400, 403)  # 400 of the JSON protocols, 403 of the others


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeCall:
    """One call.

    Attributes:
        service: boto3's name of it.
        operation: boto3's method.
        denied: codes that say that the caller may not do this. Read in AWS's references; S3's also ran.
        takes: what a scope may give it; all texts.
        needs: what it must give it.
        lists: of `takes`, what AWS takes as a list: sent as a list of one.
        always: sent besides: the smallest answer that AWS gives.
    """

    service: str
    operation: str
    denied: frozenset[str] = frozenset({"AccessDeniedException"})
    takes: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    always: Mapping[str, JsonValue] = field(default_factory=dict)

    def parameters(self, arguments: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """As boto3 takes them."""
        given = {name: [value] if name in self.lists else value for name, value in arguments.items()}
        return {**given, **self.always}

    def refused(self, status: int, code: str) -> bool:
        """Is this the service's answer to a caller who may not?"""
        return status in _DENIED_STATUS and code in self.denied


def _call(service: str, operation: str, *needs: str, **rest: JsonValue) -> ProbeCall:
    return ProbeCall(service=service, operation=operation, takes=frozenset(needs), needs=frozenset(needs), always=rest)


_S3 = frozenset({"AccessDenied"})
_EITHER = frozenset({"AccessDenied", "AccessDeniedException"})  # services that changed their protocol

CALLS: Mapping[str, ProbeCall] = {
    "s3:ListObjectsV2": ProbeCall(
        service="s3",
        operation="list_objects_v2",
        denied=_S3,
        takes=frozenset({"Bucket", "Prefix"}),
        needs=frozenset({"Bucket"}),
        always={"MaxKeys": 1},
    ),
    "s3:GetBucketLocation": ProbeCall(
        service="s3",
        operation="get_bucket_location",
        denied=_S3,
        takes=frozenset({"Bucket"}),
        needs=frozenset({"Bucket"}),
    ),
    "s3:ListBuckets": ProbeCall(service="s3", operation="list_buckets", denied=_S3),
    "sqs:GetQueueAttributes": ProbeCall(
        service="sqs",
        operation="get_queue_attributes",
        denied=_EITHER,
        takes=frozenset({"QueueUrl"}),
        needs=frozenset({"QueueUrl"}),
        always={"AttributeNames": ["QueueArn"]},
    ),
    "sns:GetTopicAttributes": ProbeCall(
        service="sns",
        operation="get_topic_attributes",
        denied=frozenset({"AuthorizationError"}),
        takes=frozenset({"TopicArn"}),
        needs=frozenset({"TopicArn"}),
    ),
    "ec2:DescribeRegions": ProbeCall(
        service="ec2", operation="describe_regions", denied=frozenset({"UnauthorizedOperation"})
    ),
    "rds:DescribeDBInstances": ProbeCall(
        service="rds",
        operation="describe_db_instances",
        denied=_S3,
        takes=frozenset({"DBInstanceIdentifier"}),
        needs=frozenset({"DBInstanceIdentifier"}),
    ),
    "ecr:DescribeRepositories": ProbeCall(
        service="ecr",
        operation="describe_repositories",
        takes=frozenset({"repositoryNames"}),
        needs=frozenset({"repositoryNames"}),
        lists=frozenset({"repositoryNames"}),
    ),
    "logs:DescribeLogGroups": ProbeCall(
        service="logs",
        operation="describe_log_groups",
        takes=frozenset({"logGroupNamePrefix"}),
        always={"limit": 1},
    ),
    "dynamodb:DescribeTable": _call("dynamodb", "describe_table", "TableName"),
    "kms:DescribeKey": _call("kms", "describe_key", "KeyId"),
    "secretsmanager:DescribeSecret": _call("secretsmanager", "describe_secret", "SecretId"),
    "ssm:DescribeParameters": _call("ssm", "describe_parameters", MaxResults=1),
    "kinesis:DescribeStreamSummary": _call("kinesis", "describe_stream_summary", "StreamName"),
    "glue:GetDatabase": _call("glue", "get_database", "Name"),
    "athena:GetWorkGroup": _call("athena", "get_work_group", "WorkGroup"),
}

_USELESS: Mapping[str, str] = {
    "sts:GetCallerIdentity": "needs no permission: it is never refused, so it proves nothing",
    "sts:GetSessionToken": "is denied to every session: it never works, so its refusal proves nothing",
    "s3:HeadObject": "gives no code with its refusal (HEAD): use s3:ListObjectsV2",
    "s3:HeadBucket": "gives no code with its refusal (HEAD): use s3:ListObjectsV2",
    "s3:GetObject": "fetches data, and answers NoSuchKey to a denied caller where the key is missing: use s3:ListObjectsV2",
    "s3:ListBucket": "is the permission; the call is s3:ListObjectsV2",
    "s3:ListAllMyBuckets": "is the permission; the call is s3:ListBuckets",
}


def mistake(call: str, arguments: Mapping[str, JsonValue]) -> str:
    """What is wrong with a scope's probe; "" = nothing. The text repeats only names that are known or short."""
    known = CALLS.get(call)
    if known is None:
        return _unknown(call)
    for name, value in arguments.items():
        if name in known.always and type(value) is type(known.always[name]) and value == known.always[name]:
            continue
        if name not in known.takes:
            takes = ", ".join(sorted(known.takes)) or "nothing"
            return f"{call} takes {takes} here" + _close(name, known.takes)
        if not isinstance(value, str) or len(value) > MAX_VALUE or not _VALUE.fullmatch(value):
            return f"{name} of {call} must be a text of printable ASCII, up to {MAX_VALUE:,} characters"
    if missing := sorted(known.needs - arguments.keys()):
        return f"{call} needs {', '.join(missing)}"
    return ""


def _unknown(call: str) -> str:
    if why := _USELESS.get(call):
        return f"{call} {why}"
    service, colon, name = call.partition(":")
    if not colon or not service or not name:
        return "must be service:Operation, such as s3:ListObjectsV2"
    if not name.startswith(_READS):
        return "must be a call that only reads: a probe changes nothing"
    return f"must be one of {', '.join(sorted(CALLS))}" + _close(call, CALLS)


def _close(name: str, known: Mapping[str, object] | frozenset[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
