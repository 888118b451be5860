"""What makes the book's results: protocols, runs and sweeps, verdicts, toy fits, and the command line."""
