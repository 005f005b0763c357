"""Transform template.yaml as CloudFormation does: functions, mappings and schedules become plain resources.

Run with the interpreter of SAM's environment (`make setup`), which alone has the translator; prints JSON.
"""

import json
import os
from pathlib import Path
from typing import Any, Final

TEMPLATE: Final = Path(__file__).parents[2] / "template.yaml"
# Where `sam package` would have put the code; the translator asks for a place in a bucket.
BUCKET: Final = "landfall-artifacts"


def transform() -> dict[str, Any]:
    """Return the template that CloudFormation would carry out.

    Raises:
        samtranslator.model.exceptions.InvalidDocumentException: SAM does not understand the template.
    """
    # Late: this module is imported where there is no translator, for its constants.
    from samtranslator.parser.parser import Parser  # noqa: PLC0415
    from samtranslator.translator.translator import Translator  # noqa: PLC0415
    from samtranslator.yaml_helper import yaml_parse  # noqa: PLC0415

    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # the translator's client needs one, and makes no call
    template = yaml_parse(TEMPLATE.read_text())
    for id_, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"s3://{BUCKET}/{id_}.zip"
    transformed: dict[str, Any] = Translator({}, Parser()).translate(template, {})
    return transformed


if __name__ == "__main__":
    print(json.dumps(transform(), indent=2))
