"""Every row of the table through real servers: uvicorn on both its parsers, waitress, gunicorn's threads."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from doors import OPTIONAL, asgi_app, wsgi_app
from raw_http import request
from servers import free_port, serve_asgi, serve_wsgi, start
from table import KEYS, TABLE

HERE = Path(__file__).parent
TOO_LARGE_FOR_GUNICORN = 8_000


@pytest.fixture(scope="module", autouse=True)
def keys():
    os.environ["TICKETGATE_TEST_KEYS"] = json.dumps(KEYS)
    yield
    del os.environ["TICKETGATE_TEST_KEYS"]


@pytest.fixture(scope="module", params=["h11", "httptools", "waitress", "gunicorn"])
def door(request, keys):
    """The name of a server and its address."""
    match request.param:
        case "h11" | "httptools":
            serving = serve_asgi(asgi_app(), http=request.param)
        case "waitress":
            serving = serve_wsgi(wsgi_app())
        case "gunicorn":
            port = free_port()
            command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gthread"]
            command += ["--threads", "4", "--no-control-socket", "doors:wsgi_app()"]
            serving = start(command, port=port, cwd=HERE)
    with serving as url:
        yield request.param, url


def calls(url):
    return int(request(url, "/calls").body)


def size(row):
    return sum(map(len, row.authorization))


@pytest.mark.requirement(
    "RFC6750-3-a", "RFC6750-3-b", "RFC6750-3-e", "RFC9110-11.6.1-a", "DRV-wsgi-a", "DRV-limits-a"
)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_door_answers_as_the_table_says(door, row):
    server, url = door
    headers = [(b"Authorization", value) for value in row.authorization]
    before, began = calls(url), time.monotonic()
    response = request(
        url, (OPTIONAL if row.optional else "") + row.path, *headers, *row.more, method=row.method
    )
    called = calls(url) - before

    if server in row.refused_by or (server == "gunicorn" and size(row) > TOO_LARGE_FOR_GUNICORN):
        assert 400 <= response.status < 500
        assert time.monotonic() - began < 2
        assert called == 0
        return
    assert response.status == row.expected.status
    assert response.all("www-authenticate") == row.expected.challenges
    assert json.loads(response.body) == row.expected.body
    assert called == (row.expected.status == 200)
    if row.expected.status != 200:
        assert response.all("cache-control") == ("no-store",)
        assert response.all("content-type") == ("application/json",)
        assert bool(response.all("retry-after")) == (row.expected.status == 503)
