"""No record stops a job: one that makes the program raise becomes a dead letter, and the others go on.

Such an exception is a defect of the program, yet stopping would not help: the record is still there after a restart, on
every worker. The batch is processed again in halves until the records that raise on their own are found. What remains is
then processed without them, so no other record is touched. `verify` finds the same records, as it runs the same code.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

from streamseg.engine.partition import PartitionJob, PartitionResult, Quarantined
from streamseg.engine.ports import Records
from streamseg.errors import DeadLetterCode, RecordError, StreamsegError
from streamseg.formats.events import Decoder


def process(make: Callable[[], PartitionJob], records: Records, decoder: Decoder) -> PartitionResult:
    """A partition's part of a batch. `make` gives a fresh `PartitionJob`, as one that raised is of no use any more.

    Raises StreamsegError as `PartitionJob.process` does, MemoryError, and what no single record is the cause of.
    """
    try:
        return make().process(records, decoder)
    except (StreamsegError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - whatever a record does to the program is that record's fate
        # What raises without any record is no record's fault.
        make().idle(sweeps=False)
        unusable = _find(make, records, decoder, 0, len(records.offsets))
    return make().process(records, decoder, unusable)


def _find(make: Callable[[], PartitionJob], records: Records, decoder: Decoder, first: int, end: int) -> list[Quarantined]:
    """Records in [first, end) that raise on their own."""
    error = _error_of(make, records, decoder, first, end)
    if error is None:
        return []
    if end - first == 1:
        kind = type(error).__name__
        letter = RecordError(DeadLetterCode.UNUSABLE, f"{kind} while the record was processed; the log has the traceback")
        # Without the exception's message, which may hold the customer's data.
        return [Quarantined(first, letter, f"{kind}\n{''.join(traceback.format_tb(error.__traceback__))}")]
    middle = (first + end) // 2
    return _find(make, records, decoder, first, middle) + _find(make, records, decoder, middle, end)


def _error_of(
    make: Callable[[], PartitionJob], records: Records, decoder: Decoder, first: int, end: int
) -> Exception | None:
    try:
        make().process(records.part(first, end), decoder)
    except (StreamsegError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - as in `process`
        return error
    return None
