"""`ai-how schema`: the JSON Schema of the cluster file."""

from ai_how import console
from ai_how.cli.groups import new_app

app = new_app()


@app.command()
def schema() -> None:
    """Print the JSON Schema of the cluster file, for editors."""
    from ai_how.spec.document import json_schema

    console.show_json(json_schema())
