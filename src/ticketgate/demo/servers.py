"""Runs the demo's two applications on loopback, each in a thread, until somebody has seen enough."""

import errno
import socket
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import uvicorn

from ticketgate.demo.issuer import issuer_app

LOOPBACK = "127.0.0.1"
PATIENCE = 10.0


class CannotStart(Exception):
    """A server of the demo did not start; the message is one sentence that says why."""


class Addresses(NamedTuple):
    """Where the demo listens."""

    api: str
    issuer: str


@contextmanager
def serving(port: int, issuer_port: int) -> Generator[Addresses, None, None]:
    """The demo on these ports, 0 for any that is free.  Raises `CannotStart`."""
    try:
        from ticketgate.demo.api import api_app  # everything else does without FastAPI
    except ModuleNotFoundError as error:
        raise CannotStart("The demo needs an extra: pip install 'ticketgate[demo]'") from error
    with ExitStack() as open_until_the_end:
        api_socket = open_until_the_end.enter_context(_listen(port, "--port"))
        issuer_socket = open_until_the_end.enter_context(_listen(issuer_port, "--issuer-port"))
        addresses = Addresses(_address(api_socket), _address(issuer_socket))
        open_until_the_end.enter_context(_server(issuer_app(addresses.issuer), issuer_socket))
        open_until_the_end.enter_context(_server(api_app(addresses.issuer), api_socket))
        yield addresses


def _listen(port: int, option: str) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port), backlog=128)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is in use" if taken else f"cannot be opened ({error.strerror})"
        raise CannotStart(f"Port {port} {why}: choose another one with {option}.") from error


def _address(listening: socket.socket) -> str:
    return f"http://{LOOPBACK}:{listening.getsockname()[1]}"


@contextmanager
def _server(app: Any, listening: socket.socket) -> Generator[None, None, None]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        _wait_for(server, thread)
        yield
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def _wait_for(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + PATIENCE
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise CannotStart("A server of the demo did not start; its log says why.")
        time.sleep(0.01)
