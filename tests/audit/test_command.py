"""``ticketgate routes`` as it is typed: from the folder of the application."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from table import KEYS

HERE = Path(__file__).parents[1]
APP = """
from fastapi import Depends, FastAPI
from ticketgate import Issuer, ResourceServer, scope
from ticketgate.fastapi import AccessTokenMiddleware, requires

app = FastAPI(openapi_url=None)

@app.get("/health")
async def health(): ...

@app.get("/orders", dependencies=[Depends(requires(scope("orders:read")))])
async def orders(): ...

def guarded(public):
    app.add_middleware(
        AccessTokenMiddleware, server=ResourceServer("api", Issuer("https://as.example")), public=public
    )
    return app
"""


def routes(*arguments, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "ticketgate", "routes", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | env,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "good.py").write_text("import main\napp = main.guarded(['/health'])")
    (tmp_path / "misspelt.py").write_text("import main\napp = main.guarded(['/healht'])")
    (tmp_path / "broken.py").write_text("import nowhere")
    return tmp_path


def test_a_list_to_read(folder):
    done = routes("good:app", "--check", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["GET  /health  public", "GET  /orders  scope orders:read"]


def test_a_factory(folder):
    (folder / "factory.py").write_text("import main\ndef create_app():\n    return main.guarded(['/health'])")
    done = routes("factory:create_app()", "--check", cwd=folder)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)


def test_json(folder):
    listed = json.loads(routes("misspelt:app", "--json", cwd=folder).stdout)
    assert listed["problems"] == ["public entry '/healht' matches no route"]
    assert listed["routes"][1] == {
        "path": "/orders",
        "methods": ["GET"],
        "endpoint": "orders",
        "access": "scope orders:read",
        "scopes": ["orders:read"],
        "problems": [],
        "notes": [],
    }


@pytest.mark.parametrize(
    ("options", "code"),
    [(["misspelt:app"], 0), (["misspelt:app", "--check"], 1), (["main:app", "--check"], 1)],
)
def test_problems(folder, options, code):
    done = routes(*options, cwd=folder)
    assert done.returncode == code
    assert "GET /health is neither protected nor public" in done.stderr or "matches no route" in done.stderr


@pytest.mark.parametrize(
    ("application", "why"),
    [
        ("main", "write it like main:app"),
        ("nowhere:app", "cannot be loaded: No module named 'nowhere'"),
        pytest.param("broken:app", "cannot be loaded", marks=pytest.mark.slow),
        pytest.param("main:missing", "cannot be loaded", marks=pytest.mark.slow),
        pytest.param("main:APP.x", "cannot be loaded", marks=pytest.mark.slow),
        ("main:guarded()", "cannot be loaded: guarded() missing 1 required positional argument"),
        ("json:dumps", "is no Starlette, FastAPI, Flask or Django application"),
    ],
)
def test_what_is_no_application_is_one_clear_sentence(folder, application, why):
    done = routes(application, cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert why in done.stderr


@pytest.mark.parametrize("name", ["wsgi", "asgi"])
def test_a_django_project(name):
    done = routes(f"django_site:{name}", "--json", cwd=HERE, TICKETGATE_TEST_KEYS=json.dumps(KEYS))
    listed = json.loads(done.stdout)
    access = {(",".join(route["methods"]), route["path"]): route["access"] for route in listed["routes"]}
    assert access["ANY", "/health"] == "public"
    assert access["ANY", "/me"] == access["ANY", "/partial"] == "any valid token"
    assert access["GET", "/method"] == access["GET", "/dispatch"] == access["GET", "/drf"] == "scope read"
    assert access["ANY", "/async"] == "scope read"
    assert access["GET", "/set/{pk}".replace("{pk}", "<int:pk>")] == "scope set"
    assert access["ANY", "/nested/x/[0-9]+"] == "any valid token"
    assert listed["problems"] == []


def test_django_without_the_middleware():
    alone = {"SITE_MIDDLEWARE": "[]", "TICKETGATE_TEST_KEYS": json.dumps(KEYS)}
    done = routes("django_site:wsgi", "--check", cwd=HERE, **alone)
    assert done.returncode == 1
    assert "/me is neither protected nor public" in done.stderr
    assert "/health" not in done.stderr
    assert "/orders requires a token, and nothing before it looks for one" in done.stderr
    assert "/drf " not in done.stderr


def test_strict_counts_what_is_not_understood(folder):
    (folder / "timed.py").write_text(
        "import main\napp = main.guarded(['/health'])\n"
        "@app.middleware('http')\nasync def timing(request, call_next): ..."
    )
    assert routes("timed:app", "--check", cwd=folder).returncode == 0
    done = routes("timed:app", "--check", "--strict", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "middleware timing can answer it in its own way" in done.stderr
    assert "anybody (not understood: middleware timing)" in done.stdout


DJANGO = """
from django.conf import settings
from ticketgate import Issuer, ResourceServer, scope
settings.configure(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "project.early",
        "ticketgate.django.AccessTokenMiddleware",
        "project.late",
    ],
    TICKETGATE={"SERVER": ResourceServer("api", Issuer("https://as.example"))},
)
import django
django.setup()
from django.core.wsgi import get_wsgi_application
from django.urls import path
from django.views import View
from ticketgate.django import requires

class Dispatching(View):
    def dispatch(self, request): ...

    @requires(scope("read"))
    def get(self, request): ...

def early(get_response): return get_response
def late(get_response): return get_response

urlpatterns = [path("x", Dispatching.as_view())]
app = get_wsgi_application()
"""


def test_django_middleware_and_views_that_are_not_understood(folder):
    (folder / "project.py").write_text(DJANGO)
    listed = json.loads(routes("project:app", "--json", cwd=folder).stdout)["routes"]
    assert [(row["path"], row["access"]) for row in listed] == [
        ("/<path:path>", "anybody (not understood: middleware early)"),
        ("/<path:path>", "any valid token (not understood: middleware late)"),
        ("/x", "scope read, guarded inside Dispatching.dispatch"),
    ]
