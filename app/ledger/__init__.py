"""The core: accounts, admission, journal and settlement. It knows no bank, payment or message."""
