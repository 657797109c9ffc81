"""The parts of the training loop: its settings, batches, what moves, memory, several seeds at once."""
