"""The stores behind the contract of `streamseg.processing.transport`."""
