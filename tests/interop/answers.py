"""How the interoperability tests ask the API, and what they expect of its answers."""

import re
import time

import httpx

PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def get(api: httpx.Client, path: str, token: str | None = None) -> httpx.Response:
    """The API's answer to a request for ``path`` with ``token`` as Bearer credentials."""
    return api.get(path, headers={"Authorization": f"Bearer {token}"} if token else {})


def challenge(response: httpx.Response) -> dict[str, str]:
    """The parameters of the one Bearer challenge of ``response`` (RFC 6750 §3)."""
    (line,) = response.headers.get_list("WWW-Authenticate")
    scheme, _, parameters = line.partition(" ")
    assert scheme == "Bearer"
    return dict(PARAMETER.findall(parameters))


def assert_refused(response: httpx.Response, status: int, error: str) -> dict[str, str]:
    """The answer is ``status`` with ``error``, never to be stored; gives the challenge's parameters."""
    parameters = challenge(response)
    assert (response.status_code, parameters.get("error")) == (status, error)
    assert response.json()["error"] == error
    assert response.headers["Cache-Control"] == "no-store"
    return parameters


def wait_for_a_new_second() -> None:
    """Tokens' times are whole seconds: one that lives for a second really has it only from here."""
    time.sleep(1.02 - time.time() % 1)
