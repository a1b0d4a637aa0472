"""Time comes in through a port."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now_us(self) -> int:
        """Microseconds since 1970 in UTC."""
        ...


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000
