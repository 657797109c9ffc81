"""What decides a researcher's next action."""
