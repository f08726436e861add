"""The Store port in plain dicts, to compare adapters with. It was written from the port's text, not from an adapter.

It is no store to work with (there is none but real ones): slow, without transactions, and it raises nothing.
"""

from .model import ORDER as ORDER
from .reads import StoreModel as StoreModel
