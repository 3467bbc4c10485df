"""The command as a newcomer uses it: installed, in a process of its own, over real HTTP."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from servers import free_port, until

COMMAND = [sys.executable, "-m", "ticketgate"]


def ticketgate(*arguments, **env):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=os.environ | env
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A running demo: the addresses of its API and of its issuer, and what it printed."""
    printed = tmp_path_factory.mktemp("demo") / "printed"
    api, issuer = free_port(), free_port()
    with printed.open("w") as out:
        process = subprocess.Popen(
            [*COMMAND, "demo", "--port", str(api), "--issuer-port", str(issuer)], stdout=out
        )
        until(lambda: "Ctrl-C" in printed.read_text(), "the demo prints its addresses")
        yield f"http://127.0.0.1:{api}", f"http://127.0.0.1:{issuer}", printed.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_the_check_walks_the_whole_tour():
    done = ticketgate("demo", "--check")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 16
    assert all(line.startswith("ok ") for line in lines)
    assert "a tampered token: 401 invalid_token" in done.stdout


def test_nothing_for_this_machine_goes_through_a_proxy(demo):
    _, issuer, _ = demo
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), f"http://127.0.0.1:{free_port()}")
    for arguments in (
        ("mint", "--issuer", issuer),
        ("mint", "--assertion", "--issuer", issuer),
        ("demo", "--check"),
    ):
        done = ticketgate(*arguments, **proxies, NO_PROXY="", no_proxy="")
        assert (done.returncode, done.stderr) == (0, "")


def test_the_demo_says_where_it_is_and_how_to_try_it(demo):
    api, issuer, printed = demo
    assert api in printed
    assert issuer in printed
    assert len(re.findall(r"\bcurl ", printed)) == 3


def test_the_printed_commands_work_as_they_are(demo):
    *_, printed = demo
    lines = [line for line in printed.splitlines() if "curl " in line]
    done = subprocess.run("\n".join(lines), shell=True, capture_output=True, text=True, timeout=30)
    assert re.findall(r"HTTP/1.1 (\d+)", done.stdout) == ["200", "401"]


def test_mint_prints_a_token_that_opens(demo):
    api, issuer, _ = demo
    options = ["--scope", "orders:read", "--role", "admin", "--group", "ops", "--entitlement", "refunds"]
    done = ticketgate("mint", *options, "--issuer", issuer)
    token = done.stdout.strip()
    bearer = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{api}/me", headers=bearer).json() == {
        "sub": "demo",
        "scopes": ["orders:read"],
        "groups": ["ops"],
        "roles": ["admin"],
        "entitlements": ["refunds"],
    }
    assert httpx.get(f"{api}/admin", headers=bearer).status_code == 200
    assert httpx.post(f"{api}/orders", headers=bearer).status_code == 403
    writer = ticketgate("mint", "--scope", "orders:write", "--issuer", issuer).stdout.strip()
    assert httpx.post(f"{api}/orders", headers={"Authorization": f"Bearer {writer}"}).status_code == 201


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"lifetime": "-3600"}, "invalid_token"),
        ({"lifetime": "0"}, "invalid_token"),
        ({"resource": "https://other.example"}, "invalid_token"),
    ],
)
def test_the_issuer_makes_tokens_that_are_refused(demo, form, error):
    api, issuer, _ = demo
    form = {
        "grant_type": "client_credentials",
        "client_id": "demo",
        "client_secret": "demo-secret-for-trying-things-out",
        **form,
    }
    token = httpx.post(f"{issuer}/token", data=form).raise_for_status().json()["access_token"]
    response = httpx.get(f"{api}/me", headers={"Authorization": f"Bearer {token}"})
    assert (response.status_code, response.json()["error"]) == (401, error)


def test_the_issuer_publishes_its_metadata_twice(demo):
    _, issuer, _ = demo
    names = ("oauth-authorization-server", "openid-configuration")
    first, second = (httpx.get(f"{issuer}/.well-known/{name}").json() for name in names)
    assert first == second
    assert first["issuer"] == issuer
    keys = httpx.get(first["jwks_uri"]).json()["keys"]
    assert keys
    assert not any({"d", "p", "q"} & key.keys() for key in keys)


def test_a_rotation_that_keeps_the_old_key_disturbs_nobody(demo):
    api, issuer, _ = demo
    bearer = {"Authorization": "Bearer " + ticketgate("mint", "--issuer", issuer).stdout.strip()}
    httpx.post(f"{issuer}/rotate?keep=1").raise_for_status()
    newer = {"Authorization": "Bearer " + ticketgate("mint", "--issuer", issuer).stdout.strip()}
    assert [httpx.get(f"{api}/me", headers=one).status_code for one in (newer, bearer)] == [200, 200]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_the_token_endpoint_wants_a_post(demo, method):
    _, issuer, _ = demo
    assert httpx.request(method, f"{issuer}/token").status_code == 405


def test_a_body_without_end_is_cut_short(demo):
    _, issuer, _ = demo
    assert httpx.post(f"{issuer}/token", data={"x": "y" * 100_000}).status_code == 413


@pytest.mark.parametrize("option", ["--port", "--issuer-port"])
def test_a_port_in_use_is_one_clear_sentence(option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        rest = {"--port": "0", "--issuer-port": "0"} | {option: port}
        done = ticketgate("demo", *(part for pair in rest.items() for part in pair))
    assert done.returncode == 1
    assert done.stderr == f"Port {port} is in use: choose another one with {option}.\n"


def test_an_assertion_can_be_exchanged_once_with_curl(demo):
    api, issuer, _ = demo
    command = (
        f"curl -s {issuer}/token -u demo:demo-secret-for-trying-things-out -d grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer"
        " -d assertion=$JWT -d scope=orders:read"
    )
    env = os.environ | {"JWT": ticketgate("mint", "--assertion", "--issuer", issuer).stdout.strip()}
    answers = [
        json.loads(subprocess.run(command, shell=True, capture_output=True, env=env, timeout=30).stdout)
        for _ in range(2)
    ]
    bearer = {"Authorization": "Bearer " + answers[0]["access_token"]}
    assert httpx.get(f"{api}/me", headers=bearer).json()["sub"] == "alice"
    assert httpx.get(f"{api}/orders", headers=bearer).status_code == 200
    assert answers[1]["error"] == "invalid_grant"


def test_an_opaque_token_opens_too(demo):
    api, issuer, _ = demo
    opaque = ticketgate("mint", "--opaque", "--scope", "orders:read", "--issuer", issuer).stdout.strip()
    assert "." not in opaque
    assert httpx.get(f"{api}/orders", headers={"Authorization": f"Bearer {opaque}"}).status_code == 200


def test_an_assertion_needs_a_demo():
    done = ticketgate("mint", "--assertion", "--issuer", f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, "No demo issuer answers" in done.stderr) == (1, True)


def test_mint_without_an_issuer_is_one_clear_sentence():
    url = f"http://127.0.0.1:{free_port()}"
    done = ticketgate("mint", "--issuer", url)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"No issuer answers at {url}" in done.stderr


def test_mint_tells_why_the_issuer_refused(demo):
    _, issuer, _ = demo
    done = ticketgate("mint", "--scope", 'a"b', "--issuer", issuer)
    assert (done.returncode, done.stderr) == (1, f"The issuer at {issuer} refused: The scope is malformed.\n")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("typer", "The ticketgate command needs an extra: pip install 'ticketgate[cli]'\n"),
        ("fastapi", "The demo needs an extra: pip install 'ticketgate[demo]'\n"),
    ],
)
def test_without_an_extra_the_command_says_what_to_install(tmp_path, missing, words):
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError({missing!r})")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*COMMAND, "demo"], capture_output=True, text=True, env=env, timeout=30)
    assert (done.returncode, done.stderr) == (1, words)


def test_json_is_what_the_api_speaks(demo):
    api, *_ = demo
    assert json.loads(httpx.get(f"{api}/orders").text) == {}
