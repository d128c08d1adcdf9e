"""The ways in over HTTP; needs the optional dependencies ``pgseal[http]``."""
