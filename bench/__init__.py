"""Measurements; each checks the balances after every run. Timings never decide a test."""
