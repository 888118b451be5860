"""What draws: figures, and frames behind a slider."""
