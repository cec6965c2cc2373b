"""From text to numbers: pure functions that import nothing heavy."""
