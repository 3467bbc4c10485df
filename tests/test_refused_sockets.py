"""A FastAPI WebSocket that is refused: what clients see, and that no server logs a traceback for it."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from servers import free_port, start
from table import KEYS
from tokens import token
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

HERE = Path(__file__).parent
UVICORN = "uvicorn --port {port} --ws {ws}"
SERVERS = {
    "uvicorn": UVICORN.format(port="{port}", ws="websockets"),
    "uvicorn sansio": UVICORN.format(port="{port}", ws="websockets-sansio"),
    "hypercorn": "hypercorn --bind 127.0.0.1:{port}",
}
STRANGER = {"Authorization": f"Bearer {token().decode()}"}
SEEN = {  # with and without installed handlers: path, headers, the status of the refusal or the code of the close
    "bare": [("/required", {}, 401), ("/required", STRANGER, 403)],
    "installed": [
        ("/required", {}, 401),
        ("/required", STRANGER, 403),
        ("/raised", {}, 403),
        ("/accepted", {}, 1008),
        ("/closed", {}, 1000),
    ],
}
WITHOUT_DENIALS = {
    401: 403,
    403: 403,
    1008: 1008,
    1000: 1000,
}  # a WebSocket that is closed unaccepted is a 403


def outcome(address, headers):
    """The status of a refusal, or the code of a WebSocket that was accepted and then closed."""
    try:
        with connect(address, additional_headers=headers) as websocket:
            websocket.recv(5)
    except InvalidStatus as refused:
        return refused.response.status_code
    except ConnectionClosed as closed:
        return closed.rcvd.code


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "without_"])
@pytest.mark.parametrize("application", SEEN)
@pytest.mark.parametrize("server", SERVERS)
def test_refusals_log_no_traceback(server, application, prefix, tmp_path):
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", *SERVERS[server].format(port=port).split()]
    shell = (
        f"exec {shlex.join([*command, f'sockets_app:{prefix}{application}'])} >{shlex.quote(str(log))} 2>&1"
    )
    env = os.environ | {"TICKETGATE_TEST_KEYS": json.dumps(KEYS)}
    with start(["sh", "-c", shell], port=port, cwd=HERE, env=env) as url:
        for path, headers, seen in SEEN[application]:
            expected = WITHOUT_DENIALS[seen] if prefix else seen
            assert outcome(url.replace("http", "ws") + path, headers) == expected
    assert "Traceback" not in log.read_text()
    assert "rror" not in log.read_text()
