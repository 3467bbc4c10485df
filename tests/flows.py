"""The driver that tests play by hand: flows ask, a small world answers, and everything asked is on record."""

import json
from typing import Any

from ticketgate.core.flow import (
    Alone,
    Call,
    Cause,
    Fetch,
    FetchFailed,
    Flow,
    HttpRequest,
    Lane,
    Load,
    Once,
    Reply,
    Save,
    TooManyWaiting,
    WaitingFor,
    Within,
)


def reply(value: Any, status: int = 200, **headers: str) -> Reply:
    """An answer with ``value`` as its body: bytes as they are, everything else as JSON."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


class World:
    """What can be fetched, by URL; ``asked`` lists the URLs in order, ``requests`` the whole requests, ``lanes`` those entered.

    No more may wait for what is in ``full``; while it ``has_no_place``, there is none in any lane.
    """

    def __init__(self, pages: dict[str, Any] | None = None) -> None:
        self.pages = dict(pages or {})
        self.requests: list[HttpRequest] = []
        self.lanes: list[Lane] = []
        self.behind: list[Once] = []
        self.files: dict[str, bytes] = {}
        self.full: set[WaitingFor] = set()
        self.has_no_place = False

    @property
    def asked(self) -> list[str]:
        return [request.url for request in self.requests]

    def run(self, flow: Flow[Any]) -> Any:
        """The result of ``flow``; what it wants done behind its back waits for `catch_up`."""
        try:
            effect = next(flow)
            while True:
                effect = self._step(flow, effect)
        except StopIteration as done:
            return done.value

    def catch_up(self) -> None:
        """Run what was to be done in the background, each name once."""
        for effect in {effect.name: effect for effect in self.behind}.values():
            self.run(effect.flow())
        self.behind.clear()

    def _step(self, flow: Flow[Any], effect: Any) -> Any:
        try:
            answer = self._answer(effect)
        except Exception as error:
            return flow.throw(error)
        return flow.send(answer)

    def _answer(self, effect: Any) -> Any:
        match effect:
            case Fetch(request):
                return self._fetch(request)
            case Once(wait=True, limited=WaitingFor() as kind) if kind in self.full:
                raise TooManyWaiting("full")
            case Once(wait=True):
                return self.run(effect.flow())
            case Alone():
                return self.run(effect.flow())
            case Within() if self.has_no_place:
                raise FetchFailed("no place", cause=Cause.LIMIT)
            case Within(lane, _, flow):
                self.lanes.append(lane)
                return self.run(flow())
            case Load(path):
                return self.files.get(path)
            case Save(path, data):
                self.files[path] = data
                return None
            case Call(function, arguments):
                return function(*arguments)
            case Once():
                self.behind.append(effect)
                return None

    def _fetch(self, request: HttpRequest) -> Reply:
        self.requests.append(request)
        page = self.pages.get(request.url)
        if page is None:
            raise FetchFailed("nobody answers there", cause=Cause.CONNECTION)
        return page(request) if callable(page) else page if isinstance(page, Reply) else reply(page)


def run(flow: Flow[Any]) -> Any:
    """The result of a flow that needs nothing from the world."""
    world = World()
    result = world.run(flow)
    assert world.asked == []
    return result
