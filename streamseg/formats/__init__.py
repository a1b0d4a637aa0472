"""Bytes to values and back: events in; assignments, catalog records and dead letters out; frames of internal logs."""
