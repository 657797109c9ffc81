"""Drivers: parse, call, print."""
