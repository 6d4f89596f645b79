"""Every bound of the client, named, with its unit; `Policy` lowers or raises what a caller may."""

from typing import Final

ATTEMPTS: Final = 5
TIMEOUT_S: Final = 15.0  # above the 10 s in which the service answers, whatever happens to it
DEADLINE_S: Final = 45.0
CONNECT_S: Final = 3.0
BACKOFF_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
VERIFY_S: Final = 30.0
CONNECTIONS: Final = 20
CONNECTION_IDLE_S: Final = 4.0  # below the 5 s after which the service closes an idle one
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
KEY_LENGTH_MAX: Final = 255
BULK_ITEMS_MAX: Final = 8_000
IMPORT_ROWS_MAX: Final = 2_000_000
IMPORT_BATCH_ROWS_MAX: Final = 1_000
IMPORT_AT_ONCE: Final = 8
