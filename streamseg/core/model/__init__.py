"""The model: its state, what a batch adds to it (deltas), how it starts, what it says of a customer."""
