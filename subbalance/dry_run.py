"""Dry runs: of whatever would be done, what tells what would become of it."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from subbalance.call import Call, reads

P = ParamSpec("P")
T = TypeVar("T")


def foresee(build: Callable[P, Call[Any]], kind: type[T]) -> Callable[P, Call[T]]:
    """Make of what would be done what tells what would become of it, and changes nothing.

    The service has to know this dry run: one from before it takes no notice of the question, or
    refuses it.
    """
    read = reads(kind)

    @functools.wraps(build)
    def asked(*args: P.args, **kwargs: P.kwargs) -> Call[T]:
        call = build(*args, **kwargs)
        return replace(call, read=read, query={**call.query, "dry_run": "true"})

    asked.__doc__ = f"Tell what would become of it, and change nothing. {build.__doc__}"
    return asked
