"""What runs inside a sandbox: the warm parent process and the entries of steps. Sees no Ray, no truth, no network."""
