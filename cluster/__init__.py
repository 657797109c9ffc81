"""The ground of the house: configuration, durable store, journal, wire format, sandbox, names, metrics.

Nothing here imports another package of the project.
"""
