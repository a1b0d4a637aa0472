"""Lines of a file, wherever they are cut."""

from __future__ import annotations

import codecs
import random
from pathlib import Path

import pytest

from streamseg.transports.files import JsonLinesSource


@pytest.mark.parametrize("chunk", [1, 7, 50, 64_000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b'\n{"half'])
def test_each_line_is_read_once_wherever_chunks_and_polls_end(tmp_path: Path, chunk: int, end: bytes) -> None:
    rng = random.Random(chunk)
    path = tmp_path / "events.jsonl"
    kinds = [
        b"",
        b"  ",
        b'{"a":1}',
        codecs.BOM_UTF8 + b'{"b":2}',
        b'{"c":"%s"}\r' % (b"x" * 90),
        b'{"d":"%s"}' % (b"y" * 300),
    ]
    for _ in range(30):
        lines = [rng.choice(kinds) for _ in range(rng.randint(0, 40))] + [b'{"last":1}']
        path.write_bytes(b"\n".join(lines) + end)
        source = JsonLinesSource(path, chunk_bytes=chunk)
        found: list[bytes] = []
        position, ended = 0, False
        while not ended:
            most = rng.choice([1, 3, 10, 1_000])
            read = source.read(position, most)
            assert len(read.values) <= most
            found += read.values
            position, ended = read.position, read.ended
        assert found == [text for line in lines if (text := line.removeprefix(codecs.BOM_UTF8).strip())]
        assert position == path.stat().st_size - (len(end) - 1 if end.endswith(b"half") else 0)
