"""Read rows, describe tasks, write labels."""

from icm_client.data.formats import FileFormat, FileOptions
from icm_client.data.items import duplicate_warning
from icm_client.data.loaders import LOADERS, loaded, made_rows
from icm_client.data.outputs import LabelledRow, check_output, write_labels
from icm_client.data.readers import read_rows
from icm_client.data.rows import Dataset, Row, check_gold, rows_from, take_own_gold
from icm_client.data.task import Task, builtin_names, example_row, find_beside, unescape
from icm_client.data.values import JsonValue

__all__ = [
    "LOADERS",
    "Dataset",
    "FileFormat",
    "FileOptions",
    "JsonValue",
    "LabelledRow",
    "Row",
    "Task",
    "builtin_names",
    "check_gold",
    "check_output",
    "duplicate_warning",
    "example_row",
    "find_beside",
    "loaded",
    "made_rows",
    "read_rows",
    "rows_from",
    "take_own_gold",
    "unescape",
    "write_labels",
]
