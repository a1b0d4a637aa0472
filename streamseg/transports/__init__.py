"""The stores behind the contract of `streamseg.engine.ports`."""
