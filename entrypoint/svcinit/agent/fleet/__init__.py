"""A change that goes through all instances of a service, a few at a time. docs/fleet.md explains it.

Nothing here is imported where SVCINIT_ROLL is off. This package has no input, no output and no clock: records.py,
policy.py and view.py say what lies in KV, conductor.py decides on it.
"""
