"""What a chapter shows: figures, frames behind a slider, and numbers in its text."""
