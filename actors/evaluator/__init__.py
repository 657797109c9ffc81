"""The evaluator: the only holder of truth, and the only source of a number that counts.

`splits` draws the pools and keeps the labels, `blinded_batch` hides their order from students, `jobs` and
`scoring_runs` have students trained and applied in sandboxes, `statistics` turns hits into intervals, `tiers` decides
what an answer may reveal, `records` signs, `evaluator` ties it together, `actor` puts it on Ray.
"""
