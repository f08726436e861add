"""Services that jobs use, and the credentials to do so."""

from .auth import Auth as Auth, AuthResolver as AuthResolver
from .integration import Integration as Integration
