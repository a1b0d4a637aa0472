"""Rows with keys: the job's own model, in memory.

A row is the latest picture of its customer, as an event with all features is in a job. It is packed as a record of an
input and goes through the job over the past, so that the same rows in the same order give the job's tags.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamseg.core.customers.aggregates import Feature
from streamseg.core.customers.feature_layout import Layout
from streamseg.core.customers.table import NO_SEGMENT
from streamseg.core.model.assignment import kept_segment_of
from streamseg.core.model.codec import pack
from streamseg.core.model.records import Start
from streamseg.core.model.spec import ModelSpec
from streamseg.core.model.state import ModelState
from streamseg.core.numeric.types import Array
from streamseg.engine.backtest import Rehearsal
from streamseg.engine.log_records import decode_customer_entry, decode_model_snapshot
from streamseg.engine.pending_commit import snapshot_pieces
from streamseg.engine.ports import Records
from streamseg.engine.settings import JobSettings
from streamseg.engine.task import Task, TaskState
from streamseg.formats.events import Decoded, EventFields, Rejected

_US = 1e6


class _Clock:
    """No tag is published, so none needs a time."""

    def now_us(self) -> int:
        return 0


class _RowDecoder:
    """Decodes rows: the time in microseconds, and one float for each feature."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def decode(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int | None],
        now_us: int,
    ) -> tuple[Decoded, list[Rejected]]:
        n = len(values)
        cells = np.frombuffer(b"".join(value or b"" for value in values), dtype="<f8").reshape(n, 1 + len(self._names))
        numbers = {name: np.ascontiguousarray(cells[:, j]) for j, name in enumerate(self._names, 1)}
        times = np.ascontiguousarray(cells[:, 0]).astype(np.int64)
        ids = [(key or b"").decode() for key in keys]
        return Decoded(np.arange(n), ids, times, np.zeros(n, dtype=np.bool_), None, numbers, {}), []


class KeyedModel:
    """The model of a table of customers, and rows that wait for the next step."""

    def __init__(self, spec: ModelSpec, start: Start | None) -> None:
        names = tuple(feature.name for feature in spec.features)
        layout = Layout(tuple(Feature(name, name) for name in names))
        settings = JobSettings(
            application="estimator",
            config="{}",
            layout=layout,
            model=spec,
            fields=EventFields(numbers=names),
            topic="rows",
            retag_every_s=None,
            emit="changes",
            max_record_bytes=1_000_000,
        )
        self._settings = settings
        self._rehearsal = Rehearsal(settings, _Clock(), {0: 0}, settings.step_records, start)
        self._rehearsal.job.decoder = _RowDecoder(names)
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._packed = f"<{1 + len(names)}d"
        self._taken = 0

    @property
    def state(self) -> ModelState:
        """The model of the last step."""
        return self._rehearsal.job.state

    @property
    def waiting(self) -> int:
        """Rows that wait for the next step."""
        return len(self._keys)

    @property
    def keys(self) -> set[str]:
        """Of all customers."""
        return set(self._task.table.index) | {key.decode() for key in self._keys}

    @property
    def _task(self) -> Task:
        return self._rehearsal.job.tasks[0]

    def add(self, key: str, row: Sequence[float], t: float | None) -> None:
        """One row; the order of rows stands in for their times, in microseconds, where they have none."""
        self._taken += 1
        self._keys.append(key.encode())
        self._values.append(struct.pack(self._packed, self._taken if t is None else round(t * _US), *row))
        if len(self._keys) >= self._rehearsal.job.until_step()[0]:
            self._flush()

    def add_many(self, keys: Sequence[str], x: Array, t: Array | None) -> None:
        """Rows in order. IN x (n_features, n_rows), t (n_rows,) seconds."""
        n = len(keys)
        times = np.arange(self._taken + 1, self._taken + n + 1, dtype=np.float64) if t is None else np.rint(t * _US)
        cells = np.concatenate([times[None], x]).T.astype("<f8").tobytes()
        width = 8 * (1 + len(x))
        self._taken += n
        self._keys += [key.encode() for key in keys]
        self._values += [cells[i : i + width] for i in range(0, len(cells), width)]
        while len(self._keys) >= self._rehearsal.job.until_step()[0]:
            self._flush()

    def _flush(self) -> None:
        n, first = self._rehearsal.job.until_step()[0], self._task.mark.next
        keys, values = self._keys[:n], self._values[:n]
        self._keys, self._values = self._keys[n:], self._values[n:]
        self._rehearsal.feed({0: Records(range(first, first + n), keys, values, [None] * n, first + n)})

    def close_step(self) -> None:
        """Learn the rows that wait, as a job does where its input ends."""
        n, first = len(self._keys), self._task.mark.next
        keys, values, self._keys, self._values = self._keys, self._values, [], []
        self._rehearsal.feed({0: Records(range(first, first + n), keys, values, [None] * n, first + n)}, ended=True)

    def predict(self, key: str, row: Sequence[float]) -> int:
        """The segment id that a row of a customer is tagged with, after the customer's rows that wait. Only where ready."""
        segment = np.array([self.segment_of(key)])
        name = key.encode()
        waiting = [
            np.frombuffer(value, dtype="<f8")[1:] for k, value in zip(self._keys, self._values, strict=True) if k == name
        ]
        for x in [*waiting, np.array(row)]:
            segment = kept_segment_of(self.state, self._settings.model, x[:, None], segment)
        return int(segment[0])

    def segment_of(self, key: str) -> int:
        """The segment id that a customer was last tagged with; -1 where it has none."""
        table = self._task.table
        row = table.index.get(key)
        return NO_SEGMENT if row is None else int(table.column("segment")[row])

    def rows(self) -> tuple[list[str], Array]:
        """Latest rows by time: keys, and x (n_features, n_rows). Those that wait for the next step come last."""
        table = self._task.table
        at = np.array(list(table.index.values()), dtype=np.int64)
        times = table.column("time")[at].astype(np.int64)
        order = np.argsort(times, kind="stable")
        keys = [str(table.ids[row]) for row in at[order].tolist()]
        width = struct.calcsize(self._packed) // 8
        cells = np.frombuffer(b"".join(self._values), dtype="<f8").reshape(len(self._keys), width)
        x = table.vectors(at[order], 0)
        if len(cells):
            x = np.concatenate([x, cells[:, 1:].T], axis=1)
        return keys + [key.decode() for key in self._keys], np.ascontiguousarray(x)

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-safe and exact."""
        job, task = self._rehearsal.job, self._task
        pieces = snapshot_pieces(task, task.mark, 0, job.state.version, [])
        return {
            "model": _text(pack(job.replica.snapshot())),
            "customers": [_text(piece) for piece in pieces],
            "keys": [key.decode() for key in self._keys],
            "values": [_text(value) for value in self._values],
            "taken": self._taken,
        }

    @classmethod
    def from_dict(cls, spec: ModelSpec, d: Mapping[str, Any]) -> KeyedModel:
        """What `to_dict` wrote."""
        out = cls(spec, None)
        job = out._rehearsal.job
        job.replica.restore(decode_model_snapshot(_bytes(d["model"])))
        task = Task(0, out._settings.layout)
        task.transition(TaskState.RESTORING)
        for piece in d["customers"]:
            task.apply(decode_customer_entry(_bytes(piece)), len(piece), 0)
        task.snapshot_complete()
        task.transition(TaskState.RUNNING)
        job.tasks[0] = task
        out._rehearsal.resume(task.mark.next)
        out._keys = [key.encode() for key in d["keys"]]
        out._values = [_bytes(value) for value in d["values"]]
        out._taken = int(d["taken"])
        return out


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
