"""Locks for work that the fleet does once, behind Prefect's `LockManager` protocol.

Prefect's own file and Redis locks stay locked when their holder is killed, and whoever comes next waits without end.
These are let go by the operating system (`flock`, one machine) or expire unless they are renewed (Redis, a fleet).
"""
