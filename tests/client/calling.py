"""One way to call both clients from a test: the blocking one in a thread, the other in the loop."""

import asyncio
from typing import Any

from subbalance import AsyncClient, Client


class Ledger:
    """A client whose methods are awaited and whose lists are read whole, whichever it is."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        async def called(*args: Any, **kwargs: Any) -> Any:
            if isinstance(self.client, AsyncClient):
                asked = method(*args, **kwargs)
                if hasattr(asked, "__aiter__"):
                    return [each async for each in asked]
                return await asked
            return await asyncio.to_thread(lambda: _whole(method(*args, **kwargs)))

        return called

    async def close(self) -> None:
        """Close the client."""
        if isinstance(self.client, AsyncClient):
            await self.client.close()
        else:
            self.client.close()


def _whole(asked: Any) -> Any:
    return list(asked) if hasattr(asked, "__next__") else asked
