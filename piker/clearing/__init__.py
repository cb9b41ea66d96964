"""Clearing: orders, from a client's intent to the venue's fills, and the journal of all of it."""
