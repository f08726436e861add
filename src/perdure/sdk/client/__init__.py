"""`Client`, in parts by what they are about: events, runs, and in client.py jobs and connecting."""

from .client import Client as Client
from .events import ClientEvents as ClientEvents, EventToSend as EventToSend
from .runs import ClientRuns as ClientRuns
from .state import ClientState as ClientState, ClientStore as ClientStore, ClientStores as ClientStores
