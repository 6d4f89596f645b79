"""Adding events to the stream, on every server to be had."""

from app.events.model import Appended
from tests.lua.conftest import Scripts

STREAM = "events"


def fields(name: str) -> list[str]:
    """An event as it is sent."""
    return [name, "transaction.accepted", "A", f"{name}-place", f'{{"id": "{name}"}}']


async def append(
    scripts: Scripts, mark: str, *names: str, items: str = "100"
) -> tuple[Appended, str]:
    events = [field for name in names for field in fields(name)]
    word, newest = await scripts.scripts.call("append", [STREAM], [mark, items, *events])
    return Appended(word), newest


async def test_events_are_added_in_order_behind_the_mark(scripts: Scripts) -> None:
    word, first = await append(scripts, "", "1", "2")
    assert word == Appended.DONE
    assert (await append(scripts, first, "3"))[0] == Appended.DONE
    found = await scripts.redis.xrange(STREAM)
    names = ("id", "type", "account_id", "sequence", "event")
    assert [entry for _, entry in found] == [
        dict(zip(names, fields(each), strict=True)) for each in "123"
    ]
    assert found[1][0] == first


async def test_nothing_is_added_behind_a_mark_that_is_gone(scripts: Scripts) -> None:
    _, first = await append(scripts, "", "1")
    await scripts.redis.delete(STREAM)
    assert await append(scripts, first, "2") == (Appended.EMPTIED, first)
    assert await scripts.redis.exists(STREAM) == 0


async def test_without_events_it_tells_whether_the_mark_is_there(scripts: Scripts) -> None:
    _, first = await append(scripts, "", "1")
    assert await append(scripts, first) == (Appended.DONE, first)
    await scripts.redis.xtrim(STREAM, maxlen=0, approximate=False)
    assert await append(scripts, first) == (Appended.EMPTIED, first)


async def test_the_stream_stays_bounded(scripts: Scripts) -> None:
    mark = ""
    for number in range(50):
        _, mark = await append(scripts, mark, *(f"{number}-{each}" for each in range(40)))
    assert await scripts.redis.xlen(STREAM) < 1_000
