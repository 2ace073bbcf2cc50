"""Hold zero-to-jupyterhub.yaml against the chart's schema.

    python workshop/hub/check_values.py                                      what we use of it
    helm pull jupyterhub/jupyterhub --untar                                  all of it
    python workshop/hub/check_values.py jupyterhub/values.schema.json

Needs jsonschema and PyYAML, which JupyterLab brings. Exit code 1 with each error.
"""

import sys
from pathlib import Path

import yaml
from jsonschema import Draft7Validator

VALUES = Path(__file__).with_name("zero-to-jupyterhub.yaml")
EXCERPT = Path(__file__).with_name("values.schema.yaml")


def partial(schema):
    """The schema without the lists of required fields, which the chart's own values fill in; but an
    image that is named needs all of its name."""
    if isinstance(schema, dict):
        return {
            key: partial(value)
            for key, value in schema.items()
            if not (key == "required" and isinstance(value, list) and value != ["name", "tag"])
        }
    return [partial(value) for value in schema] if isinstance(schema, list) else schema


def errors(schema: dict, values: dict) -> list[str]:
    """What the schema does not accept, each with its place."""
    found = Draft7Validator(partial(schema)).iter_errors(values)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


if __name__ == "__main__":
    file = Path(sys.argv[1]) if sys.argv[1:] else EXCERPT
    chart = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
    wrong = errors(chart, yaml.safe_load(VALUES.read_text(encoding="utf-8")))
    print("\n".join(wrong) or f"{VALUES.name}: accepted by {file.name}")
    sys.exit(bool(wrong))
