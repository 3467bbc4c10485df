"""Where users may be sent back to: as it was registered, or on loopback with another port.

RFC 9700 §2.1 and §4.1, RFC 8252 §7.3.
"""

import pytest
from urls import READ_DIFFERENTLY

from ticketgate.demo.browser_clients import BrowserClient

REGISTERED = frozenset({"http://127.0.0.1/cb?x=1", "http://[::1]:9000/cb", "https://app.example/cb"})


@pytest.mark.parametrize(
    ("uri", "accepted"),
    [
        ("http://127.0.0.1/cb?x=1", True),
        ("http://127.0.0.1:1/cb?x=1", True),
        ("http://127.0.0.1:65535/cb?x=1", True),
        ("http://[::1]:1/cb", True),
        ("http://[::1]/cb", True),
        ("https://app.example/cb", True),
        ("http://127.0.0.1:0/cb?x=1", False),
        ("http://127.0.0.1:080/cb?x=1", False),
        ("http://127.0.0.1:65536/cb?x=1", False),
        ("http://127.0.0.1:/cb?x=1", False),
        ("http://127.0.0.1:1\n/cb?x=1", False),
        ("http://127.0.0.1:\u0661/cb?x=1", False),
        ("http://127.0.0.1:1@evil.example/cb?x=1", False),
        ("http://127.0.0.1:1\\@evil.example/cb?x=1", False),
        ("http://evil.example\\@127.0.0.1/cb?x=1", False),
        ("http://evil.example;@127.0.0.1/cb?x=1", False),
        ("http://127.0.0.1;script-src/cb?x=1", False),
        ("http://127.0.0.1:1/cb", False),
        ("http://127.0.0.1:1/cb?x=1#", False),
        ("http://127.0.0.1:1/cb?x=1&y", False),
        ("http://127.0.0.2/cb?x=1", False),
        ("http://localhost/cb?x=1", False),
        ("HTTP://127.0.0.1:1/cb?x=1", False),
        ("https://127.0.0.1:1/cb?x=1", False),
        ("https://app.example:1/cb", False),
        ("https://app.example:443/cb", False),
        ("", False),
        *((url, False) for url in READ_DIFFERENTLY),
    ],
)
def test_a_redirect_uri_is_registered_as_a_string_or_on_loopback_with_a_port(uri, accepted):
    assert BrowserClient("app", frozenset(), REGISTERED).has_redirect_uri(uri) is accepted
