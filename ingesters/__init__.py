"""Source to stream: fetch, make records, push them together with the cursor."""
