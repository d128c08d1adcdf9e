"""The trail: where audited facts are born, inside the transactions that made them.

``install`` puts schema ``audit`` into a database, ``catalog`` reads what a table looks like, ``capture``
writes the trigger functions, ``track`` starts and stops capture, ``feed`` hands records on exactly once.
"""
