"""Pools, leases, the wait queue: who gets a server connection and when one is opened.

Decisions only, no I/O.
"""
