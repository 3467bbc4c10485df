"""The README's code runs as it stands there."""

import re
from pathlib import Path

import httpx
from servers import serve_asgi

README = Path(__file__).parent.parent / "README.md"


def test_the_first_example_is_a_closed_door():
    example = re.search(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line]) <= 12
    names = {}
    exec(example, names)
    with serve_asgi(names["app"]) as url:
        response = httpx.get(f"{url}/orders")
        assert httpx.get(f"{url}/health").status_code == 404  # public, and no route of the example
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="https://api.example"'
