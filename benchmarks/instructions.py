"""How many machine instructions a request costs, on each path that many requests take.

    python benchmarks/instructions.py              prints them
    python benchmarks/instructions.py --check      fails where one grew by more than 3 % against instructions.json
    python benchmarks/instructions.py --write      makes the figures of now the ones to compare with

Counted by ``valgrind --tool=callgrind`` (Debian: apt install valgrind), which repeats itself to a tenth of a percent
where microseconds vary by a tenth.  One process is forked once for N requests and once for 10 N; the difference is
free of start-up.  Signatures are not checked: cryptography's instructions are not ours.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("instructions.json")
REQUESTS = 200
GROWTH = 1.03
NOW = 1_800_000_000
API, ISSUER = "https://api.example", "https://as.example"


def paths() -> dict[str, Callable[[int], None]]:
    """Each path, as a function that takes it so many times."""
    from ticketgate import Issuer, ResourceServer, scope
    from ticketgate.asgi import AccessTokenMiddleware
    from ticketgate.core.clock import Clock
    from ticketgate.core.freshness import Held
    from ticketgate.core.keys import KeySet
    from ticketgate.core.request import ResourceRequest
    from ticketgate.core.signing_key import SigningKey, sign_jwt
    from ticketgate.starlette import requires

    keys = {algorithm: SigningKey.generate(algorithm) for algorithm in ("RS256", "ES256")}
    claims = {
        "iss": ISSUER, "sub": "248289761001", "aud": API, "client_id": "s6BhdRkqt3", "jti": "dbe39bf3a3ba4238a513f51d6e1691c4",
        "iat": NOW - 60, "exp": NOW + 240, "auth_time": NOW - 300, "scope": "orders:read orders:write",
        "roles": ["clerk", "auditor"], "groups": ["ops", "staff", "emea"], "name": "Jane Doe", "email": "jane@example.com",
    }  # fmt: skip

    def server(accepts: bool, **options: Any) -> Any:
        issuer = Issuer(ISSUER, jwks={"keys": [key.public_jwk() for key in keys.values()]})
        stubs = [
            replace(key, verify=lambda message, signature: accepts) for key in issuer.keys.held.keys.keys
        ]
        issuer.keys.held = Held(KeySet(stubs))
        return ResourceServer(API, issuer, clock=Clock(lambda: NOW, lambda: 1_000.0), leeway=0, **options)

    def token(algorithm: str = "RS256", **changes: Any) -> bytes:
        return sign_jwt(keys[algorithm], "at+jwt", claims | changes).encode()

    def authenticating(to: Any, raw: bytes) -> Callable[[int], None]:
        def take(times: int) -> None:
            for _ in range(times):
                flow = to.authenticate(ResourceRequest(authorization=(b"Bearer " + raw,)))
                try:
                    next(flow)
                except StopIteration:
                    pass
                except Exception as refusal:
                    to.answer(refusal)

        return take

    @requires(scope("orders:read"))
    async def orders(request: Any) -> None:
        return None

    async def application(scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request

        await orders(Request(scope))

    gate = AccessTokenMiddleware(application, server(accepts=True))

    def through_the_gate(times: int) -> None:
        fields = [(b"host", b"api.example"), (b"authorization", b"Bearer " + token())]

        async def take() -> None:
            for _ in range(times):
                scope = {"type": "http", "method": "GET", "path": "/orders", "headers": fields}
                await gate(scope, None, None)  # type: ignore[arg-type]

        asyncio.run(take())

    cached = server(accepts=True)
    uncached = server(accepts=True, token_cache=0)
    return {
        "cached": authenticating(cached, token()),
        "not cached, RS256": authenticating(uncached, token()),
        "not cached, ES256": authenticating(uncached, token("ES256")),
        "bad signature": authenticating(server(accepts=False, token_cache=0), token()),
        "expired": authenticating(uncached, token(exp=NOW - 1)),
        "ASGI gate and requires": through_the_gate,
    }


def run_all() -> None:
    """Each path in two forked processes; what each was is printed with its process id."""
    for name, take in paths().items():
        take(20)  # what the first requests load and remember
        for times in (REQUESTS, 10 * REQUESTS):
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                take(times)
                os._exit(0)
            os.waitpid(child, 0)
            print(json.dumps({"pid": child, "path": name, "times": times}), flush=True)


def measured() -> dict[str, int]:
    """The instructions of one request on each path."""
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        sys.executable,
        __file__,
        "--run",
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=550, check=True)
    totals = {int(pid): int(count) for pid, count in re.findall(r"==(\d+)== Collected : (\d+)", done.stderr)}
    counts: dict[str, dict[int, int]] = {}
    for line in done.stdout.splitlines():
        run = json.loads(line)
        counts.setdefault(run["path"], {})[run["times"]] = totals[run["pid"]]
    few, many = REQUESTS, 10 * REQUESTS
    return {name: round((found[many] - found[few]) / (many - few)) for name, found in counts.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for option in ("--check", "--write", "--run"):
        parser.add_argument(option, action="store_true")
    options = parser.parse_args()
    if options.run:
        run_all()
        return 0
    if shutil.which("valgrind") is None:
        print("skipped: valgrind is not installed (Debian: apt install valgrind)")
        return 0
    before: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    here = f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}"
    if options.check and before.get("counted on") != here:
        print(
            f"skipped: the figures to compare with were counted on {before.get('counted on')}, not on {here}"
        )
        return 0
    now, grown = measured(), False
    for name, count in now.items():
        known = before.get("instructions", {}).get(name)
        change = f"{(count / known - 1) * 100:+6.1f} %" if known else ""
        grown |= bool(known) and count > known * GROWTH
        print(f"{name:26} {count:9,}  {change}")
    if options.write:
        FIGURES.write_text(json.dumps({"counted on": here, "instructions": now}, indent=2) + "\n")
    if options.check and grown:
        print(
            "a path costs over 3 % more than before: find out why, or run with --write and say why in the commit"
        )
    return int(options.check and grown)


if __name__ == "__main__":
    sys.exit(main())
