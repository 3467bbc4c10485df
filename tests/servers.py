"""Real servers on loopback: each is a context manager, gives its base URL, and ends what it started.

    with serve_asgi(app) as url: httpx.get(url)            # uvicorn, in a thread
    with serve_wsgi(app) as url: httpx.get(url)            # waitress, in a thread
    with start([sys.executable, "issuer.py"]) as url: ...  # a process that prints "ready http://..."
    with start(["gunicorn", "-b", f"127.0.0.1:{port}", "app:app"], port=port) as url: ...

Nothing waits longer than `PATIENCE` seconds, and no port is chosen by a person.
"""

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import IO, Any

import uvicorn
import waitress
from waitress import wasyncore

LOOPBACK = "127.0.0.1"
PATIENCE = 20.0


def listening_socket() -> socket.socket:
    """A listening socket on a free loopback port: nobody else can take the port any more."""
    return socket.create_server((LOOPBACK, 0), backlog=128)


def free_port() -> int:
    """A loopback port that was free a moment ago, for servers that must be told a number."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def until(true: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until ``true()`` is; raises TimeoutError that names ``what`` after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience} seconds")
        time.sleep(0.01)


@contextmanager
def serve_asgi(app: Any, **options: Any) -> Iterator[str]:
    """An ASGI app under uvicorn; ``options`` are uvicorn's own (``root_path``, ``ws``, ...)."""
    settings = {"lifespan": "auto", "log_level": "warning", "timeout_graceful_shutdown": 3} | options
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    sock = listening_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="uvicorn", daemon=True)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive(), "uvicorn starts")
        if not server.started:
            raise RuntimeError("uvicorn did not start; its log says why")
        yield _url(sock)
    finally:
        server.should_exit = True
        _join(thread)
        sock.close()


@contextmanager
def serve_wsgi(app: Any, **options: Any) -> Iterator[str]:
    """A WSGI app under waitress; ``options`` are waitress's own (``threads``, ``url_prefix``, ...)."""
    sock = listening_socket()
    sockets: dict[int, Any] = {}  # what this server has open, apart from every other one in the process
    server = waitress.create_server(app, map=sockets, sockets=[sock], **({"threads": 8} | options))
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            wasyncore.loop(timeout=0.05, map=sockets, count=1, use_poll=True)

    thread = threading.Thread(target=run, name="waitress", daemon=True)
    thread.start()
    try:
        yield _url(sock)
    finally:
        stop.set()
        _join(thread)
        server.task_dispatcher.shutdown(timeout=5)
        wasyncore.close_all(sockets)
        sock.close()


def _url(sock: socket.socket) -> str:
    return f"http://{LOOPBACK}:{sock.getsockname()[1]}"


def _join(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    if thread.is_alive():
        raise TimeoutError(f"{thread.name} did not end within {PATIENCE} seconds")


@contextmanager
def start(
    command: Sequence[str | Path],
    *,
    port: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[str]:
    """A server in a process of its own, ready when ``port`` accepts or when it prints ``ready <url>``.

    Its standard input is a pipe that closes when we end, however we end, so it can notice.
    """
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        cwd=cwd,
    )
    output = _Output(process)
    try:
        yield output.wait_for_ready() if port is None else output.wait_for(port)
    finally:
        _end(process)
        output.close()


def _end(process: subprocess.Popen[str]) -> None:
    """Close its input, ask it to end, and insist after a while."""
    with suppress(BrokenPipeError):
        _pipe(process.stdin).close()
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


class _Output:
    """What a process prints, read by a thread so that it never blocks on a full pipe."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[str] = []
        self.ready: Queue[str] = Queue()
        self.thread = threading.Thread(target=self._read, name="output", daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for line in _pipe(self.process.stdout):
            self.seen.append(line)
            if line.startswith("ready "):
                self.ready.put(line.split()[1])

    def wait_for_ready(self) -> str:
        self._wait(lambda: not self.ready.empty(), "prints its address")
        return self.ready.get_nowait()

    def wait_for(self, port: int) -> str:
        self._wait(lambda: _accepts(port), f"listens on port {port}")
        return f"http://{LOOPBACK}:{port}"

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        """Wait for it while the process lives; its output is told where the wait was in vain."""
        with suppress(TimeoutError):
            until(lambda: true() or self.process.poll() is not None, what)
        if not true():
            self.thread.join(0.5)
            raise RuntimeError(f"{self.process.args!r} never {what}\n{''.join(self.seen)}")

    def close(self) -> None:
        self.thread.join(5)
        _pipe(self.process.stdout).close()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
