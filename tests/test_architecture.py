"""The shape of the package: who may import whom, what is public, and what deciding code never does.

Two checkers read the syntax tree of every installed module: imports inside functions, relative ones, those
for type checkers and those by name all count.  Each checker is itself shown what it must refuse.
"""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import ticketgate

(ROOT,) = map(Path, find_spec("ticketgate").submodule_search_locations)

CORE, ERRORS, DRIVERS = "ticketgate.core", "ticketgate.errors", "ticketgate.drivers"
EVENTS = "ticketgate.events"
LAYERS = "ticketgate.asgi_layers"
ASGI, WSGI, STARLETTE = "ticketgate.asgi", "ticketgate.wsgi", "ticketgate.starlette"
PLACEMENT = "ticketgate.placement"
TRUSTED_PATHS = "ticketgate.trusted_paths"
HOST = {CORE, ERRORS, DRIVERS}
EVERYTHING = None

MAY_IMPORT: dict[str, set[str] | None] = {
    ERRORS: set(),
    EVENTS: set(),
    CORE: {ERRORS, EVENTS, "joserfc", "cachetools"},
    DRIVERS: {CORE, ERRORS, TRUSTED_PATHS, "httpx", "anyio"},
    TRUSTED_PATHS: set(),
    LAYERS: {PLACEMENT},
    ASGI: HOST | {LAYERS, PLACEMENT},
    WSGI: HOST,
    PLACEMENT: {CORE},
    STARLETTE: HOST | {ASGI, PLACEMENT, "ticketgate.dependants", "starlette"},
    "ticketgate.dependants": {CORE},
    "ticketgate.fastapi": HOST
    | {ASGI, STARLETTE, PLACEMENT, "ticketgate.dependants", "ticketgate.openapi", "fastapi", "starlette"},
    "ticketgate.openapi": HOST | {ASGI, STARLETTE, PLACEMENT, "fastapi", "starlette"},
    "ticketgate.flask": HOST | {WSGI, PLACEMENT, "flask", "werkzeug"},
    "ticketgate.django": HOST | {"django", "asgiref"},
    "ticketgate.django.spectacular": HOST | {"ticketgate.rest_framework", "drf_spectacular"},
    "ticketgate.rest_framework": HOST | {"ticketgate.django", "rest_framework"},
    "ticketgate.mcp": HOST | {ASGI, "mcp"},
    "ticketgate.issuing": {CORE, ERRORS, TRUSTED_PATHS, "joserfc", "cryptography"},
    "ticketgate.issuing.starlette": {CORE, ERRORS, DRIVERS, "ticketgate.issuing", "starlette"},
    "ticketgate.token_client": HOST | {"httpx"},
    "ticketgate": HOST,
    "ticketgate.audit": EVERYTHING,
    "ticketgate.testing": EVERYTHING,
    "ticketgate.demo": EVERYTHING,
    "ticketgate.cli": EVERYTHING,
    "ticketgate.__main__": EVERYTHING,
}
MODULE_MAY_ALSO_IMPORT = {
    f"{CORE}.jwt": {"cryptography"},
    f"{CORE}.jwk": {"cryptography"},
    f"{CORE}.x5c": {"cryptography"},
    f"{CORE}.dpop": {"cryptography"},
    "ticketgate.django.apps": {"ticketgate.django.spectacular"},
}
WAITING = {"asyncio", "concurrent", "http", "multiprocessing", "queue", "select", "selectors", "signal"}
WAITING |= {"socket", "socketserver", "ssl", "subprocess", "_thread"}

PUBLIC = [
    "BearerToken",
    "ClientSecretBasic",
    "ClientSecretPost",
    "Introspection",
    "MutualTls",
    "PrivateKeyJwt",
]
PUBLIC += [
    "ResourceServer",
    "Issuer",
    "HTTPOptions",
    "KeyPolicy",
    "ResourceRequest",
    "AccessToken",
    "Requirement",
]
PUBLIC += [
    "scope",
    "role",
    "group",
    "entitlement",
    "claim",
    "verify",
    "averify",
    "warm_up",
    "awarm_up",
    "errors",
]


def module_name(path: Path) -> str:
    parts = ("ticketgate", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
CORE_MODULES = [name for name in MODULES if name.startswith(CORE)]


def area(name: str) -> str:
    """The row of the table that ``name`` belongs to: ours by its first two parts, others by their first."""
    parts = name.split(".")
    if parts[0] != "ticketgate":
        return parts[0]
    if ".".join(parts[:3]) in MAY_IMPORT:
        return ".".join(parts[:3])
    return ".".join(parts[:2]) if ".".join(parts[:2]) in MAY_IMPORT | dict.fromkeys(MODULES) else "ticketgate"


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that ``source``, standing as ``module``, imports."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(names=names):
                origin = _origin(node, module, is_package=is_package)
                yield from ((node.lineno, f"{origin}.{alias.name}") for alias in names)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in BY_NAME:
                yield node.lineno, _by_name(node)


BY_NAME = {"import_module", "__import__"}


def _origin(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not node.level:
        return str(node.module)
    package = module if is_package else module.rpartition(".")[0]
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parents, *filter(None, [node.module])])


def _by_name(call: ast.Call) -> str:
    """The module that is imported by name; one that cannot be read here is in nobody's table."""
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else "(computed)"


def bad_edges(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """The imports of ``source`` that the table does not allow to ``module``."""
    home = area(module)
    if home not in MAY_IMPORT:
        return [f"{module} has no row in the table"]
    allowed = MAY_IMPORT[home]
    if allowed is EVERYTHING:
        return []
    allowed = allowed | {home} | MODULE_MAY_ALSO_IMPORT.get(module, set()) | sys.stdlib_module_names
    if home == "ticketgate":
        allowed |= {"(computed)"}  # the public names are loaded when they are asked for
    edges = imported(source, module, is_package=is_package)
    return [f"{module}:{line} imports {name}" for line, name in edges if area(name) not in allowed]


@pytest.mark.parametrize("module", MODULES)
def test_every_import_is_in_the_table(module):
    path = MODULES[module]
    assert bad_edges(path.read_text("utf-8"), module, is_package=path.stem == "__init__") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (f"{CORE}.claims", "import httpx"),
        (f"{CORE}.claims", "from ticketgate.drivers import http"),
        (f"{CORE}.claims", "from ticketgate import asgi"),
        (f"{CORE}.claims", "from ticketgate import Issuer"),
        (f"{CORE}.claims", "import ticketgate.starlette as host"),
        (f"{CORE}.claims", "from .. import asgi"),
        (f"{CORE}.claims", "from ..drivers.http import fetch"),
        (f"{CORE}.claims", "def late():\n    import starlette.requests"),
        (f"{CORE}.claims", "if TYPE_CHECKING:\n    from starlette.requests import Request"),
        (f"{CORE}.claims", "importlib.import_module('ticketgate.asgi')"),
        (f"{CORE}.claims", "importlib.import_module(name)"),
        (f"{CORE}.claims", "from cryptography.hazmat.primitives import hashes"),
        (ERRORS, "from ticketgate.core.flow import Flow"),
        (f"{DRIVERS}.aio", "import ticketgate.asgi"),
        (f"{DRIVERS}.aio", "import requests"),
        (ASGI, "from ticketgate.wsgi import requires"),
        (WSGI, "from ticketgate.asgi import AccessTokenMiddleware"),
        (STARLETTE, "from ticketgate.fastapi import requires"),
        ("ticketgate.token_client", "from ticketgate.issuing import TokenGenerator"),
        ("ticketgate.issuing.tokens", "import httpx"),
        ("ticketgate", "from ticketgate.asgi import AccessTokenMiddleware"),
        ("ticketgate.core", "from . import jwt\nfrom ..asgi import AccessTokenMiddleware"),
    ],
)
def test_the_table_refuses(module, source):
    is_package = module in {"ticketgate", CORE}
    assert len(bad_edges(source, module, is_package=is_package)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (f"{CORE}.claims", "import json, threading\nfrom .jwt import read\nfrom .. import errors"),
        (f"{CORE}.claims", "from ticketgate import errors"),
        (f"{CORE}.jwt", "from cryptography.hazmat.primitives import hashes"),
        (STARLETTE, "from starlette.requests import Request\nfrom ticketgate.asgi import gate"),
        ("ticketgate", "from .core.issuer import Issuer\nimport_module(name)"),
        ("ticketgate.cli", "import typer, ticketgate.demo"),
    ],
)
def test_the_table_allows(module, source):
    assert bad_edges(source, module, is_package=module == "ticketgate") == []


def test_a_new_module_needs_a_row(monkeypatch):
    monkeypatch.setitem(MODULES, "ticketgate.helpers", ROOT / "helpers.py")
    assert bad_edges("import json", "ticketgate.helpers") == ["ticketgate.helpers has no row in the table"]


def waits(source: str) -> list[str]:
    """What in ``source`` waits, prints or silences a type checker: nothing that decides may."""
    found = [line for node in ast.walk(ast.parse(source)) for line in _waiting(node)]
    comments = (token for token in tokenize.generate_tokens(io.StringIO(source).readline))
    found += [
        f"{token.start[0]}: {token.string}"
        for token in comments
        if token.type == tokenize.COMMENT and "type: ignore" in token.string
    ]
    return found


def _waiting(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            yield f"{node.lineno}: async"
        case ast.comprehension(is_async=1, target=target):
            yield f"{target.lineno}: async"
        case ast.Call(func=ast.Name(id="print")):
            yield f"{node.lineno}: print"
        case ast.Attribute(value=ast.Name(id="threading"), attr=name) if name != "Lock":
            yield f"{node.lineno}: threading.{name}"
        case ast.Attribute(value=ast.Name(id="time"), attr="sleep"):
            yield f"{node.lineno}: time.sleep"
        case ast.Import(names=names):
            yield from _waiting_imports(node.lineno, ((alias.name, alias.asname or "") for alias in names))
        case ast.ImportFrom(module=str(module), names=names):
            yield from _waiting_imports(node.lineno, ((f"{module}.{alias.name}", "") for alias in names))


def _waiting_imports(line: int, names: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, alias in names:
        top = name.split(".")[0]
        under_another_name = top in {"threading", "time"} and alias
        another_thread = top == "threading" and name not in {"threading", "threading.Lock"}
        if top in WAITING or under_another_name or another_thread or name == "time.sleep":
            yield f"{line}: {name}"


@pytest.mark.parametrize("module", CORE_MODULES)
def test_the_core_decides_and_never_waits(module):
    assert waits(MODULES[module].read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "async def check(): ...",
        "print('token')",
        "x = 1  # type: ignore",
        "x = 1  # type: ignore[assignment]",
        "import asyncio",
        "from http.client import HTTPConnection",
        "import threading\nthreading.Thread()",
        "import threading as t",
        "from threading import RLock",
        "import time\ntime.sleep(1)",
        "from time import sleep",
    ],
)
def test_waiting_is_noticed(source):
    assert len(waits(source)) == 1


def test_one_lock_is_allowed():
    assert waits("import threading, time\nlock = threading.Lock()\nnow = time.time()") == []
    assert waits("from threading import Lock") == []


def test_the_public_names_are_exactly_these():
    assert sorted(ticketgate.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name):
    assert getattr(ticketgate, name) is not None
    assert name in dir(ticketgate)


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="TokenInfo"):
        _ = ticketgate.TokenInfo


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a new interpreter has loaded after ``statement``."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import ticketgate",
        "from ticketgate import Issuer, ResourceServer, scope",
        f"import {', '.join(CORE_MODULES)}",
    ],
    ids=["package", "names", "core"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement):
    loaded = loaded_by(statement) - loaded_by("")  # what measures coverage may load what it likes
    assert "ticketgate" in loaded
    assert loaded.isdisjoint(
        {"httpx", "starlette", "typer", "uvicorn", "anyio", "asyncio", "flask", "fastapi"}
    )
