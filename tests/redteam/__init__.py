"""The red team: attacks on the evaluator, the sandbox and the statistics, played against the real ones."""
