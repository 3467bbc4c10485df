"""Which URLs are used at all: those that Python and browsers (WHATWG URL) read alike.

RFC 9700 §2.1 and §4.1 (redirect URIs), RFC 8252 §7.3 (loopback).
"""

import pytest

from ticketgate.core.web_address import is_safe, split
from ticketgate.issuing.clients import Client

READ_DIFFERENTLY = [
    # what Python's urlsplit makes of it, and what a browser does
    "http://evil.example\\@127.0.0.1/cb",  # 127.0.0.1, evil.example
    "http://127.0.0.1\\@evil.example/cb",  # evil.example, 127.0.0.1
    "https://evil.example\\.as.example/",  # a host with a backslash, evil.example
    "http:\\\\127.0.0.1/cb",  # no host, 127.0.0.1
    "https:/\\as.example/",  # no host, as.example
    "https:///as.example/",  # no host, as.example
    "https:as.example/",  # no host, as.example
    "https://user@as.example/",  # userinfo: both the same host, but people read another one
    "https://@as.example/",
    "https://as.example:@evil.example/",
    "https://as.example#@evil.example/",  # as.example for both; older parsers: evil.example
    "https://as.example#",  # an empty fragment, which Python drops
    "https://as.example/?",  # an empty query, which Python drops
    "https://as.example/?#",
    "https://as.example:/",  # an empty port, which browsers drop
    "https://as.example:0/",
    "https://as.example:65536/",
    "https://as.example:8a/",
    "https://as.example:+80/",
    "https://as\t.example/",  # browsers drop tabs and line ends anywhere
    "https://as.exam\nple/",
    "\thttps://as.example/",
    " https://as.example/",
    "https://as.example/ ",
    "https://as.example/\x00",
    "https://as.example\x7f/",
    "https://as.example%2f.evil.example/",  # browsers decode the host
    "https://%61s.example/",
    "https://as.example;script-src *;/",  # would end the directive of a content security policy
    "https://as.example'/",
    "https://as.example,evil.example/",
    "https://as..example/",
    "https://[::1%25;x]/",
    "https://[v1.x]/",
    "https://[::1/",
    "https://as.examp\u017fe/",  # browsers map other letters to ASCII
    "https://\uff41s.example/",
    "https://as\u3002example/",
    "javascript://as.example/%0aalert(1)",
    "ftp://as.example/",
    "//as.example/",
    "",
]


@pytest.mark.parametrize("url", READ_DIFFERENTLY)
def test_a_url_that_is_read_in_two_ways_is_not_used(url):
    assert not is_safe(url)
    assert not is_safe(url, insecure_http=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://as.example",
        "https://as.example./",
        "https://as_1.example:8443/a;b/?c=d&e=?f",
        "HTTPS://AS.example/",
        "https://[2001:db8::1]:8443/",
        "http://127.0.0.1",
        "http://127.8.8.8:1/a",
        "http://[::1]:9000/",
        "http://localhost:9000",
    ],
)
def test_a_url_that_is_read_in_one_way_is_used(url):
    assert is_safe(url)


def test_plain_http_is_for_loopback():
    assert not is_safe("http://as.example")
    assert is_safe("http://as.example", insecure_http=True)
    assert split("http://as.example") is not None


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
    assert Client("app", redirect_uris=REGISTERED).may_be_sent_to(uri) is accepted
