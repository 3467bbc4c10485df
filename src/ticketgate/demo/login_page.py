"""The page on which a user signs in and sees what a client asks for; no script, nothing from elsewhere."""

from collections.abc import Iterable, Mapping
from html import escape
from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; margin: 10vh auto; max-width: 22rem; padding: 0 1rem; }
label, input { display: block; width: 100%; box-sizing: border-box; }
input { font: inherit; margin-bottom: 1rem; padding: .4rem; }
button { font: inherit; padding: .4rem 1rem; }
[role=alert] { border-left: .3rem solid #b00; padding-left: .7rem; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")
FORM = Template("""$problem
<p>This page is for trying things out.</p>
<p><strong>$client</strong> asks to act for you at <strong>$resource</strong>.</p>
$wanted
<form method="post" action="$action">
$hidden
<label for="username">Name</label>
<input id="username" name="username" autocomplete="username" autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password">
<button name="decision" value="allow">Sign in and allow</button>
<button name="decision" value="deny" formnovalidate>Cancel</button>
</form>""")


def login_page(
    *,
    client_id: str,
    resource: str,
    scopes: Iterable[str],
    action: str,
    parameters: Mapping[str, str],
    problem: str = "",
) -> str:
    """HTML that asks for name and password, and posts them to ``action`` with the request's ``parameters``."""
    wanted = [f"<li>{escape(value)}</li>" for value in scopes]
    hidden = [
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in parameters.items()
    ]
    body = FORM.substitute(
        problem=f'<p role="alert">{escape(problem)}</p>' if problem else "",
        client=escape(client_id),
        resource=escape(resource),
        wanted=f"<p>What it may do there:</p>\n<ul>{''.join(wanted)}</ul>" if wanted else "",
        action=escape(action),
        hidden="\n".join(hidden),
    )
    return PAGE.substitute(title="Sign in", body=body)


def problem_page(sentence: str) -> str:
    """HTML that tells the user why a request cannot be completed, where the client cannot be told safely."""
    return PAGE.substitute(
        title="This request cannot be completed", body=f'<p role="alert">{escape(sentence)}</p>'
    )
