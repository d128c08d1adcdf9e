"""The single writer: feeds of all trails → vault → ledger → signed checkpoint."""
