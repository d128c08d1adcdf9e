"""The formats and the mathematics of FORMATS.md: bytes and integers in, bytes and integers out.

Nothing here reads a file, a clock, a database or a source of randomness, so another implementation can be held
against it and an auditor can run it offline. The modules, from the leaf up: ``canonical`` (RFC 8785 JSON),
``record`` (envelope, commitments, record line), ``leaf`` (the fast way to leaf_data), ``merkle`` (RFC 6962),
``tiles`` (C2SP tlog-tiles), ``note`` and ``checkpoint`` (what is signed), ``proof`` (the ``.tlog-proof`` file).

``parse_*`` raise ``FormatError`` for bytes that do not follow FORMATS.md; ``check_*`` raise a ``TamperError`` for
bytes that follow it and do not prove what they claim.
"""
