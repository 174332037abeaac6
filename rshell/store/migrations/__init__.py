"""Alembic's folder: how the tables came to be, one module a step, run from the package.

A step is frozen once released: it repeats the columns instead of importing ``schema``,
which moves on.
"""
