"""Run the migrations on the connection ``database.migrate`` hands over.

There is no alembic.ini and no second way to connect: the caller owns the transaction,
so that a crash in the middle leaves the old schema.
"""

from __future__ import annotations

from alembic import context

from rshell.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters tables by copying them
    render_as_batch=True,
)
context.run_migrations()
