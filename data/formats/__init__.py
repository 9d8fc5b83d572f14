"""Labels on disk: one module per format, each with read() and write(); what they share is in rows.py and listing.py."""
