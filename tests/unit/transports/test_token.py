from __future__ import annotations

import base64
import json

import pytest

from streamseg.transports.kafka.client import expired


def token(**claims: object) -> str:
    content = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"head.{content}.signature"


@pytest.mark.parametrize(
    ("given", "is_expired"),
    [
        (token(exp=99), True),
        (token(exp=101.5), False),
        (token(sub="app"), False),
        (token(exp="soon"), False),
        ("opaque", False),
        ("a.b.c", False),
    ],
)
def test_a_token_is_expired_where_it_says_so(given: str, is_expired: bool) -> None:
    assert expired(given, 100.0) is is_expired
