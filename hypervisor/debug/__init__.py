"""The domain view of a debugger: stops, state, time travel, recordings; front ends use it."""
