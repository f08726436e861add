"""What every adapter of the Store port has to do, as tests: subclass `StoreContract` and give it a fixture.

Example:
    class TestMyStore(StoreContract):
        @pytest.fixture
        async def open_store(self):
            ...
            yield open_one  # async (environment: str) -> Store, all on one fresh database

The tests are coroutines (pytest-asyncio's auto mode runs them) and use the port only.
"""

from .children import ChildContract
from .delayed import DelayedEventContract, EventListContract, ScheduleContract
from .factories import OpenStore as OpenStore
from .lists import ListContract
from .promises import AtomicityContract, CloseContract, EnvironmentContract, ExactnessContract, RepeatContract
from .retention import DatabaseContract, RetentionContract
from .runs import ClaimContract, IngestContract, LeaseContract, TimerContract
from .state import (
    AccountContract,
    AnnotationContract,
    QueueViewContract,
    RunFilterContract,
    StatusContract,
    ValueContract,
)
from .tasks import MoveContract, RecordContract
from .together import TogetherContract, TurnContract
from .waiting import OperationContract, WaiterContract


class StoreContract(
    IngestContract,
    ClaimContract,
    RecordContract,
    MoveContract,
    TimerContract,
    LeaseContract,
    ListContract,
    RunFilterContract,
    StatusContract,
    ValueContract,
    AnnotationContract,
    AccountContract,
    QueueViewContract,
    DelayedEventContract,
    EventListContract,
    ScheduleContract,
    ChildContract,
    WaiterContract,
    OperationContract,
    TurnContract,
    TogetherContract,
    RetentionContract,
    DatabaseContract,
    RepeatContract,
    AtomicityContract,
    EnvironmentContract,
    ExactnessContract,
    CloseContract,
):
    """All of it."""
