"""The offline brain: a search over building blocks of methods, by direction. No language model, no network."""
