"""The AWS SDK's own variables, all saying something else than the broker's config: none may lead a request astray."""

from __future__ import annotations

VARIABLES = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:2",
    "AWS_STS_REGIONAL_ENDPOINTS": "legacy",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_PROFILE": "nowhere",
    "AWS_DEFAULT_REGION": "ap-south-1",
    "AWS_ACCESS_KEY_ID": "AKIASTRAY",
    "AWS_SECRET_ACCESS_KEY": "stray",
    "AWS_SESSION_TOKEN": "stray",
    "AWS_MAX_ATTEMPTS": "7",
}
