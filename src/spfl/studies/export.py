"""`spfl export`: the tables of a run, a comparison or a sweep, for spreadsheets, MATLAB, pandas and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spfl.errors import ConfigError, RunFolderError, did_you_mean
from spfl.figures.style import SCREEN, FigureStyle
from spfl.runs.folders import below, write_atomically, writing
from spfl.runs.parquet import write_table
from spfl.runs.results import read_groups
from spfl.studies.latex.document import Printed, latex_files
from spfl.studies.long import (
    allocation_table,
    curves_table,
    devices_table,
    points_table,
    rounds_table,
    summary_table,
)
from spfl.studies.recorded import read_any_study
from spfl.studies.statistics import check_target, choose_reference

Sheets = Mapping[str, pa.Table]
SHEET_ROWS = 1_048_575  # of a sheet of a spreadsheet, without its header


def export(
    folder: Path,
    form: str,
    out: Path | None = None,
    *,
    reference: str | None = None,
    target: float | None = None,
    style: FigureStyle = SCREEN,
) -> list[Path]:
    """Write the tables of a folder into `out` (FOLDER/export) and return the paths.

    summary: a row a series and setting. points: a row a run. curves: a row a run and evaluation. Where there are run
    folders, also rounds, allocation and devices. `form` is csv, parquet, mat, xlsx, or tex (tables
    with booktabs, pictures of pgfplots); `target` and `style` are for tex, as in `make_figures`.
    Raises ConfigError for an unknown form, RunFolderError for a folder without results, and where a form cannot be.
    """
    if form not in (*FORMS, "tex"):
        raise ConfigError(f"--format: unknown format '{form}'" + did_you_mean(form, (*FORMS, "tex")))
    study = read_any_study(folder)
    chosen = choose_reference(study, reference)
    out = out or below(folder, "export")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    if form == "tex":
        style.check(list(study.series(study.rows)))
        check_target(study, target)
        texts = latex_files(Printed(study, chosen, target, style), read_groups(folder))
        return [_write(out / f"{name}.tex", text.encode()) for name, text in texts.items()]
    tables = {"summary": summary_table(study, chosen), "points": points_table(study), "curves": curves_table(study)}
    if groups := read_groups(folder):
        tables["rounds"], tables["allocation"] = rounds_table(groups), allocation_table(groups)
        tables["devices"] = devices_table(groups)
    return FORMS[form]({name: table for name, table in tables.items() if len(table)}, out)


def _write(path: Path, content: bytes) -> Path:
    with writing(path.parent):
        write_atomically(path, content)
    return path


def _csv(tables: Sheets, out: Path) -> list[Path]:
    from pyarrow import csv

    paths = []
    for name, table in tables.items():
        content = pa.BufferOutputStream()
        csv.write_csv(table, content)
        paths.append(_write(out / f"{name}.csv", content.getvalue().to_pybytes()))
    return paths


def _parquet(tables: Sheets, out: Path) -> list[Path]:
    with writing(out):
        for name, table in tables.items():
            write_table(out / f"{name}.parquet", table, compression="zstd")
    return [out / f"{name}.parquet" for name in tables]


def _mat(tables: Sheets, out: Path) -> list[Path]:
    """One file with a struct a table: numbers as columns, NaN for what is missing; text as cells."""
    from scipy.io import savemat

    content: Any = BytesIO()  # which savemat takes, whatever its stubs say
    structs = {name: {_field(key): _matlab(table[key]) for key in table.column_names} for name, table in tables.items()}
    savemat(content, structs, long_field_names=True, do_compression=True, oned_as="column")
    return [_write(out / "tables.mat", content.getvalue())]


def _field(name: str) -> str:
    """A name that MATLAB takes for a field: letters, digits and underscores, at most 63."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)[:63]
    return plain if plain[0].isalpha() else f"x{plain}"[:63]


def _matlab(values: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.array([np.nan if value is None else value for value in values.to_pylist()], np.float64)
    return np.array(["" if value is None else str(value) for value in values.to_pylist()], object)


def _xlsx(tables: Sheets, out: Path) -> list[Path]:
    """One workbook with a sheet a table. Text stays text, even where it begins with an equals sign."""
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
    except ImportError:
        raise ConfigError("--format xlsx needs openpyxl: pip install 'spfl[tables]'; csv and parquet do not") from None
    for name, table in tables.items():
        if len(table) > SHEET_ROWS:
            raise RunFolderError(
                f"the table {name} has {len(table)} rows, a sheet holds {SHEET_ROWS}: take --format parquet or csv"
            )
    book = Workbook(write_only=True)
    for name, table in tables.items():
        sheet = book.create_sheet(name)
        sheet.freeze_panes = "A2"
        sheet.append(table.column_names)
        for row in zip(*(table[key].to_pylist() for key in table.column_names), strict=True):
            cells = [WriteOnlyCell(sheet, value=_finite(value)) for value in row]
            for cell, value in zip(cells, row, strict=True):
                if isinstance(value, str):
                    cell.data_type = "s"
            sheet.append(cells)
    content = BytesIO()
    book.save(content)
    return [_write(out / "tables.xlsx", content.getvalue())]


def _finite(value: Any) -> Any:
    """What a sheet can hold: nothing for NaN, text for infinity and lists."""
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value if isinstance(value, int | float | str | None) else str(value)


FORMS: dict[str, Callable[[Sheets, Path], list[Path]]] = {"csv": _csv, "mat": _mat, "xlsx": _xlsx, "parquet": _parquet}
