"""What must survive: claims, baselines, ledger, node admin state and the event log.

One interface (`interface`), several implementations (`memory`, `sqlite`), one conformance suite.
It must never decide anything; it compares and commits.
"""
