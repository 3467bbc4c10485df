"""What happens to an API when its issuer is slow, down or changing keys, or when strangers send nonsense.

    python benchmarks/storm.py             needs ticketgate[test]; takes about two minutes, prints a table

Three APIs run in processes of their own under uvicorn: one behind ticketgate, one with PyJWT and its
PyJWKClient in a synchronous endpoint (which Starlette runs in a thread), one with joserfc and the twenty lines
that people write around it.  The last row has the first two as WSGI applications under gunicorn, with eight threads.
An issuer here counts what it is asked, and can be slowed down and stopped.
"""

import asyncio
import json
import logging
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from ticketgate.issuing.keys import SigningKey
from ticketgate.issuing.tokens import issue_access_token

API = "https://api.example"
LIFE_OF_KEYS = float(os.environ.get("LIFE_OF_KEYS", "2"))  # seconds
STRANGERS = {"ticketgate": 10_000, "PyJWT": 1_000, "joserfc": 1_000}


def ticketgate_app(issuer: str) -> Any:
    from ticketgate import Issuer, KeyPolicy, ResourceServer
    from ticketgate.starlette import AccessTokenMiddleware

    policy = KeyPolicy(default_ttl=LIFE_OF_KEYS, min_ttl=0, timeout=10)
    server = ResourceServer(API, Issuer(issuer, keys=policy))
    return AccessTokenMiddleware(api(lambda request: None), server, public=["/stall"])


def pyjwt_app(issuer: str) -> Any:
    import jwt

    client = jwt.PyJWKClient(f"{issuer}/jwks", lifespan=LIFE_OF_KEYS, timeout=10)

    def check(request: Any) -> Any:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        try:
            key = client.get_signing_key_from_jwt(token)
            return jwt.decode(token, key, algorithms=["RS256"], audience=API, issuer=issuer) and None
        except jwt.PyJWTError:
            return 401

    return api(check)


def joserfc_app(issuer: str) -> Any:
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    held: dict[str, Any] = {"until": 0.0}

    async def fetch() -> None:
        async with httpx.AsyncClient() as client:
            answer = (await client.get(f"{issuer}/jwks", timeout=10)).raise_for_status()
        held.update(keys=KeySet.import_key_set(answer.json()), until=time.monotonic() + LIFE_OF_KEYS)

    async def check(request: Any) -> Any:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        try:
            if time.monotonic() > held["until"]:
                await fetch()
            for last_try in (False, True):
                try:
                    jwt.decode(token, held["keys"], algorithms=["RS256"])
                    return None
                except JoseError:
                    if last_try:
                        raise
                    await fetch()
        except (JoseError, ValueError, httpx.HTTPError):
            return 401

    return api(check)


def api(check: Callable[[Any], Any]) -> Any:
    """An API with one endpoint and a meter for the longest time that its event loop was not free."""
    from contextlib import asynccontextmanager

    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    stall = {"longest": 0.0}

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            stall["longest"] = max(stall["longest"], time.perf_counter() - began - 0.001)

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        task = asyncio.create_task(watch())
        yield
        task.cancel()

    def answer(status: int | None) -> Any:
        return PlainTextResponse("refused" if status else "open", status or 200)

    def in_a_thread(request: Any) -> Any:
        return answer(check(request))

    async def in_the_loop(request: Any) -> Any:
        return answer(await check(request) if asyncio.iscoroutinefunction(check) else check(request))

    async def longest_stall(request: Any) -> Any:
        longest, stall["longest"] = stall["longest"], 0.0
        return PlainTextResponse(str(longest))

    endpoint = in_a_thread if check.__qualname__.startswith("pyjwt") else in_the_loop
    return Starlette(routes=[Route("/", endpoint), Route("/stall", longest_stall)], lifespan=lifespan)


APPS = {"ticketgate": ticketgate_app, "PyJWT": pyjwt_app, "joserfc": joserfc_app}


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"open"]


def ticketgate_wsgi(issuer: str) -> Any:
    from ticketgate import Issuer, ResourceServer
    from ticketgate.wsgi import AccessTokenMiddleware

    return AccessTokenMiddleware(hello, ResourceServer(API, Issuer(issuer)))


def pyjwt_wsgi(issuer: str) -> Any:
    import jwt

    client = jwt.PyJWKClient(f"{issuer}/jwks", timeout=10)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        token = environ["HTTP_AUTHORIZATION"].removeprefix("Bearer ")
        try:
            key = client.get_signing_key_from_jwt(token)
            jwt.decode(token, key, algorithms=["RS256"], audience=API, issuer=issuer)
        except jwt.PyJWTError:
            start_response("401 Unauthorized", [("Content-Length", "0")])
            return []
        return hello(environ, start_response)

    return app


THREADED_APPS = {"ticketgate": ticketgate_wsgi, "PyJWT": pyjwt_wsgi}


def threaded(name: str, issuer: str) -> Any:
    """What gunicorn serves; a log line for each refusal would be the larger part of the work."""
    logging.disable(logging.ERROR)
    return THREADED_APPS[name](issuer)


class CountingIssuer:
    """An issuer that counts requests; ``delay`` slows it down, ``down`` makes it answer 503."""

    def __init__(self) -> None:
        self.keys = [SigningKey.generate()]
        self.hits: Counter[str] = Counter()
        self.delay, self.down = 0.0, False
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.hits[self.path] += 1
                time.sleep(issuer.delay)
                body = json.dumps(issuer.page(self.path)).encode()
                self.send_response(503 if issuer.down else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 512

            def handle_error(self, *_: object) -> None:
                """A client that went away has its reasons."""

        server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def page(self, path: str) -> object:
        if path == "/jwks":
            return {"keys": [key.public_jwk() for key in self.keys]}
        return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}

    def token(self) -> str:
        return issue_access_token(
            self.keys[0], issuer=self.url, subject="alice", audience=API, client_id="app", lifetime=3600
        )

    def stranger(self, number: int) -> str:
        """A token with a key id that nobody has ever seen."""
        from base64 import urlsafe_b64encode

        head = json.dumps({"typ": "at+jwt", "alg": "RS256", "kid": f"stranger {number}"}).encode()
        return ".".join([urlsafe_b64encode(head).rstrip(b"=").decode(), *self.token().split(".")[1:]])


class Running:
    """An API in a process of its own, in front of an issuer of its own."""

    def __init__(self, name: str, life_of_keys: float = LIFE_OF_KEYS, *, threads: int = 0) -> None:
        self.issuer = CountingIssuer()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, __file__, "serve", name, self.issuer.url, str(port)]
        if threads:
            command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gthread"]
            command += ["--threads", str(threads), "--log-level", "error", "--no-control-socket"]
            command += ["--chdir", os.path.dirname(os.path.abspath(__file__))]
            command += [f"storm:threaded({name!r}, {self.issuer.url!r})"]
        self.process = subprocess.Popen(command, env=os.environ | {"LIFE_OF_KEYS": str(life_of_keys)})
        for _ in range(500):
            try:
                httpx.get(f"{self.url}/stall", headers=bearer(self.issuer.token()))
                return
            except httpx.TransportError:
                time.sleep(0.02)
        raise TimeoutError(f"{name} did not start")

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        return httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits)

    def stall(self) -> float:
        return float(httpx.get(f"{self.url}/stall").text)

    def fetches(self) -> int:
        return self.issuer.hits["/jwks"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def first_requests(name: str) -> str:
    """200 requests at once, and no keys yet."""
    with Running(name) as running:
        running.issuer.delay = 0.2
        async with running.client() as client:
            token = bearer(running.issuer.token())
            answers = await asyncio.gather(*(client.get("/", headers=token) for _ in range(200)))
        assert all(answer.status_code == 200 for answer in answers)
        return str(running.fetches())


async def unknown_kids(name: str) -> str:
    """Many tokens with key ids that nobody has ever seen."""
    with Running(name, life_of_keys=3600) as running:
        async with running.client() as client:
            await client.get("/", headers=bearer(running.issuer.token()))
            tokens = [running.issuer.stranger(number) for number in range(STRANGERS[name])]
            began = time.perf_counter()
            for start in range(0, len(tokens), 50):
                batch = tokens[start : start + 50]
                await asyncio.gather(*(client.get("/", headers=bearer(token)) for token in batch))
        return f"{running.fetches()} for {len(tokens)} within {time.perf_counter() - began:.0f} s"


async def rotation(name: str) -> str:
    """From a new key to the first answer that accepts it."""
    with Running(name) as running:
        async with running.client() as client:
            await client.get("/", headers=bearer(running.issuer.token()))
            running.issuer.keys = [SigningKey.generate()]
            token, began = bearer(running.issuer.token()), time.perf_counter()
            while (await client.get("/", headers=token)).status_code != 200:
                await asyncio.sleep(0.01)
        return f"{(time.perf_counter() - began) * 1000:.0f} ms"


async def traffic(client: httpx.AsyncClient, token: str, seconds: float) -> tuple[int, int, list[float]]:
    """Steady traffic for a while: how many requests, how many were lost, and how long each took."""
    until, lost, times = time.perf_counter() + seconds, 0, []

    async def one_caller() -> None:
        nonlocal lost
        while time.perf_counter() < until:
            began = time.perf_counter()
            answer = await client.get("/", headers=bearer(token))
            times.append(time.perf_counter() - began)
            lost += answer.status_code != 200
            await asyncio.sleep(0.005)

    await asyncio.gather(*(one_caller() for _ in range(8)))
    return len(times), lost, times


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


async def outage(name: str, **trouble: Any) -> str:
    """The issuer goes away or slows down while the keys are due every other second."""
    with Running(name) as running:
        async with running.client() as client:
            token = running.issuer.token()
            await traffic(client, token, 1)
            _, _, quiet = await traffic(client, token, 5)
            running.stall()
            for what, value in trouble.items():
                setattr(running.issuer, what, value)
            count, lost, times = await traffic(client, token, 8)
        stall = running.stall() * 1000
        return (
            f"{lost} of {count} lost, p99 {p99(times) / p99(quiet):.1f} x quiet, loop stalled {stall:.0f} ms"
        )


async def threaded_flood(name: str) -> str:
    """Ten tokens a second with unknown key ids, and an issuer that takes 5 s: how long valid requests take."""
    if name not in THREADED_APPS:
        return "-"
    with Running(name, threads=8) as running:
        async with running.client() as client:
            token = running.issuer.token()
            await traffic(client, token, 1)
            running.issuer.delay = 5.0
            over = asyncio.Event()

            async def flood() -> None:
                number = 0
                async with running.client() as other, asyncio.TaskGroup() as tasks:
                    while not over.is_set():
                        tasks.create_task(other.get("/", headers=bearer(running.issuer.stranger(number))))
                        number += 1
                        await asyncio.sleep(0.1)

            flooding = asyncio.create_task(flood())
            await asyncio.sleep(2)
            count, lost, times = await traffic(client, token, 12)
            over.set()
            await flooding
        return f"{lost} of {count} lost, median {statistics.median(times) * 1000:.1f} ms"


async def main() -> None:
    scenarios: dict[str, Callable[[str], Awaitable[str]]] = {
        "fetches for 200 first requests at once": first_requests,
        "fetches for unknown key ids": unknown_kids,
        "from a rotation to the first accepted token": rotation,
        "the issuer is down for 8 s": lambda name: outage(name, down=True),
        "the issuer takes 5 s to answer": lambda name: outage(name, delay=5.0),
        "eight threads, ten unknown key ids a second, the issuer takes 5 s": threaded_flood,
    }
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}\n")
    print("| | " + " | ".join(APPS) + " |\n|---|" + "---|" * len(APPS))
    for title, scenario in scenarios.items():
        print(f"| {title} | " + " | ".join([await scenario(name) for name in APPS]) + " |", flush=True)


def serve(name: str, issuer: str, port: str) -> None:
    import uvicorn

    uvicorn.run(APPS[name](issuer), port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    serve(*sys.argv[2:]) if sys.argv[1:2] == ["serve"] else asyncio.run(main())
