"""What scripts/compare measures: startup (containers) and overlay (file systems), in a place of their own."""
