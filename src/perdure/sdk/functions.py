"""What can be known of a function before it is called: whether it is async, its task policy, what it returns."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from perdure.errors import UsageError

from .operation import NO_OPTIONS, TaskOptions
from .values import Codec, codec_for, return_annotation

POLICY = "__perdure_task__"
"""Attribute by which `task` marks a function."""

P = ParamSpec("P")
R = TypeVar("R")


class FunctionFacts:
    """`codec` codes what the function returns, by its return annotation."""

    __slots__ = ("codec", "is_async", "options")

    def __init__(self, is_async: bool, options: TaskOptions, codec: Codec) -> None:
        self.is_async = is_async
        self.options = options
        self.codec = codec


# Keyed by code object: closures and lambdas made anew for each call share it. What differs between functions of the
# same code (the annotation, the policy) is compared.
_known: dict[Any, tuple[Any, TaskOptions, FunctionFacts]] = {}

_KNOWN_MAX = 10_000


def facts_of(fn: Callable[..., Any]) -> FunctionFacts:
    """Facts about `fn`.

    Raises:
        UsageError: `fn` isn't callable; says so in particular for a coroutine that was made by calling it already.
    """
    code = getattr(fn, "__code__", None)
    returns = getattr(fn, "__annotations__", {}).get("return") if code is not None else None
    options: TaskOptions = getattr(fn, POLICY, NO_OPTIONS)
    if (
        code is not None
        and (known := _known.get(code)) is not None
        and known[0] is returns
        and known[1] is options
    ):
        return known[2]
    facts = _find_out(fn, options)
    if code is not None:
        if len(_known) >= _KNOWN_MAX:
            _known.clear()  # code that is made at run time again and again
        _known[code] = (returns, options, facts)
    return facts


def _find_out(fn: Callable[..., Any], options: TaskOptions) -> FunctionFacts:
    if inspect.iscoroutine(fn):
        fn.close()
        raise UsageError(
            f"io.run_task was given a coroutine ({fn.__qualname__}) instead of a function: write "
            f'io.run_task("key", {fn.__name__}, arg1, arg2), which calls it only when it has to run'
        )
    if not callable(fn):
        raise UsageError(f"io.run_task takes a function as its second argument, not a {type(fn).__name__}")
    inner: Any = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
        if options is NO_OPTIONS:
            options = getattr(inner, POLICY, NO_OPTIONS)
    if not (
        inspect.isfunction(inner)
        or inspect.ismethod(inner)
        or inspect.isbuiltin(inner)
        or inspect.isclass(inner)
    ):
        inner = getattr(inner, "__call__", inner)  # noqa: B004 (an object's own method, for its annotations)
    return FunctionFacts(
        is_async=inspect.iscoroutinefunction(inner),
        options=options,
        codec=codec_for(return_annotation(inner)),
    )


@overload
def task(fn: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def task(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def task(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Give a function its policy as a task: what `io.run_task(key, fn, ...)` takes, as defaults.

    The function itself is unchanged, and can be called and tested as it is.

    Example:
        @task(retry=Retry(attempts=5), timeout=30)
        async def fetch(url: str) -> Page: ...

    Args:
        fn: an async or plain function.
        options: name, description, icon, params, properties, style, redact, retry, timeout, on_error, output.
    """

    def mark(fn: Callable[..., Any]) -> Callable[..., Any]:
        setattr(fn, POLICY, make_options(options))
        return fn

    return mark(fn) if fn is not None else mark


def make_options(given: dict[str, Any]) -> TaskOptions:
    """TaskOptions from keyword arguments, with a helpful error for an unknown one."""
    if not given:
        return NO_OPTIONS
    unknown = given.keys() - set(TaskOptions.__struct_fields__)
    if unknown:
        raise UsageError(
            f"unknown task option {min(unknown)!r}; there are {', '.join(TaskOptions.__struct_fields__)}. Keyword "
            "arguments for the function itself go through functools.partial(fn, name=value)"
        )
    return TaskOptions(**given)


def merge_options(policy: TaskOptions, given: dict[str, Any]) -> TaskOptions:
    """What the call says over what the function says."""
    if not given:
        return policy
    if policy is NO_OPTIONS:
        return make_options(given)
    base = {
        name: value for name in TaskOptions.__struct_fields__ if (value := getattr(policy, name)) is not None
    }
    return make_options(base | given)
