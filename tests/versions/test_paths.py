"""Gate and router agree about the path: every router, server and root path, with a few hundred odd paths each.

Each route of `routers` answers its own name.  Without a token no name is answered but those that are public,
whatever the path looked like; and every public name is reachable.
"""

import http.client
import json
import os
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import django
import pytest
from routers import CLOSED, MAKE, OPEN
from servers import free_port, start
from table import KEYS
from tokens import token

HERE = Path(__file__).parents[1]
SERVERS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "--log-level", "critical", "--root-path", "{root}"],
    "uvicorn h11": [
        "uvicorn",
        "--port",
        "{port}",
        "--log-level",
        "critical",
        "--http",
        "h11",
        "--root-path",
        "{root}",
    ],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", "--root-path", "{root}"],
    "granian": [
        "granian",
        "--interface",
        "asgi",
        "--port",
        "{port}",
        "--no-log",
        "--url-path-prefix",
        "{root}",
    ],
}
ROOTS = {
    "uvicorn": ["", "/api", "/docs", "/"],
    "uvicorn h11": ["/api"],
    "hypercorn": ["/api", "/docs", "/docs/api", "/mnt"],
    "granian": ["/api", "/api/", "/health"],
}
MATRIX = [
    pytest.param(server, root, [*MAKE], 1, marks=pytest.mark.slow)
    for server, roots in ROOTS.items()
    for root in roots
]
SAMPLE = ("hypercorn", "/api", ["starlette", "litestar"], 12)  # where they disagree, and every twelfth path
BEFORE = [
    "",
    "/docs",
    "/docs/a",
    "/docs/..",
    "/docs/%2e%2e",
    "/docs/.",
    "/docs/;",
    "/docs/%00",
    "/docs/%0a",
    "/docs%2f",
]
BEFORE += [
    "/docs/%5c..",
    "/docs\\..",
    "/docs//",
    "/",
    "//docs",
    "/health",
    "/health/..",
    "/x",
    "/mnt",
    "/mnt/docs",
]
BEFORE += [
    "/mnt/docs/..",
    "/docs/%252e%252e",
    "/docs/%ff",
    "/api",
    "/mnt/docs/a",
    "/docs/docs",
    "http://x",
    "*",
]
AFTER = [
    "/",
    "//",
    "/.",
    "/..",
    ";x",
    "%0a",
    "%00",
    "%2f",
    "%20",
    "?x",
    "/%2e",
    "%3fx",
    "%23",
    "/x/..",
    "%c2%85",
    "/é",
]


def odd_paths(root):
    """Request targets in ASCII: each name after each beginning, with the root path in front, in between and behind."""
    names = sorted(name.replace("*", "a") for name in OPEN | CLOSED)
    some = ["/me", "/docs", "/mnt/me", "/api/me"]
    yield from (before + name for before in BEFORE for name in names)
    yield from (name + after for after in AFTER for name in names)
    if root:
        yield from (before + root + name for before in BEFORE for name in names)
        yield from (root + before + root + name for before in BEFORE for name in some)
        yield from (root + before + name for before in BEFORE for name in some)
        yield from (f"{before}x{root}x{name}" for before in ("/docs/", "/", "") for name in some)


class Client:
    """Asks the routers of one server, over one connection, for targets exactly as they are written."""

    def __init__(self, url):
        self.address = urlsplit(url).netloc
        self.connection = http.client.HTTPConnection(self.address, timeout=60)
        self.credentials = f"Bearer {token().decode()}"

    def close(self):
        self.connection.close()

    def ask(self, router, target, *, trusted=False):
        """The name that was answered, or the status where that was not 200."""
        try:
            return self.answer(router, target, trusted)
        except (http.client.HTTPException, ConnectionError):  # a server that hangs up has answered nothing
            self.connection.close()
            return self.answer(router, target, trusted)

    def answer(self, router, target, trusted):
        self.connection.putrequest("GET", "/", skip_host=True, skip_accept_encoding=True)
        self.connection._buffer[0] = f"GET {target} HTTP/1.1".encode()  # what http.client would not send
        self.connection.putheader("Host", self.address)
        self.connection.putheader("X-Router", router)
        if trusted:
            self.connection.putheader("Authorization", self.credentials)
        self.connection.endheaders()
        response = self.connection.getresponse()
        body = response.read().decode("utf-8", "replace")
        return body if response.status == 200 else response.status


def ways(root, name):
    """The targets that a client may have to send for a name: with the root path, or without it."""
    plain = name.replace("*", "a")
    return {plain, root + plain, root.rstrip("/") + plain}


def cut_twice(root):
    """Names that contain the root path: a Litestar mounted in another one cuts it off once more, so none is public."""
    bare = root.rstrip("/")
    return {name for name in OPEN | CLOSED if bare and name.find(bare, 1) != -1}


@pytest.mark.parametrize(("server", "root", "routers", "step"), [*MATRIX, SAMPLE])
def test_no_closed_route_is_answered_without_a_token(server, root, routers, step, monkeypatch):
    monkeypatch.setenv("TICKETGATE_TEST_KEYS", json.dumps(KEYS))
    port = free_port()
    command = [part.format(port=port, root=root) for part in [*SERVERS[server], "routers:app"]]
    with (
        start([sys.executable, "-m", *command], port=port, cwd=HERE, env=dict(os.environ)) as url,
        closing(Client(url)) as client,
    ):
        for router in routers:
            check(client, router, root, sorted(set(odd_paths(root)))[::step])


def check(client, router, root, targets):
    # Django 6 routes nothing below a root path that ends in a slash
    names = set() if router == "django" and root == "/" and django.VERSION >= (6,) else OPEN | CLOSED
    reached = {
        name for name in names for way in ways(root, name) if client.ask(router, way, trusted=True) == name
    }
    assert (router, names - reached - cut_twice(root)) == (router, set())
    public = {name for name in names for way in ways(root, name) if client.ask(router, way) == name}
    assert (router, public) == (router, names & (OPEN - cut_twice(root)))
    answers = {target: client.ask(router, target) for target in targets}
    assert (router, {target: got for target, got in answers.items() if got in CLOSED}) == (router, {})
    assert 401 in answers.values()
