"""Model servers on slots: one vLLM process in a sandbox without a network, and the relay through which it is reached."""
