"""Step `load`: one object into S3 with an AWS session of its own, through the SDK."""

from __future__ import annotations

import json
import os
from pathlib import Path

import stepcred

# Workflow, run and step come from STEPCRED_WORKFLOW, _RUN and _STEP, which a scheduler sets.
with stepcred.connect() as broker, broker.step(scopes=["lake-write"]) as step:
    session = step.issue("lake-write")
    assert isinstance(session, stepcred.AwsSession)
    s3 = session.boto3_session().client("s3")
    s3.put_object(Bucket="lake", Key="nightly-etl/orders.csv", Body=b"id,total\n1,99\n")
    print(f"load: s3://lake/nightly-etl/orders.csv written; session name = lease id = {session.lease.lease_id}")
print(f"load: {step.summary()}")

# For the demo only: the thief's copy, to be tried once the step is over.
Path(os.environ["DEMO_COPY"]).write_text(json.dumps({"lease_id": session.lease.lease_id, "aws": session.env()}))
