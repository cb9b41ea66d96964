"""Shipped for users' tests and ours: loopback venues, the matching engine, the conformance kit."""
