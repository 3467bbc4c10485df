"""How fast a token is judged, beside the libraries that people would use otherwise; all in one run.

    python benchmarks/validate.py          needs ticketgate and pyjwt; prints a table in Markdown

Every contender judges the very same token, and each is given its keys beforehand.  Contenders take turns, and
the best of their rounds counts, so that a busy moment of the machine hurts none of them more than others.
"""

import hashlib
import json
import platform
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import jwt as pyjwt
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry

from ticketgate import Issuer, ResourceServer
from ticketgate.core.jwt import decode_base64url
from ticketgate.core.request import ResourceRequest
from ticketgate.issuing.keys import SigningKey
from ticketgate.issuing.tokens import issue_access_token

ISSUER, API = "https://as.example", "https://api.example"
ROUNDS, SECONDS_PER_ROUND = 9, 0.12

Contender = Callable[[], object]


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"Python {platform.python_version()}, {processor()}, {time.strftime('%Y-%m-%d')}\n")
    print("| µs per token | RS256 | ES256 | EdDSA |\n|---|---|---|---|")
    columns = [measure(contenders(algorithm)) for algorithm in ("RS256", "ES256", "EdDSA")]
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(cell(column, name) for column in columns) + " |")
    print("\n| milliseconds to import | |\n|---|---|")
    print(f"| joserfc's jwt, jwk and jws | {import_time('from joserfc import jwt, jwk, jws'):.0f} |")
    print(f"| ticketgate | {import_time('from ticketgate import Issuer, ResourceServer, scope'):.0f} |")


RAW, HASH = "raw signature check, by cryptography", "SHA-256 of the token"
REFERENCE = {"ticketgate, seen before": (HASH, "SHA-256")}


def cell(column: dict[str, float], name: str) -> str:
    reference, short = REFERENCE.get(name, (RAW, "raw"))
    if name in {RAW, HASH}:
        return f"{column[name]:.1f}"
    return f"{column[name]:.1f} ({column[name] / column[reference]:.2f} x {short})"


def contenders(algorithm: str) -> dict[str, Contender]:
    key = SigningKey.generate(algorithm)
    names = {"iss": ISSUER, "sub": "alice", "aud": API, "client_id": "app"}
    more = {"roles": ["clerk", "buyer"], "groups": ["ops"], "tenant": "acme", "name": "Alice of Example"}
    token = issue_access_token(
        key, issuer=ISSUER, subject=names["sub"], audience=API, client_id="app", lifetime=3600,
        scope="orders:read orders:write", claims=more,
    )  # fmt: skip
    jwks = {"keys": [key.public_jwk()]}
    return {
        RAW: raw(key, token.encode()),
        "ticketgate": ticketgate(jwks, token.encode(), token_cache=0),
        "joserfc, by hand": joserfc(jwks, token, algorithm),
        "PyJWT with its PyJWKClient": pyjwt_client(jwks, token, algorithm),
        "ticketgate, seen before": ticketgate(jwks, token.encode(), token_cache=10),
        HASH: lambda: hashlib.sha256(token.encode()).digest(),
    }


def raw(key: SigningKey, token: bytes) -> Contender:
    """The one thing that nobody can leave out."""
    from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
    from cryptography.hazmat.primitives.hashes import SHA256

    message, _, encoded = token.rpartition(b".")
    signature, public = decode_base64url(encoded), key.key.public_key
    if key.algorithm == "RS256":
        scheme, digest = padding.PKCS1v15(), SHA256()
        return lambda: public.verify(signature, message, scheme, digest)
    if key.algorithm == "ES256":
        der = utils.encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        ecdsa = ec.ECDSA(SHA256())
        return lambda: public.verify(der, message, ecdsa)
    return lambda: public.verify(signature, message)


def ticketgate(jwks: dict[str, object], token: bytes, token_cache: int) -> Contender:
    server = ResourceServer(API, Issuer(ISSUER, jwks=jwks), token_cache=token_cache)
    request = ResourceRequest("GET", authorization=(b"Bearer " + token,))

    def judge() -> object:
        try:
            next(server.authenticate(request))
        except StopIteration as done:
            return done.value
        raise AssertionError("static keys need no network")

    assert judge().subject == "alice"
    return judge


def joserfc(jwks: dict[str, object], token: str, algorithm: str) -> Contender:
    keys = KeySet.import_key_set(json.loads(json.dumps(jwks)))
    registry = JWTClaimsRegistry(
        iss={"essential": True, "value": ISSUER},
        aud={"essential": True, "value": API},
        exp={"essential": True},
    )

    def judge() -> object:
        decoded = joserfc_jwt.decode(token, keys, algorithms=[algorithm])
        registry.validate(decoded.claims)
        return decoded

    assert judge().claims["sub"] == "alice"
    return judge


def pyjwt_client(jwks: dict[str, object], token: str, algorithm: str) -> Contender:
    client = pyjwt.PyJWKClient(serve(json.dumps(jwks).encode()), lifespan=3600)

    def judge() -> object:
        key = client.get_signing_key_from_jwt(token)
        return pyjwt.decode(token, key, algorithms=[algorithm], audience=API, issuer=ISSUER)

    assert judge()["sub"] == "alice"
    return judge


def serve(body: bytes) -> str:
    """The address of a server on loopback that answers everything with ``body``, until the process ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def measure(contenders: dict[str, Contender]) -> dict[str, float]:
    """Microseconds per call of each contender: the best of several rounds in which all take turns."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):
        for name, judge in contenders.items():
            best[name] = min(best[name], one_round(judge))
    return best


def one_round(judge: Contender) -> float:
    calls, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SECONDS_PER_ROUND:
        for _ in range(100):
            judge()
        calls += 100
    return elapsed / calls * 1e6


def import_time(statement: str) -> float:
    """Milliseconds that a new interpreter needs for ``statement`` beyond its own start; the best of several."""
    script = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    runs = (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for _ in range(9)
    )
    return min(float(run.stdout) for run in runs) * 1000


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return re.search(r"model name\s*: (.*)", lines.read())[1]
    except (OSError, TypeError):
        return platform.machine()


if __name__ == "__main__":
    main()
