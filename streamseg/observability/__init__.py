"""What is told about a running job: log lines, a status line. Sees committed values only."""
