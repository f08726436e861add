"""The store on PostgreSQL; asyncpg is loaded only when it is opened."""

from .store import PostgresqlStore as PostgresqlStore
