"""The experiments behind the book's results: protocols, runs and sweeps, verdicts, toy fits, and the command line."""
