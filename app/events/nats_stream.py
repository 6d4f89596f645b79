"""Events to NATS JetStream, which drops what it is told twice by the event's id."""

from collections.abc import Sequence

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig
from nats.js.errors import NotFoundError

from app import limits
from app.events.courier import SinkFailed, tell_in_lanes
from app.events.model import Cursor, Position, TellableEvent
from app.settings import Events

_ERRORS = (nats.errors.Error, OSError, TimeoutError)
_LANES = 32


class NatsStream:
    """A stream `<PREFIX>_LEDGER` with the subjects `<prefix>.ledger.<type>`."""

    name = "nats"

    def __init__(self, settings: Events) -> None:
        """Connects on first use."""
        self._url = settings.nats_url
        self._prefix = settings.nats_prefix
        self._client: Client | None = None
        self._stream: JetStreamContext | None = None

    async def check(self, cursor: Cursor) -> Position | None:
        """Trust what it acknowledged: it keeps its streams on disk."""
        del cursor
        return None

    async def put(self, events: Sequence[TellableEvent], cursor: Cursor) -> str | None:
        """Publish, each account's in order, and wait until all are acknowledged."""
        del cursor
        try:
            stream = self._stream or await self._open()

            async def publish(event: TellableEvent) -> None:
                await stream.publish(
                    f"{self._prefix}.ledger.{event.type.value}",
                    event.body,
                    timeout=limits.NATS_TIMEOUT_S,
                    headers={"Nats-Msg-Id": event.event_id},
                )

            await tell_in_lanes(events, publish, _LANES)
        except _ERRORS as exc:
            await self.close()
            raise SinkFailed(f"NATS does not take events: {type(exc).__name__} {exc}") from exc
        return None

    async def close(self) -> None:
        """Give the connection up."""
        client, self._client, self._stream = self._client, None, None
        if client is not None:
            await client.close()

    async def _open(self) -> JetStreamContext:
        """Connect, and make the stream unless it is there."""
        self._client = await nats.connect(
            self._url,
            connect_timeout=int(limits.NATS_TIMEOUT_S),
            allow_reconnect=False,
            error_cb=_say_nothing,
        )
        stream = self._client.jetstream(timeout=limits.NATS_TIMEOUT_S)
        name = f"{self._prefix.upper().replace('.', '_')}_LEDGER"
        try:
            await stream.stream_info(name)
        except NotFoundError:
            config = StreamConfig(
                name=name,
                subjects=[f"{self._prefix}.ledger.>"],
                retention=RetentionPolicy.LIMITS,
                discard=DiscardPolicy.OLD,
                max_msgs=limits.NATS_MESSAGES_MAX,
                max_bytes=limits.NATS_BYTES_MAX,
            )
            await stream.add_stream(config)
        self._stream = stream
        return stream


async def _say_nothing(_error: Exception) -> None:
    """Keep the client from printing what is raised as well."""
