"""Drawing: figures, and frames behind a slider."""
