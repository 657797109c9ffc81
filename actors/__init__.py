"""The people and offices of a campaign."""
