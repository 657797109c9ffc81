"""Model servers on slots: vLLM in a sandbox without a network, and the relay through which it is reached."""
