"""The GPU pool: slots, leases as sandboxed child processes, the node cache, and the weak-to-strong library."""
