"""Stream to stream (fills to trades) and stream to table."""
