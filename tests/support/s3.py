"""One S3 call as a given session, cheaply: botocore's signature over a pool, a third of a boto3 call's cost."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

NO_CODE = "unknown"


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Of a session."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)


class Lister:
    """Lists one key of a bucket; may be used by several threads."""

    def __init__(self, url: str, region: str, bucket: str) -> None:
        self._url = f"{url}/{bucket}?list-type=2&max-keys=1"
        self._region = region
        self._pool = urllib3.PoolManager(maxsize=8, retries=False, timeout=urllib3.Timeout(connect=5, read=20))

    def tries(self, keys: Keys) -> str:
        """ "" when the session may, else the code of the refusal. Raises urllib3's errors without an answer."""
        request = AWSRequest("GET", self._url)
        credentials = Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
        S3SigV4Auth(credentials, "s3", self._region).add_auth(request)
        answer = self._pool.request("GET", self._url, headers=dict(request.headers))
        if answer.status == 200:
            return ""
        code = re.search(r"<Code>([^<]+)<", answer.data.decode())
        return code[1] if code else NO_CODE
