"""Functions that users give us: async ones are awaited, others run where they may block."""

import asyncio
import threading

import pytest

from ticketgate.core.flow import call
from ticketgate.drivers import aio, blocking
from ticketgate.errors import ConfigurationError


class AsyncCallable:
    async def __call__(self, value):
        return (value, threading.current_thread())


async def async_function(value):
    return (value, threading.current_thread())


def function(value):
    return (value, threading.current_thread())


def returns_an_awaitable(value):
    return async_function(value)


def asked(what):
    return (yield from call(what, 1))


@pytest.mark.parametrize("what", [async_function, AsyncCallable(), returns_an_awaitable])
async def test_async_functions_are_awaited_on_the_loop(what):
    assert await aio.Driver().run(asked(what)) == (1, threading.current_thread())


async def test_other_functions_do_not_hold_up_the_loop():
    release = threading.Event()

    def slow(value):
        assert release.wait(20)
        return function(value)

    running = asyncio.create_task(aio.Driver().run(asked(slow)))
    await asyncio.sleep(0)
    release.set()  # never reached where the function holds the loop
    value, thread = await running
    assert value == 1
    assert thread is not threading.current_thread()


async def test_other_functions_leave_the_threads_of_the_loop_alone():
    release = threading.Event()

    def slow(value):
        assert release.wait(20)

    driver = aio.Driver()
    running = [asyncio.create_task(driver.run(asked(slow))) for _ in range(100)]
    await asyncio.sleep(0)
    try:
        await asyncio.wait_for(asyncio.to_thread(int), 5)
    finally:
        release.set()
    await asyncio.gather(*running)


def test_on_threads_functions_run_where_they_are_asked():
    assert blocking.Driver().run(asked(function)) == (1, threading.current_thread())
    for what in (async_function, returns_an_awaitable):
        with pytest.raises(ConfigurationError, match="is async"):
            blocking.Driver().run(asked(what))


def fails(error):
    def failing(value):
        raise error

    return failing


@pytest.mark.parametrize("driver", ["aio", "blocking"])
@pytest.mark.parametrize("error", [ValueError("x"), StopIteration("x")])
async def test_what_a_function_raises_reaches_the_flow(driver, error):
    def flow():
        try:
            yield from call(fails(error), 1)
        except (ValueError, RuntimeError, StopIteration) as caught:
            return type(caught)

    if driver == "aio":
        caught = await asyncio.wait_for(aio.Driver().run(flow()), 20)
    else:
        caught = blocking.Driver().run(flow())
    assert caught in {type(error), RuntimeError}
