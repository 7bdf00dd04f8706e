"""Rows in, labels out, and the tasks between them."""

from icm_client.data.formats import FileFormat
from icm_client.data.outputs import LabelledRow, check_output, write_labels
from icm_client.data.readers import read_rows
from icm_client.data.rows import Dataset, Row, check_gold, rows_from, take_own_gold
from icm_client.data.task import Task, builtin_names, duplicate_warning, find_beside
from icm_client.data.template import unescape
from icm_client.data.values import JsonValue

__all__ = [
    "Dataset",
    "FileFormat",
    "JsonValue",
    "LabelledRow",
    "Row",
    "Task",
    "builtin_names",
    "check_gold",
    "check_output",
    "duplicate_warning",
    "find_beside",
    "read_rows",
    "rows_from",
    "take_own_gold",
    "unescape",
    "write_labels",
]
