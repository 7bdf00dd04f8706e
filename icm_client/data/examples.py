"""A row for each built-in task, made up, so that its prompt can be shown."""

from importlib import resources

import orjson

from icm_client.data.rows import Row


def example_row(task_name: str) -> Row | None:
    """Return the example of a built-in task; None for a task of another name."""
    folder = resources.files("icm_client.data").joinpath("tasks")
    examples = orjson.loads(folder.joinpath("examples.json").read_bytes())
    fields = examples.get(task_name)
    return None if fields is None else Row(id=1, fields=fields, line=1)
