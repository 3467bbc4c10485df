"""The ``ticketgate`` command: a demo to watch, tokens to try it with, and what an application's routes require."""

import json
import sys
import time
from importlib import import_module
from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError:
    raise SystemExit("The ticketgate command needs an extra: pip install 'ticketgate[cli]'") from None

from ticketgate.demo.client import NoToken, TokenRequest, fetch_assertion, fetch_token
from ticketgate.demo.issuer import CLIENT_ID, CLIENT_SECRET
from ticketgate.demo.servers import Addresses, CannotStart, serving
from ticketgate.demo.tour import walk
from ticketgate.errors import ConfigurationError

app = typer.Typer(
    name="ticketgate",
    help="The gate in front of your API: a demo, tokens for it, and an audit of your routes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(soft_wrap=True, highlight=False)

Port = Annotated[
    int, typer.Option(min=0, max=65_535, help="Where the sample API listens; 0 takes a free port.")
]
IssuerPort = Annotated[
    int, typer.Option(min=0, max=65_535, help="Where the issuer listens; 0 takes a free port.")
]
Check = Annotated[bool, typer.Option("--check", help="Take free ports, walk the tour, and exit 0 or 1.")]


@app.command()
def demo(port: Port = 8000, issuer_port: IssuerPort = 9000, check: Check = False) -> None:
    """Run an issuer and a sample API on loopback until Ctrl-C."""
    try:
        with serving(*((0, 0) if check else (port, issuer_port))) as addresses:
            if check:
                raise typer.Exit(_check(addresses))
            _introduce(addresses)
            _wait_for_ctrl_c()
    except (CannotStart, NoToken) as error:
        raise _failure(str(error)) from error


def _check(addresses: Addresses) -> int:
    failed = False
    for verdict in walk(addresses):
        failed |= not verdict.holds
        mark = "[green]ok    [/]" if verdict.holds else "[red]FAILED[/]"
        came = "" if verdict.holds else f", but got {verdict.actual}"
        out.print(f"{mark}  {verdict.name}: {verdict.expected}{came}")
    return int(failed)


def _introduce(addresses: Addresses) -> None:
    api, issuer = addresses
    read_token = "python3 -c 'import json,sys; print(json.load(sys.stdin)[\"access_token\"])'"
    lines = [
        f"API      {api}      GET /health /me /orders /admin, POST /orders",
        f"         {api}/docs to try it in a browser: sign in as alice, password alice-secret",
        f"issuer   {issuer}      client {CLIENT_ID}, secret {CLIENT_SECRET}",
        "",
        "In another terminal:",
        "",
        f"TOKEN=$(curl -s {issuer}/token -u {CLIENT_ID}:{CLIENT_SECRET} -d grant_type=client_credentials"
        f" -d scope=orders:read | {read_token})",
        f'curl -i {api}/orders -H "Authorization: Bearer $TOKEN"',
        f"curl -i {api}/orders",
        "",
        "Ctrl-C ends it.",
    ]
    out.print("\n".join(lines), markup=False)


def _wait_for_ctrl_c() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        out.print("")


Values = list[str]


@app.command()
def mint(
    scope: Annotated[Values, typer.Option(help="A scope value; may be repeated.")] = [],  # noqa: B006
    role: Annotated[Values, typer.Option(help="A role; may be repeated.")] = [],  # noqa: B006
    group: Annotated[Values, typer.Option(help="A group; may be repeated.")] = [],  # noqa: B006
    entitlement: Annotated[Values, typer.Option(help="An entitlement; may be repeated.")] = [],  # noqa: B006
    lifetime: Annotated[int | None, typer.Option(min=-3600, max=3600, help="In seconds.")] = None,
    resource: Annotated[str, typer.Option(help="Another audience than the sample API.")] = "",
    opaque: Annotated[bool, typer.Option("--opaque", help="A token that says nothing by itself.")] = False,
    assertion: Annotated[
        bool, typer.Option("--assertion", help="An assertion for the JWT bearer grant.")
    ] = False,
    issuer: Annotated[str, typer.Option(help="Where the demo issuer listens.")] = "http://127.0.0.1:9000",
) -> None:
    """Print an access token from a running demo."""
    wanted = TokenRequest(scope, role, group, entitlement, lifetime, resource, opaque)
    try:
        typer.echo(fetch_assertion(issuer) if assertion else fetch_token(issuer, wanted))
    except NoToken as error:
        raise _failure(str(error)) from error


@app.command()
def routes(
    application: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:APP", help="As servers take it: main:app, or main:create_app() for a factory."
        ),
    ],
    check: Annotated[bool, typer.Option("--check", help="Exit 1 where a route is open by accident.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Count as a problem what is not understood.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every route of an application and what it requires, from the declarations that guard it."""
    from ticketgate.audit import audit

    try:
        found = audit(_load(application))
    except ConfigurationError as error:
        raise _failure(str(error)) from error
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        rows = [(",".join(route.methods), route.path, route.access) for route in found.routes]
        widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
        for methods, path, access in rows:
            typer.echo(f"{methods:{widths[0]}}  {path:{widths[1]}}  {access}")
    problems = (*found.problems, *(found.notes if strict else ()))
    for problem in problems:
        typer.echo(problem, err=True)
    if check and problems:
        raise typer.Exit(1)


def _load(application: str) -> Any:
    """What ``module:name`` names, looked for from the current folder on.  Raises `ConfigurationError`."""
    module, colon, name = application.partition(":")
    if not module or not colon or not name:
        raise ConfigurationError(f"{application!r} names no application: write it like main:app")
    sys.path.insert(0, "")
    try:
        value: Any = import_module(module)
        for part in name.removesuffix("()").split("."):
            value = getattr(value, part)
        return value() if name.endswith("()") else value
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigurationError(f"{application} cannot be loaded: {error}") from error


def _failure(sentence: str) -> typer.Exit:
    typer.echo(sentence, err=True)
    return typer.Exit(1)


def main() -> None:
    """The entry point of the command."""
    app()
