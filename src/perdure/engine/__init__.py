"""The platform: decides what happens next (core), stores it (through the Store port), acts on it (loops)."""
