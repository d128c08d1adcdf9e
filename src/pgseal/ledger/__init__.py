"""Where the log lives: a C2SP tlog-tiles log (FORMATS.md section 2) in a directory or, later, a bucket.

``store`` says what a place must promise and keeps one in a directory; ``writer`` grows the log and publishes its
checkpoint; ``reader`` reads it back and ``prove`` makes proofs from it; ``adopt`` decides whether a directory may
become a ledger. ``files`` (durable file operations) and ``edge`` (the growing side of the tree) are their tools.

Nothing here signs or verifies a signature: sizes and roots come from a caller who has.
"""
