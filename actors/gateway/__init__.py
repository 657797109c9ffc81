"""The gateway: the one holder of API keys. It calls models, meters tokens, records and replays."""
