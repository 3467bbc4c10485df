"""A WebSocket from a page's script, which can send no Authorization header, in a real browser."""

import pytest
from browsers import open_browser
from servers import serve_asgi
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute
from tokens import resource_server, token

from ticketgate.starlette import AccessTokenMiddleware, access_token

OPEN = """
const [names, done] = arguments, said = [];
const socket = new WebSocket(location.href.replace("http", "ws") + "ws", names);
socket.onmessage = ({data}) => { said.push(socket.protocol, data); };
socket.onclose = ({code}) => { done([...said, code]); };
"""


async def page(request):
    return HTMLResponse("<p>A page</p>")


async def greet(websocket):
    await websocket.accept("chat" if "chat" in websocket.scope["subprotocols"] else None)
    await websocket.send_text(access_token(websocket).subject)
    await websocket.close()


@pytest.fixture(params=["websockets-sansio", "wsproto"])
def url(request):
    api = Starlette(routes=[Route("/", page), WebSocketRoute("/ws", greet)])
    app = AccessTokenMiddleware(api, resource_server(), public=["/"], accept_subprotocol_token=True)
    with serve_asgi(app, ws=request.param) as url:
        yield f"{url}/"


def test_a_page_brings_its_token_as_a_subprotocol(url, tmp_path):
    raw = token().decode()
    with open_browser(tmp_path) as browser:
        browser.get(url)
        answers = {
            ("bearer", raw): ["bearer", "alice", 1000],
            ("bearer", raw, "chat"): ["chat", "alice", 1000],
            ("bearer", "x"): [1006],
            (): [1006],
        }
        for names, said in answers.items():
            assert browser.execute_async_script(OPEN, list(names)) == said
