"""Every bound the code relies on, named, with its unit, and how the bounds relate.

Settings may lower what an operator may tune; nothing may exceed what stands here.
"""

from typing import Final

# Money, in minor units. An amount is an int64 and so is every customer balance; sums over many
# accounts (an external account, one settlement) may be larger and are `numeric` in SQL.
AMOUNT_MINOR_MAX: Final = 10**18 - 1
BALANCE_MINOR_MAX: Final = 9 * 10**18
INT64_MAX: Final = 2**63 - 1
EXPONENT_MAX: Final = 4

# Lines of the log about requests that were refused, failed or slow; past it they are counted.
REQUEST_LINES_PER_SECOND_MAX: Final = 100

# What a request may carry.
ACCOUNT_ID_LENGTH_MAX: Final = 50
IDEMPOTENCY_KEY_LENGTH_MAX: Final = 255
REFERENCE_LENGTH_MAX: Final = 140
METADATA_ENTRIES_MAX: Final = 16
METADATA_KEY_LENGTH_MAX: Final = 40
METADATA_VALUE_LENGTH_MAX: Final = 256
BODY_BYTES_MAX: Final = 32 * 1024
TEST_BODY_BYTES_MAX: Final = 1024 * 1024
BODY_READ_S: Final = 10.0
# A process that ends keeps an idle connection open for one more request this long.
LEAVE_S: Final = 2.0
PLAIN_HEAD_BYTES_MAX: Final = 4_096
PLAIN_LINE_BYTES_MAX: Final = 512
HOST_BYTES_MAX: Final = 255
REQUEST_ID_LENGTH_MAX: Final = 64
REQUEST_TARGET_BYTES_MAX: Final = 8 * 1024
HEADERS_MAX: Final = 128
HEAD_BYTES_MAX: Final = 32 * 1024
PARSED_BYTES_MAX: Final = 16 * 1024
HEAD_READ_S: Final = 10.0
# A handler that waits for a body answers first; past this the connection ends.
BODY_ABANDONED_S: Final = 12.0
ANSWER_STALLED_S: Final = 30.0
PIPELINE_MAX: Final = 100
CONNECTIONS_MAX: Final = 100_000
# File descriptors of a process that are not clients' connections.
DESCRIPTORS_RESERVED: Final = 128
REQUEST_ITEMS_MAX: Final = 8_000
# Where a request with one key is cut: part of what is stored, so it may never change.
PART_ITEMS: Final = 1_000
GROUP_TRANSFERS_MAX: Final = 100
GROUP_BYTES_MAX: Final = 1024 * 1024
HOLD_SECONDS_MAX: Final = 366 * 24 * 3_600
HOLD_ROUNDS_MAX: Final = 16
HOLDS_EXPIRED_MAX: Final = 200
HOLD_EXPIRY_ROUNDS_MAX: Final = 50
REQUEST_BYTES_MAX: Final = 8 * 1024 * 1024
PAGE_ITEMS_DEFAULT: Final = 100
PAGE_ITEMS_MAX: Final = 1_000
TEST_ACCOUNTS_MAX: Final = 1_000

# API keys and rates. A revocation is known everywhere within KEYS_STALE_S, whatever happens: a ring
# of keys that is older admits nobody.
API_KEYS_MAX: Final = 10_000
API_KEY_NAME_LENGTH_MAX: Final = 100
API_KEY_LIFETIME_DAYS_MAX: Final = 3_650
KEYS_READ_EVERY_S: Final = 2.0
KEYS_STALE_S: Final = 10.0
RATE_CALLERS_MAX: Final = 100_000
RATE_REQUESTS_MAX: Final = 1_000_000

# Micro-batching. An item's number must fit the 15 bits that a transaction id has for it.
BATCH_ITEMS_MAX: Final = 1_000
ITEM_NUMBER_MAX: Final = 2**15 - 1
VERSION_MAX: Final = 2**53 - 1
SLOT_COUNT_MAX: Final = 32
QUEUE_ITEMS_MAX: Final = 65_536
ADMIT_ROUNDS_MAX: Final = 8
REDIS_SENDS_MAX: Final = 3
ACCOUNT_CACHE_ITEMS_MAX: Final = 200_000
ACCOUNT_LOOK_UP_ITEMS_MAX: Final = 1_000

# Changes of accounts: how long one waits for another, and for what is in flight on the account; how
# many are under way in a process; how many accounts a page of the list looks at, found or not.
CHANGE_WAIT_S: Final = 2.0
CHANGES_MAX: Final = 100
CHANGE_ROUNDS_MAX: Final = 8
ACCOUNTS_LOOKED_AT_MAX: Final = 20_000

# Acts on holds of a process that read the hold at once, by the connections that decide.
HOLD_LOOK_UPS_MAX: Final = 4

# Dry runs: how many are foreseen at once in a process and how long the others wait; how often what
# repeats a refused one of the same request is looked at again.
DRY_RUNS_MAX: Final = 3
DRY_RUN_WAIT_S: Final = 5.0
DRY_RUN_ROUNDS: Final = 4

# Reading history: how many read it at once in a process and how long the others wait; the rows of
# one page of a statement in CSV, and of one statement of SQL for it; how many entries a page of a
# search looks at.
HISTORY_READS_MAX: Final = 4
HISTORY_WAIT_S: Final = 5.0
STATEMENT_ROWS_MAX: Final = 10_000
STATEMENT_SLICE_ROWS: Final = 500
SEARCH_LOOKED_AT_MAX: Final = 10_000
INSTANT_MICROSECONDS_MAX: Final = 253_402_300_799_999_999

# Settlement.
SETTLE_BATCHES_MAX: Final = 5_000
SETTLE_ENTRIES_MAX: Final = 200_000
SETTLE_CHUNKS_MAX: Final = 10_000
REFRESH_ACCOUNTS_MAX: Final = 500
PARTITION_MONTHS_AHEAD: Final = 3

# Reliability.
IDLE_TRANSACTION_MS: Final = 2_000
SWEEP_KEYS_MAX: Final = 500
REAP_ATTEMPTS_MAX: Final = 200
EPOCHS_REMEMBERED: Final = 64
VERIFY_ACCOUNTS_MAX: Final = 200
VERIFY_SETTLEMENTS_MAX: Final = 20
VERIFY_ENTRIES_MAX: Final = 20_000
VERIFY_MISMATCHES_MAX: Final = 100
VERIFY_ON_DEMAND_S: Final = 20.0
VERIFY_COMMAND_S: Final = 3_600.0
VERIFY_KEPT: Final = 1_000

# Events: how much of the journal is read at once, for sinks and for one who polls; how often a sink
# that has nothing to tell looks again, and how long one that fails waits at most.
EVENT_PAGE_BATCHES: Final = 500
EVENT_PAGE_ENTRIES: Final = 1_000
EVENT_PAGES_KEPT: Final = 8
EVENT_BATCHES_LOOKED_AT: Final = 2_000
EVENT_POLL_S: Final = 0.2
EVENT_RETRY_S: Final = 10.0
SEQUENCE_LENGTH_MAX: Final = 64
STREAM_ITEMS_MAX: Final = 10_000_000
STREAM_CHECK_S: Final = 1.0
STREAM_WRITE_ITEMS: Final = 50
NATS_MESSAGES_MAX: Final = 1_000_000
NATS_BYTES_MAX: Final = 1024**3
NATS_TIMEOUT_S: Final = 5.0

# Webhooks: lanes in which one is told of several accounts at once; the first of each are kept.
WEBHOOKS_MAX: Final = 100
WEBHOOK_URL_LENGTH_MAX: Final = 2_048
WEBHOOK_SECRET_BYTES_MIN: Final = 24
WEBHOOK_SECRET_BYTES_MAX: Final = 64
WEBHOOK_LANES: Final = 4
WEBHOOK_ANSWER_BYTES_MAX: Final = 64 * 1024
WEBHOOK_DETAIL_LENGTH_MAX: Final = 200
WEBHOOK_LOOK_S: Final = 0.5
WEBHOOK_RESOLVE_S: Final = 5.0
WEBHOOK_ADDRESS_S: Final = 5.0
WEBHOOK_TRIES_MAX: Final = 20
WEBHOOK_WAIT_MAX_S: Final = 60.0
WEBHOOK_SAVE_S: Final = 1.0
DELIVERED_KEPT: Final = 1_000
DEAD_KEPT: Final = 10_000
DELIVERIES_FORGOTTEN_MAX: Final = 5_000

# The dashboard: how often it looks, for how many listeners in a process, and for how long one may
# take to accept a snapshot; the seconds that are shown and of how many percentiles are; the seconds
# that are counted again because a commit may come late; the most of each kind that is looked at.
LIVE_SAMPLE_S: Final = 1.0
LIVE_FIGURES_S: Final = 2.0
LIVE_LISTENERS_MAX: Final = 64
LIVE_SEND_S: Final = 5.0
LIVE_RECONNECT_MS: Final = 1_000
LIVE_SECONDS_SHOWN: Final = 60
LIVE_SECONDS_AGAIN: Final = 3
LIVE_WINDOW_S: Final = 10
LIVE_BATCHES_MAX: Final = 20_000
LIVE_SETTLEMENTS_MAX: Final = 20_000
LIVE_PENDING_BATCHES_MAX: Final = 10_000
LIVE_SAMPLED_BATCHES: Final = 100
LIVE_SAMPLED_ENTRIES: Final = 1_000
LIVE_ACCOUNTS_SHOWN: Final = 8
LIVE_TRANSACTIONS_SHOWN: Final = 15
LIVE_EPOCHS_SHOWN: Final = 8
REFUSAL_MINUTES: Final = 60

# One process numbers its attempts below 2^36, enough for two years at a thousand a second; the
# process number fills the bits above, enough for 134 million starts.
ATTEMPTS_PER_PROCESS_MAX: Final = 2**36
PROCESS_NUMBER_MAX: Final = 2**27 - 1
BATCH_SEQ_MAX: Final = 2**59 - 1

if AMOUNT_MINOR_MAX + BALANCE_MINOR_MAX > 10**19 or BALANCE_MINOR_MAX > INT64_MAX:
    raise ValueError("a balance plus one amount must stay below 10^19, a balance inside int64")
if max(BATCH_ITEMS_MAX, REQUEST_ITEMS_MAX) > ITEM_NUMBER_MAX + 1:
    raise ValueError("every item of a batch needs a number that fits a transaction id")
if PROCESS_NUMBER_MAX * ATTEMPTS_PER_PROCESS_MAX > INT64_MAX:
    raise ValueError("an attempt id must fit int64")
if KEYS_READ_EVERY_S >= KEYS_STALE_S or BODY_READ_S >= BODY_ABANDONED_S:
    raise ValueError("what is repeated or answered must be so before it counts as too late")
