"""Which URLs are used at all: those that Python and browsers (WHATWG URL) read alike."""

import pytest
from urls import READ_DIFFERENTLY

from ticketgate.core.web_address import is_safe, shown, split


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


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://as.example/x", "'http://as.example/x'"),
        ("https://user:secret@as.example/x", "'https://...@as.example/x'"),
        ("https://user:sec/r?e#t@as.example", "'https://...@as.example'"),
        ("https://a:b@c:d@as.example", "'https://...@as.example'"),
        ("user:secret@as.example", "'...@as.example'"),
        ("//user:secret@as.example", "'...@as.example'"),
        (b"https://user:secret@as.example", "b'https://...@as.example'"),
        (["user:secret@as.example"], "[...@as.example']"),
        (None, "None"),
    ],
)
def test_a_url_is_shown_without_its_password(url, words):
    assert shown(url) == words


def test_plain_http_is_for_loopback():
    assert not is_safe("http://as.example")
    assert is_safe("http://as.example", insecure_http=True)
    assert split("http://as.example") is not None
