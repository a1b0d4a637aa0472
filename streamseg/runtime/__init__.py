"""The loop: poll, plan, commit, apply; retries, and stopping."""
