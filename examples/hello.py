import asyncio
from dataclasses import dataclass
from datetime import timedelta

from perdure import IO, Client, Context, Retry, event_trigger, task

client = Client(id="my-shop")


@dataclass
class Order:  # or a pydantic model, a TypedDict, a msgspec Struct
    number: int
    email: str
    items: list[str]


@task(retry=Retry(attempts=5), timeout=30)  # optional: how to retry sits at the function
async def charge(order: Order) -> str:
    print("charging the card", flush=True)
    return f"receipt {order.number}"


async def pack(items: list[str]) -> int:
    print("packing", flush=True)
    return len(items)


async def mail(email: str, text: str) -> None:
    print(f"mailing {email}", flush=True)


@client.job(id="order-placed", trigger=event_trigger(name="order.placed", schema=Order))
async def order_placed(order: Order, io: IO, ctx: Context) -> dict[str, object]:
    receipt = await io.run_task("charge", charge, order)  # (key, function, *arguments)
    packed, _ = await asyncio.gather(
        io.run_task("pack", pack, order.items),
        io.run_task("mail the receipt", mail, order.email, receipt),
    )
    await io.wait("let it arrive", timedelta(seconds=10))  # days are as good
    await io.run_task("ask for a review", mail, order.email, "How was it?")
    return {"receipt": receipt, "packed": packed}


async def main() -> None:
    order = Order(number=1, email="ann@example.com", items=["tea", "mug"])
    async with client.embedded("sqlite:///jobs.db"):
        # The id makes it one event, however often it is sent.
        event = await client.send_event("order.placed", order, id="order-1")
        run = await client.wait_for_run(event.runs[0].id, timeout=60)
        print(run.status.label, run.output)


if __name__ == "__main__":
    asyncio.run(main())
