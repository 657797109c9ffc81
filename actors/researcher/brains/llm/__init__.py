"""The brain that is a language model behind the Messages API, reached through the gateway."""
