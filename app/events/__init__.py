"""What happened in the ledger, told to others: to Redis, to webhooks, to NATS, to who asks."""
