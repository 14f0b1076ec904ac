"""The `aws` block for editors (JSON Schema)."""

from __future__ import annotations

import inspect
import re

from broker.model import JsonValue
from broker.providers.aws.scopes.block import AwsBlock, Probe
from broker.providers.aws.scopes.stored import Parameter, Secret

_ATTRIBUTE = re.compile(r"^    ([a-z_]+): (.+)$", re.MULTILINE)  # of a docstring


def json_schema() -> JsonValue:
    """Each key with what its class says of it."""
    schema: dict[str, JsonValue] = AwsBlock.model_json_schema()
    for model in (AwsBlock, Probe, Secret, Parameter):
        found = schema if model is AwsBlock else schema["$defs"][model.__name__]
        said = dict(_ATTRIBUTE.findall(inspect.cleandoc(model.__doc__ or "")))
        for name, field in model.model_fields.items():
            found["properties"][field.alias or name]["description"] = said[name].replace("`", "")
    return schema
