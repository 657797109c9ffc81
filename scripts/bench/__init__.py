"""What is measured: each file says in its first lines what it times or counts, and how to run it."""
