"""Read rows from a sheet of an Excel workbook.

The sheet's first row that is not empty names the columns. Whole numbers, which a workbook keeps as
any others, are whole again; dates are `datetime` values, which a row has as ISO text. A cell whose
formula has an error is empty.
"""

from collections.abc import Iterator
from string import ascii_uppercase
from typing import Any, BinaryIO

from icm_client.data.csv_rows import header_of
from icm_client.data.messages import did_you_mean, listed, shown
from icm_client.data.values import BLANK, Unusable
from icm_client.errors import RowError, SetupError

_EXACT_AS_FLOAT = 2**53


def xlsx_rows(
    file: BinaryIO, path: str, warnings: list[str], sheet: str | None = None
) -> Iterator[tuple[int, object]]:
    """Yield each row with its row number in the sheet: its fields, `BLANK`, or why it has none.

    Args:
        file: the workbook, which is read as a whole.
        path: the file as the user named it.
        warnings: sentences that the user should see are added here.
        sheet: its name; None is the first that is not hidden.

    Raises:
        RowError: this is no workbook, it has no such sheet, or its header cannot be used.
        SetupError: python-calamine is not installed.
    """
    try:
        import python_calamine as calamine  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise SetupError(
            f"{path}: Excel workbooks need python-calamine: pip install 'icm-client[excel]'"
        ) from None
    try:
        workbook = calamine.load_workbook(file)
        sheets = [
            one.name
            for one in workbook.sheets_metadata
            if one.visible == calamine.SheetVisibleEnum.Visible
            and one.typ == calamine.SheetTypeEnum.WorkSheet
        ]
        if sheet is not None and sheet not in workbook.sheet_names:
            raise RowError(
                f"no sheet is called {shown(sheet)}; there are {listed(workbook.sheet_names)}."
                f"{did_you_mean(sheet, workbook.sheet_names)}",
                path=path,
            )
        name = sheet or next(iter(sheets or workbook.sheet_names))
        found = workbook.get_sheet_by_name(name)
    except calamine.CalamineError as problem:
        raise RowError(
            f"not a workbook that can be read: {shown(str(problem))}", path=path
        ) from None
    if sheet is None and len(sheets) > 1:
        others = [other for other in sheets if other != name]
        warnings.append(
            f"the rows are those of the sheet {shown(name)}; the workbook has also "
            f"{listed(others)}, which {shown(f'{path}#{others[0]}')} would name"
        )
    _, left = found.start or (0, 0)
    yield from _rows(found.iter_rows(), path, left)


def _rows(cells: Iterator[list[Any]], path: str, left: int) -> Iterator[tuple[int, object]]:
    """Yield the rows; the cells are those from column number `left` on."""
    header: list[str] | None = None
    blank: list[int] = []
    for number, row in enumerate(cells, start=1):
        values = [_value(cell) for cell in row]
        while values and values[-1] is None:
            values.pop()
        if header is None:
            if values:
                names = ["" if value is None else str(value) for value in values]
                first = next(place for place, name in enumerate(names) if name)
                names = names[first:]  # the columns before it have no names
                header = header_of(names, path, number)
        elif not values:
            blank.append(number)
        else:
            yield from ((empty, BLANK) for empty in blank)
            blank.clear()
            yield number, _fields(header, values, first, left)


def _fields(header: list[str], values: list[Any], first: int, left: int) -> object:
    """Return the row by column, or why it cannot be."""
    last = first + len(header)
    for place, value in enumerate(values):
        if value is not None and not first <= place < last:
            return Unusable(
                f"the cell in column {_letters(left + place)} holds {shown(value)}, and the header "
                "names no such column: name it, or empty the cell"
            )
    own = values[first:last]
    return dict(zip(header, own + [None] * (len(header) - len(own)), strict=True))


def _value(cell: Any) -> Any:
    if isinstance(cell, str):
        return cell if cell.strip() else None
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < _EXACT_AS_FLOAT:
        return int(cell)
    return cell


def _letters(place: int) -> str:
    """Return what a spreadsheet calls the column: A, B, ..., Z, AA."""
    letters = ""
    place += 1
    while place:
        place, letter = divmod(place - 1, len(ascii_uppercase))
        letters = ascii_uppercase[letter] + letters
    return letters
