"""Parsers of VM configurations: text in, values out.

Pure and total: whatever the text is, a parser gives a value with its faults or says in words why
it is no such text. It must never raise for content, and never let a secret into what it gives.
"""
