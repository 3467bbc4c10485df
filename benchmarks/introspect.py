"""What introspection costs: remembered answers beside remembered JWTs, and throughput with and without a cache.

    python benchmarks/introspect.py        needs ticketgate[test]; prints tables in Markdown

The endpoint is a small application under uvicorn in a process of its own, on loopback; it counts what it is asked.
"""

import asyncio
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx

from ticketgate import ClientSecretBasic, Introspection, Issuer, ResourceServer, averify
from ticketgate.core.request import ResourceRequest
from ticketgate.issuing.keys import SigningKey
from ticketgate.issuing.tokens import issue_access_token

API, ISSUER = "https://api.example", "https://as.example"
TOKENS, USES, CALLERS = 1_000, 20, 50


def endpoint() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    calls = {"count": 0}

    async def introspect(request: Any) -> Any:
        calls["count"] += 1
        return JSONResponse({"active": True, "sub": "alice", "aud": API, "scope": "orders:read"})

    async def count(request: Any) -> Any:
        seen, calls["count"] = calls["count"], 0
        return JSONResponse(seen)

    return Starlette(routes=[Route("/introspect", introspect, methods=["POST"]), Route("/count", count)])


def server_for(url: str, **options: Any) -> ResourceServer:
    introspection = Introspection(f"{url}/introspect", auth=ClientSecretBasic("api", "secret"), **options)
    return ResourceServer(API, Issuer(ISSUER, jwks={"keys": [KEY.public_jwk()]}, introspection=introspection))


KEY = SigningKey.generate()


def judged(server: ResourceServer, token: str) -> Callable[[], object]:
    request = ResourceRequest("GET", authorization=(b"Bearer " + token.encode(),))

    def judge() -> object:
        try:
            next(server.authenticate(request))
        except StopIteration as done:
            return done.value
        raise AssertionError("it is remembered")

    return judge


def measure(judges: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Microseconds per call: the best of several rounds in which all take turns."""
    best = dict.fromkeys(judges, float("inf"))
    for _ in range(15):
        for name, judge in judges.items():
            began = time.perf_counter()
            for _ in range(20_000):
                judge()
            best[name] = min(best[name], (time.perf_counter() - began) / 20_000 * 1e6)
    return best


async def throughput(server: ResourceServer, uses: int) -> float:
    """Tokens judged per second: each of many tokens comes ``uses`` times, some callers at once."""
    work = [f"opaque-{number}" for _ in range(uses) for number in range(TOKENS)]
    queue = iter(work)

    async def caller() -> None:
        for token in queue:
            await averify(server, token)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return len(work) / (time.perf_counter() - began)


async def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, __file__, "serve", str(port)])
    try:
        await wait_for(url)
        print(
            f"Python {platform.python_version()}, {os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}\n"
        )
        await print_hits(url)
        print(
            f"\n| {TOKENS} live opaque tokens, {CALLERS} callers at once | tokens per second | calls of the endpoint |"
        )
        print("|---|---|---|")
        for title, uses, options in (
            ("each comes 20 times, so that 95 % are remembered", USES, {}),
            ("nothing is remembered", 2, {"cache_ttl": 0}),
        ):
            await count(url)
            rate = await throughput(server_for(url, **options, max_waiting=1000), uses)
            print(f"| {title} | {rate:,.0f} | {await count(url)} for {uses * TOKENS} |")
    finally:
        process.terminate()
        process.wait(10)


async def print_hits(url: str) -> None:
    server = server_for(url)
    jwt = issue_access_token(
        KEY, issuer=ISSUER, subject="alice", audience=API, client_id="app", lifetime=3600, scope="orders:read"
    )
    await averify(server, "opaque")
    await averify(server, jwt)
    best = measure({"jwt": judged(server, jwt), "opaque": judged(server, "opaque")})
    print("| µs per token that was seen before | |\n|---|---|")
    print(f"| a JWT | {best['jwt']:.1f} |")
    print(f"| an opaque token | {best['opaque']:.1f} ({best['opaque'] / best['jwt']:.2f} x) |")


async def wait_for(url: str) -> None:
    for _ in range(500):
        try:
            await count(url)
            return
        except httpx.TransportError:
            await asyncio.sleep(0.02)
    raise TimeoutError("the endpoint did not start")


async def count(url: str) -> int:
    async with httpx.AsyncClient() as client:
        return int((await client.get(f"{url}/count")).text)


def serve(port: str) -> None:
    import uvicorn

    uvicorn.run(endpoint(), port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1:2] == ["serve"] else asyncio.run(main())
