"""Public paths, as every router would read them; and the form of a preflight."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ticketgate.core.public import PublicPaths, is_preflight
from ticketgate.errors import ConfigurationError

PUBLIC = PublicPaths(["/health", "/docs/*", "/mnt/docs/*", "/slash/", "/apidocs/*"])


@pytest.mark.parametrize(
    "path", ["/health", "/docs/a", "/apidocs/a", "/docs/a/b/", "/docs/.well-known/x..y", "/docs/é", "/slash/"]
)
@pytest.mark.parametrize("root", ["", "/api", "/api/", "/docs", "/"])
def test_public_names_are_public_below_any_root_path(path, root):
    assert PUBLIC.include(root + path, root)


@pytest.mark.parametrize("root", ["", "/api", "/proxy", "/"])
def test_public_names_are_public_beside_a_root_path_that_they_do_not_contain(root):
    assert PUBLIC.include("/health", root)
    assert PUBLIC.include("/docs/a", root)


NEVER = [
    "",
    "/",
    "health",
    "/Health",
    "/health/",
    "/healthz",
    "/docs",
    "/docs/",
    "/docsx",
    "/slash",
    "/mnt/docs/",
]
NEVER += [
    "//health",
    "//docs/a",
    "/docs//a",
    "/docs/a//",
    "/docs/./a",
    "/docs/../me",
    "/docs/a/..",
    "/docs/.",
]
NEVER += [
    "/docs/..",
    "/docs/%2e%2e/me",
    "/docs/a;b",
    "/docs/..;/me",
    "/docs\\a",
    "/docs/a\\..\\me",
    "/health\n",
]
NEVER += [f"/docs/a{odd}" for odd in "\x00\x09\n\r\x1f\x7f\x80\x85\x9f\ufffd\ud800\udcff"]
NEVER += ["http://x/docs/a", "*", "/health?x", "/health#x"]


@pytest.mark.parametrize("path", NEVER)
@pytest.mark.parametrize("root", ["", "/api", "/docs", "/health"])
def test_what_only_resembles_a_public_path_is_closed(path, root):
    assert not PUBLIC.include(root + path, root)


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/docs/api/me", "/api"),  # Litestar: /me
        ("/docs/api", "/api"),
        ("/api/docs/api/me", "/api"),  # a Litestar mounted at /docs: /me
        ("/docs/xapi/me", "api"),
        ("/docs/a", "/docs"),  # Starlette: /a
        ("/mnt/docs/me", "/docs"),  # Litestar: /me
        ("/docs/mnt/docs/me", "/docs"),
        ("/apidocs/a", "/api"),  # Litestar and Quart: /docs/a
        ("/apihealth", "/api"),
        ("/health", "/health"),
        ("/api/health", "/api/"),  # no slash follows
        ("/health", "/h"),
    ],
)
def test_a_path_that_some_router_reads_otherwise_is_closed(path, root):
    assert not PublicPaths(["/health", "/docs/*", "/mnt/docs/*", "/apidocs/a"]).include(path, root)


def starlette(path, root):
    rest = path.removeprefix(root)
    return rest if rest == "" or rest.startswith("/") else path


def django(path, root):
    return path.removeprefix(root)


def quart(path, root):
    return "/" + path.removeprefix(root).lstrip("/") if path.startswith(root) and path != root else " "


def litestar(path, root):
    path = path.split(root, 1)[-1] if root else path
    return re.sub("//+", "/", "/" + path.strip("/"))


def litestar_mounted(mount):
    def reading(path, root):
        outer = litestar(path, root)
        return mount + litestar(outer[len(mount) :] + "/", root) if outer.startswith(mount) else outer

    return reading


ROUTERS = [starlette, django, quart, litestar, litestar_mounted("/mnt"), litestar_mounted("/docs")]
NOT_ROUTED = {"", " "}  # no route has such a path
ROOTS = st.sampled_from(
    ["", "/", "/api", "/api/", "/docs", "/mnt", "/mnt/docs", "/docs/api", "api", "/a", "/health"]
)
PIECES = [
    "/",
    "//",
    "/.",
    "/..",
    "/docs",
    "/mnt",
    "/api",
    "/health",
    "/me",
    "/a",
    "a",
    "api",
    "x",
    ";",
    "%2e",
    "\\",
]
PATHS = st.lists(st.sampled_from(PIECES), max_size=7).map("".join)


@given(PATHS, ROOTS)
@example("/docs/api/me", "/api")
@example("/mnt/docs/me", "/docs")
def test_no_router_reads_a_public_path_as_a_closed_one(path, root):
    for whole in (path, root + path):
        if PUBLIC.include(whole, root):
            readings = {router.__qualname__: router(whole, root) for router in ROUTERS}
            assert {
                name: read
                for name, read in readings.items()
                if read not in NOT_ROUTED
                and read.startswith("/")
                and not PUBLIC.include(read)
                and read != "/slash"
            } == {}


WRONG = ["/health", ["health"], ["/a/*/b"], ["/a*"], [""], [None], ["*"], ["/a/../b"], ["/a//b"], ["/a/."]]
WRONG += [["/a%20b"], ["/a;b/*"], ["/a\\b"], ["/a\n"]]


@pytest.mark.parametrize("wrong", WRONG)
def test_entries_that_cannot_mean_anything_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="public"):
        PublicPaths(wrong)


def test_everything_may_be_public():
    everything = PublicPaths(["/*"])
    assert [everything.include(path) for path in ("/", "/a/b", "//", "")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (("OPTIONS", True, True), True),
        (("OPTIONS", True, True, True), False),
        (("OPTIONS", False, True), False),
        (("OPTIONS", True, False), False),
        (("options", True, True), False),
        (("HEAD", True, True), False),
    ],
)
def test_the_form_of_a_preflight(request_, expected):
    assert is_preflight(*request_) is expected


@pytest.mark.parametrize(
    ("template", "opened"),
    [
        ("/{a}/{b}", ["/docs/*", "/docs/index"]),
        ("/<a>/<b>", ["/docs/*", "/docs/index"]),
        ("/{a}/{b:int}/edit", ["/docs/*", "/mnt/docs/*"]),
        ("/docs/{name}", ["/docs/*", "/docs/index"]),
        ("/docs/index", ["/docs/*", "/docs/index"]),
        ("/{rest:path}", ["/docs/*", "/docs/index", "/mnt/docs/*"]),
        ("/<path:rest>", ["/docs/*", "/docs/index", "/mnt/docs/*"]),
        ("/mnt/{rest:path}", ["/mnt/docs/*"]),
        ("/mnt/x-{rest:path}", []),
        ("/{rest:path}/edit", []),
        ("/{a}", []),
        ("/docs", []),
        ("/other/{b}", []),
        ("/d.cs/{b}", []),
    ],
)
def test_entries_that_open_some_of_a_template(template, opened):
    assert list(PublicPaths(["/docs/*", "/docs/index", "/mnt/docs/*"]).opening(template)) == opened
