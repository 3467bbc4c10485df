"""What the documentation shows runs as it stands there."""

import re
from pathlib import Path

import httpx
import pytest
from flows import World
from tokens import jwks, key, resource_server, token

from ticketgate.audit import audit
from ticketgate.core.request import bearer_request
from ticketgate.errors import InvalidToken

DOCS = Path(__file__).parent.parent / "docs"


def examples(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


def test_the_metrics_of_the_page_on_keys_count():
    from prometheus_client import REGISTRY

    (metrics,) = (code for code in examples("keys.md") if "prometheus_client" in code)
    names = {}
    exec(metrics, names)
    server = names["server"]
    address = "https://as.example/keys"
    metadata = {"issuer": "https://as.example", "jwks_uri": address}
    world = World({"https://as.example/.well-known/openid-configuration": metadata, address: jwks(key())})
    now = int(server._around.clock.wall())
    world.run(server.authenticate(bearer_request(token(iat=now, exp=now + 60))))
    with pytest.raises(InvalidToken) as refused:
        world.run(server.authenticate(bearer_request(token(iat=now, exp=0))))
    server.answer(refused.value)
    assert REGISTRY.get_sample_value("api_refused_total", {"reason": "expired"}) == 1
    assert REGISTRY.get_sample_value("api_key_fetches_total", {"outcome": "KeysRefreshed"}) == 1


@pytest.mark.parametrize("example", sorted(path.name for path in (DOCS / "examples").glob("*.py")))
def test_every_example_file_stands_in_a_page_as_it_is(example):
    """`tests/versions/test_hosts.py` runs the files."""
    text = (DOCS / "examples" / example).read_text("utf-8")
    assert any(text in examples(page.name) for page in DOCS.glob("*.md"))


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_examples_of_every_page_compile(page):
    for code in examples(page):
        compile(code, page, "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT


async def test_the_security_scopes_of_the_page_on_fastapi():
    (example, refusing) = (
        code for code in examples("fastapi.md") if "Security(" in code or "InsufficientScope" in code
    )
    names = {}
    exec(example, names)
    exec(refusing, names)
    app = names["app"]
    app.state.ticketgate = resource_server()  # it has keys
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example") as client:
        for method, path, scopes, status in [
            ("GET", "/me", "", 200),
            ("GET", "/orders", "orders:read", 200),
            ("GET", "/orders", "", 403),
            ("GET", "/reports", "reports:read staff", 200),
            ("GET", "/reports", "reports:read", 403),
            ("GET", "/reports", "staff", 403),
            ("DELETE", "/orders", "admin orders:write", 200),
            ("DELETE", "/orders", "admin", 403),
            ("DELETE", "/orders/1", "orders:write", 403),
            ("DELETE", "/orders/1000", "orders:write", 200),
            ("DELETE", "/orders/1000", "", 403),
        ]:
            headers = {"Authorization": f"Bearer {token(scope=scopes).decode()}"}
            answer = await client.request(method, path, headers=headers)
            assert (method, path, scopes, answer.status_code) == (method, path, scopes, status)
    open_ones = [problem for problem in audit(app).problems if "neither protected" in problem]
    assert (len(open_ones), audit(app).problems) == (4, tuple(open_ones))  # FastAPI's own pages
