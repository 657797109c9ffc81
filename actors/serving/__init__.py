"""The campaign's own model server: has it started, hands out its address, has it stopped."""
