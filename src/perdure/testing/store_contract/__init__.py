"""What every adapter of the Store port has to do, as tests: subclass `StoreContract` and give it a fixture.

Example:
    class TestMyStore(StoreContract):
        @pytest.fixture
        async def open_store(self):
            ...
            yield open_one  # async (environment: str) -> Store, all on one fresh database

The tests are coroutines (pytest-asyncio's auto mode runs them) and use the port only.
"""

from .factories import OpenStore as OpenStore
from .lists import ListContract
from .promises import AtomicityContract, CloseContract, EnvironmentContract, ExactnessContract, RepeatContract
from .runs import ClaimContract, IngestContract, LeaseContract, TimerContract
from .tasks import MoveContract, RecordContract


class StoreContract(
    IngestContract,
    ClaimContract,
    RecordContract,
    MoveContract,
    TimerContract,
    LeaseContract,
    ListContract,
    RepeatContract,
    AtomicityContract,
    EnvironmentContract,
    ExactnessContract,
    CloseContract,
):
    """All of it."""
