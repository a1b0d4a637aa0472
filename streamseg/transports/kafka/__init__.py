"""Kafka as the store: input, outputs and internal logs are topics, a commit is a transaction."""
