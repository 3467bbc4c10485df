"""Every way to run an API: servers, workers, forks and mounts; and how often the issuer is asked for all of them."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fault_issuer import FaultIssuer, status
from servers import free_port, start, until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

HERE = Path(__file__).parents[1]
UVICORN = ["uvicorn", "--port", "{port}", "--log-level", "warning"]
GUNICORN = ["gunicorn", "-b", "127.0.0.1:{port}", "--no-control-socket"]
UVICORN_WORKER = ["-k", "uvicorn_worker.UvicornWorker"]
FOUR = ["-w", "4"]
WAYS = {  # name: command, how many workers say that they are ready, and their environment
    "uvicorn": ([*UVICORN, "deployed:app"], 1, {}),
    "uvicorn, four workers": ([*UVICORN, "--workers", "4", "deployed:app"], 4, {}),
    "gunicorn with uvicorn workers": ([*GUNICORN, *FOUR, *UVICORN_WORKER, "deployed:app"], 4, {}),
    "gunicorn with uvicorn workers, preloaded": (
        [*GUNICORN, *FOUR, *UVICORN_WORKER, "--preload", "deployed:app"],
        4,
        {},
    ),
    "gunicorn gthread, four workers": (
        [*GUNICORN, *FOUR, "-k", "gthread", "--threads", "2", "deployed:application"],
        4,
        {"WARM": "1"},
    ),
    "gunicorn gthread, preloaded": (
        [*GUNICORN, *FOUR, "-k", "gthread", "--preload", "deployed:application"],
        1,
        {"WARM": "1"},
    ),
    "hypercorn": (["hypercorn", "--bind", "127.0.0.1:{port}", "deployed:app"], 1, {}),
    "granian": (["granian", "--interface", "asgi", "--port", "{port}", "deployed:app"], 1, {}),
    "granian, wsgi": (
        ["granian", "--interface", "wsgi", "--port", "{port}", "deployed:application"],
        1,
        {"WARM": "1"},
    ),
    "a mounted application without lifespan": ([*UVICORN, "deployed:mounted"], 0, {}),
}


@pytest.fixture
def issuer():
    with FaultIssuer() as issuer:
        yield issuer


def running(way, issuer, folder):
    command, _, more = WAYS[way]
    port = free_port()
    env = os.environ | {"ISSUER": issuer.url, "FOLDER": str(folder)} | more
    parts = [part.format(port=port) for part in command]
    return start([sys.executable, "-m", *parts], port=port, cwd=HERE, env=env)


def call(url, way, raw):
    path = "/api/who" if "mounted" in way else "/who"
    return httpx.get(url + path, headers={"Authorization": f"Bearer {raw}"} if raw else {}, timeout=20)


SOME = ("uvicorn, four workers", "gunicorn gthread, four workers")
EVERY = [pytest.param(way, marks=() if way in SOME else pytest.mark.slow) for way in WAYS]


@pytest.mark.slow
@pytest.mark.parametrize("way", EVERY)
def test_workers_that_start_together_ask_the_issuer_once(way, issuer, tmp_path):
    ready = WAYS[way][1]
    with running(way, issuer, tmp_path) as url:
        until(lambda: len(list(tmp_path.glob("*.ready"))) >= ready, "the workers are ready")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: call(url, way, issuer.token()), range(40)))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["sub"] for answer in answers} == {"alice"}
        refused = call(url, way, None), call(url, way, "x"), call(url, way, issuer.token(aud="other"))
        assert [answer.status_code for answer in refused] == [401, 401, 401]
        assert all("Bearer realm=" in answer.headers["WWW-Authenticate"] for answer in refused)
    assert (issuer.hits["/jwks"], len(list((tmp_path / "snapshots").glob("*.json")))) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["uvicorn", "hypercorn", "granian"])
def test_websockets_are_refused_before_they_are_accepted(way, issuer, tmp_path):
    with running(way, issuer, tmp_path) as url:
        address = url.replace("http", "ws") + "/ws"
        good = {"Authorization": f"Bearer {issuer.token()}"}
        with connect(address, additional_headers=good) as websocket:
            assert websocket.recv(5) == "alice"
        for headers in ({}, {"Authorization": "Bearer x"}):
            with pytest.raises(InvalidStatus) as refused, connect(address, additional_headers=headers):
                pass
            assert refused.value.response.status_code in (401, 403)  # not every server sends our answer


@pytest.mark.slow
@pytest.mark.parametrize("way", SOME)
def test_all_workers_start_while_the_issuer_is_away(way, issuer, tmp_path):
    with running("uvicorn", issuer, tmp_path) as url:
        assert call(url, "uvicorn", issuer.token()).status_code == 200
    for path in tmp_path.glob("*.ready"):
        path.unlink()
    issuer.break_everywhere(status(503))
    with running(way, issuer, tmp_path) as url:
        until(lambda: len(list(tmp_path.glob("*.ready"))) >= WAYS[way][1], "the workers are ready")
        with ThreadPoolExecutor(8) as pool:
            codes = set(pool.map(lambda _: call(url, way, issuer.token()).status_code, range(40)))
    assert codes == {200}
