"""An operation is written once and is a method of both clients: one sends, the other awaits."""

import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from subbalance.call import Call, Listing

P = ParamSpec("P")
T = TypeVar("T")


class Sender(ABC):
    """Sends calls and waits for them."""

    @abstractmethod
    def send(self, call: Call[T]) -> T:
        """Send a call until it is decided or its bounds are reached."""

    def send_pages(self, listing: Listing[T]) -> Iterator[T]:
        """Ask for page after page, as they are needed."""
        cursor: str | None = None
        while True:
            items, cursor = self.send(listing.page(cursor))
            yield from items
            if cursor is None:
                return


class AsyncSender(ABC):
    """Sends calls in an event loop."""

    @abstractmethod
    async def send(self, call: Call[T]) -> T:
        """Send a call until it is decided or its bounds are reached."""

    async def send_pages(self, listing: Listing[T]) -> AsyncIterator[T]:
        """Ask for page after page, as they are needed."""
        cursor: str | None = None
        while True:
            items, cursor = await self.send(listing.page(cursor))
            for item in items:
                yield item
            if cursor is None:
                return


class Operation(Generic[P, T]):
    """A method that sends the call its function builds; the signature is the function's."""

    def __init__(self, build: Callable[P, Call[T]]) -> None:
        self._build = build
        functools.update_wrapper(self, build)  # type: ignore[arg-type]

    @overload
    def __get__(self, sender: None, owner: type) -> Self: ...
    @overload
    def __get__(self, sender: Sender, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, sender: AsyncSender, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, sender: Any, owner: type) -> Any:
        """Bind the operation to the client whose method it is."""
        return self if sender is None else _bound(sender.send, self._build)


class ListOperation(Generic[P, T]):
    """A method that goes through the pages of a list; the signature is its function's."""

    def __init__(self, build: Callable[P, Listing[T]]) -> None:
        self._build = build
        functools.update_wrapper(self, build)  # type: ignore[arg-type]

    @overload
    def __get__(self, sender: None, owner: type) -> Self: ...
    @overload
    def __get__(self, sender: Sender, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, sender: AsyncSender, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, sender: Any, owner: type) -> Any:
        """Bind the operation to the client whose method it is."""
        return self if sender is None else _bound(sender.send_pages, self._build)


def _bound(send: Callable[[Any], Any], build: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(build)
    def method(*args: Any, **kwargs: Any) -> Any:
        return send(build(*args, **kwargs))

    return method
