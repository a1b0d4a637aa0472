"""Cells of CSV files, as pandas and the standard library read the same ones."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from streamseg.transports.csv_file import CsvSource
from streamseg.transports.csv_format import Columns, CsvFormat, number_in, signed
from tests.exploring import some

STYLES = [
    CsvFormat(),
    CsvFormat(decimal=","),
    CsvFormat(thousands=","),
    CsvFormat(decimal=",", thousands="."),
    CsvFormat(decimal=",", thousands=" "),
    CsvFormat(thousands="'"),
]
# Digits most often, so that many cells are numbers.
SIGNS = "0123456789" * 4 + "..,,  ''+-eE()\u2212xn_"
# Of each style and seed: five seeds make a million and more.
CELLS = 40_000
ROWS = 20_000


def cells(rng: random.Random, style: CsvFormat) -> list[str]:
    """Any signs, and numbers as the style writes them with one sign changed."""
    out = []
    for i in range(CELLS):
        if i % 2:
            out.append("".join(rng.choices(SIGNS, k=rng.randint(1, 12))))
            continue
        text = f"{rng.choice(['', '-', '+'])}{rng.randrange(10 ** rng.randint(1, 10)):,}"
        text = text.replace(",", "" if style.thousands == "none" else style.thousands)
        text += f"{style.decimal}{rng.randrange(1000)}" if rng.random() < 0.5 else ""
        if rng.random() < 0.5:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(SIGNS) + text[place + 1 :]
        out.append(text)
    return out


@pytest.mark.parametrize("seed", some(range(5)))
@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.decimal} {style.thousands}")
def test_numbers_are_those_that_pandas_reads(style: CsvFormat, seed: int) -> None:
    given = [cell.strip() for cell in cells(random.Random(seed), style)]
    read = [(cell, number) for cell in given if cell and (number := number_in(cell, style)) is not None]
    assert len(read) > CELLS / 4
    # Pandas knows a minus sign in front alone.
    column = "\n".join(f'"{signed(cell)}"' for cell, _ in read)
    theirs = pd.read_csv(
        io.StringIO(column),
        header=None,
        decimal=style.decimal,
        thousands=None if style.thousands == "none" else style.thousands,
        dtype=np.float64,
    )[0]
    ours = np.array([float(number) for _, number in read])
    # With thousands pandas rounds twice.
    far = ~np.isclose(ours, theirs, rtol=1e-14, atol=0.0)
    assert [read[i] for i in np.flatnonzero(far).tolist()] == []


@pytest.mark.parametrize("seed", some(range(5)))
def test_rows_of_any_bytes_are_those_that_the_standard_library_reads(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    alphabet = [
        b",",
        b",",
        b",",
        b"a",
        b"1",
        b".0",
        b" ",
        b"\xff",
        b"\xc3\xa9",
        b"\0",
        b"\t",
        b";",
        b"\x0b",
        b"\xe2\x80\xa8",
    ]
    lines = [b"c,%s,1" % b"".join(rng.choices(alphabet, k=rng.randint(1, 6))) for _ in range(ROWS)]
    path = tmp_path / "e.csv"
    path.write_bytes(b"customer_id,note,event_time\n" + b"".join(line + b"\n" for line in lines))
    values = CsvSource(path, Columns()).read(0, 2 * ROWS).values
    assert len(values) == ROWS
    objects = 0
    for line, value in zip(lines, values, strict=True):
        assert value is not None
        (row,) = csv.reader([line.decode(errors="surrogateescape")])
        if len(row) != 3 or b"\xff" in line:
            assert value == line, "what is no row stays as it is"
            continue
        objects += 1
        assert json.loads(value) == {"customer_id": "c", "note": row[1].strip() or None, "event_time": 1}
    assert objects > ROWS / 4
