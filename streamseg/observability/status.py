"""For people at a terminal: a status line that lives, and a table of segments."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from streamseg.engine.events import (
    BatchCommitted,
    InputFormat,
    ModelChanged,
    Observation,
    SegmentSummary,
    Started,
    Stopped,
    Waiting,
)

_RATE_WINDOW_S = 5.0
_BAR_WIDTH = 12
# Shift of a center since the metric was set, in standard deviations: where the light changes.
_AMBER, _RED = 0.5, 1.0


class Counts:
    """Running totals of a run."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.events = 0
        self.outcomes: Counter[str] = Counter()
        self.letters: Counter[str] = Counter()
        self.segments: tuple[SegmentSummary, ...] = ()
        self.adds: Counter[int] = Counter()
        self.drops: Counter[int] = Counter()
        self.watermark_us: int | None = None
        self._recent: deque[tuple[float, int]] = deque([(now(), 0)])

    def add(self, event: BatchCommitted) -> None:
        self.outcomes.update(event.outcomes)
        self.letters.update(event.dead_letters)
        self.events = sum(self.outcomes.values())
        self.segments = event.segments
        self.watermark_us = event.watermark_us
        self.adds, self.drops = Counter(), Counter()
        for (before, after), n in event.transitions.items():
            self.adds[after] += n
            if before >= 0:
                self.drops[before] += n
        self._recent.append((self._now(), self.events))
        while len(self._recent) > 2 and self._recent[-1][0] - self._recent[0][0] > _RATE_WINDOW_S:
            self._recent.popleft()

    @property
    def rate(self) -> float:
        """Events a second over the last seconds."""
        (first, before), (last, after) = self._recent[0], self._recent[-1]
        return (after - before) / (last - first) if last > first else 0.0


class StatusLine:
    """One line that is rewritten: events, rate, lag, segments, dead letters."""

    def __init__(self, console: Console, lag: Callable[[], str], *, table: bool = False) -> None:
        """`lag` says how much input is left; `table` adds the segments."""
        self._lag, self._with_table = lag, table
        self.counts = Counts()
        self._before = 0
        self._live = Live(console=console, refresh_per_second=8, transient=False)

    def observe(self, event: Observation) -> None:
        match event:
            case Started():
                self._live.start()
                self._before = sum(event.positions.values()) - self.counts.events
                self.counts.segments = event.segments
                if event.customers:
                    self._live.console.print(
                        f"restored {event.customers:,} customers at model version {event.model_version} "
                        f"in {event.restore_seconds:.1f} s"
                    )
            case BatchCommitted():
                self.counts.add(event)
                self._live.update(self.render())
            case ModelChanged() if event.what == "started":
                self._live.console.print(f"the model starts with {len(event.segments)} segments")
            case InputFormat():
                self._live.console.print(f"[dim]{escape(event.path)}: {escape(event.found)}")
            case Waiting():
                self._live.console.print(f"[yellow]{escape(event.message)}")
            case Stopped():
                self._live.update(self.render(), refresh=True)
                self._live.stop()
                if self.counts.letters:
                    codes = ", ".join(f"{code} {n:,}" for code, n in self.counts.letters.most_common())
                    self._live.console.print(f"dead letters: {codes}")

    def render(self) -> RenderableType:
        counts = self.counts
        line = Text.assemble(
            (f"{self._before + counts.events:,}", "bold"), " events  ",
            (f"{counts.rate:,.0f}", "bold"), " events/s  lag ",
            (self._lag(), "bold"), "  ",
            (str(len(counts.segments) or "no"), "bold"), " segments  ",
            (f"{counts.outcomes['dead_letter']:,}", "bold red" if counts.outcomes["dead_letter"] else "bold"),
            " dead letters",
        )  # fmt: skip
        if not counts.segments and counts.outcomes["warming_up"]:
            line.append("  warming up", "yellow")
        return Group(segments_table(counts), line) if self._with_table and counts.segments else line


def segments_table(counts: Counts) -> Table:
    """Segment, name, customers with a bar, who came and went in the last batch, drift light."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, justify in [("id", "right"), ("segment", "left"), ("customers", "right"), ("share", "left"),
                          ("in", "right"), ("out", "right"), ("drift", "center")]:  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for segment in counts.segments:
        color = "green" if segment.shift < _AMBER else "yellow" if segment.shift < _RED else "red"
        table.add_row(
            str(segment.id),
            segment.name,
            f"{segment.customers:,}",
            f"{bar(segment.share)} {segment.share:4.0%}",
            f"+{counts.adds[segment.id]}" if counts.adds[segment.id] else "",
            f"-{counts.drops[segment.id]}" if counts.drops[segment.id] else "",
            Text("●", color),
        )
    return table


def number(value: float) -> str:
    """For people: 65,720, 24.41, 0.0031."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def sigmas(z: float) -> str:
    return f"{round(z, 1) + 0.0:+.1f}σ"


def bar(share: float) -> str:
    filled = round(share * _BAR_WIDTH)
    return "█" * filled + "░" * (_BAR_WIDTH - filled)
