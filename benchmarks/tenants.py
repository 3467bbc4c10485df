"""A thousand tenants in one gate: memory for each, and what a request costs beside a single issuer.

    python benchmarks/tenants.py        needs ticketgate; prints a table in Markdown

No network: issuers answer from memory, each with metadata and two RSA keys of 2048 bits, one of them its own, and no
verified token is remembered, so that every request finds its issuer, its key and checks a signature.
"""

import json
import os
import platform
import secrets
import time
from base64 import urlsafe_b64encode
from datetime import date
from typing import Any

from ticketgate import Issuer, ResourceServer
from ticketgate.core.flow import Call, Fetch, Flow, Once, Reply
from ticketgate.core.request import bearer_request
from ticketgate.issuing.keys import SigningKey
from ticketgate.issuing.tokens import issue_access_token

API, TEMPLATE = "https://api.example", "https://login.example/{tenant}/v2.0"
TENANTS, ROUNDS = 1_000, 15
KEY = SigningKey.generate()


def name(tenant: int) -> str:
    return TEMPLATE.replace("{tenant}", f"tenant-{tenant:04}")


def published(url: str) -> bytes:
    if url.endswith("/jwks"):
        return json.dumps({"keys": [KEY.public_jwk(), another_key()]}).encode()
    issuer = url.removesuffix("/.well-known/openid-configuration")
    if issuer == url:
        return b"{}"
    rest = {
        f"{name}_endpoint": f"{issuer}/{name}" for name in ("authorization", "token", "userinfo", "device")
    }
    return json.dumps({"issuer": issuer, "jwks_uri": f"{issuer}/jwks", **rest}).encode()


def another_key() -> dict[str, str]:
    """The form of an RSA public key that nobody has the private one of: making real ones takes a minute."""
    modulus = bytes([0xFF]) + secrets.token_bytes(254) + bytes([secrets.randbits(8) | 1])
    n = urlsafe_b64encode(modulus).rstrip(b"=").decode()
    return {"kty": "RSA", "use": "sig", "kid": n[:20], "n": n, "e": "AQAB"}


def resident() -> int:
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(flow: Flow[Any]) -> Any:
    """The driver: everything that is asked for is there at once."""
    try:
        effect = next(flow)
        while True:
            match effect:
                case Fetch(request):
                    body = published(request.url)
                    effect = flow.send(Reply(200 if body != b"{}" else 404, {}, body))
                case Once():
                    effect = flow.send(run(effect.flow()))
                case Call(function, arguments):
                    effect = flow.send(function(*arguments))
    except StopIteration as done:
        return done.value


def tokens(count: int) -> list[bytes]:
    return [
        issue_access_token(
            KEY,
            issuer=name(number),
            subject="alice",
            audience=API,
            client_id="app",
            lifetime=3600,
            now=time.time(),
        ).encode()
        for number in range(count)
    ]


def judge_all(server: ResourceServer, raw: list[bytes]) -> float:
    """Microseconds per request, over one pass through ``raw``."""
    requests = [bearer_request(one) for one in raw]
    started = time.perf_counter()
    for request in requests:
        run(server.authenticate(request))
    return (time.perf_counter() - started) / len(raw) * 1e6


def main() -> None:
    many, one = tokens(TENANTS), tokens(1) * TENANTS
    tenants = ResourceServer(
        API, Issuer.template(TEMPLATE, tenants=lambda tenant: tenant.startswith("tenant-")), token_cache=0
    )
    single = ResourceServer(API, Issuer(name(0)), token_cache=0)
    judge_all(single, one)
    before = resident()
    judge_all(tenants, many)
    kilobytes = (resident() - before) / TENANTS / 1024
    best = {"single": float("inf"), "tenants": float("inf")}
    for _ in range(ROUNDS):
        best["single"] = min(best["single"], judge_all(single, one))
        best["tenants"] = min(best["tenants"], judge_all(tenants, many))
    print(f"Python {platform.python_version()}, {date.today()}\n")
    print("| | |\n|---|---|")
    print(f"| live tenants | {len(tenants.tenants or ())} |")
    print(f"| memory for each, with two RSA keys and metadata | {kilobytes:.0f} KiB |")
    print(f"| a request among them | {best['tenants']:.1f} µs |")
    print(f"| a request to a gate with one issuer | {best['single']:.1f} µs |")
    print(f"| ratio | {best['tenants'] / best['single']:.2f} |")


if __name__ == "__main__":
    main()
