"""`Client`, in parts by what they are about: events, runs, upkeep, and in client.py jobs and connecting."""

from .auth import ClientAuth as ClientAuth
from .client import Client as Client
from .events import ClientEvents as ClientEvents, EventOptions as EventOptions, EventToSend as EventToSend
from .notifications import ClientNotifications as ClientNotifications
from .runs import ClientRuns as ClientRuns, RunSelection as RunSelection
from .state import ClientState as ClientState, ClientStore as ClientStore, ClientStores as ClientStores
from .upkeep import ClientUpkeep as ClientUpkeep
