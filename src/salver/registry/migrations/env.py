"""Runs migrations over the connection that ``Database`` gives."""

from alembic import context

from salver.registry.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
