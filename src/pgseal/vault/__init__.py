"""The vault: a separate PostgreSQL database that holds the sealed records."""
