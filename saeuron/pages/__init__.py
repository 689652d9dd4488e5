"""Pages that a person reads: one HTML file each, with all it needs inside, and no scripts."""
