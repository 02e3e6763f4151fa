"""Locks: on a file of this machine, and those of a fleet, which are kept in one Redis server."""
