"""Work that several processes of one training run share: done by the first, agreed on by all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import PartialState

from uncertainty.errors import InputError


def on_main(state: PartialState, work: Callable[[], Any]) -> Any:
    """What ``work`` gives in the first process, in all of them; its ``InputError`` is raised in all of them too."""
    if state.num_processes == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    answer: list[Any] = [None, None]
    if state.is_main_process:
        try:
            answer = [work(), None]
        except InputError as error:
            answer = [None, str(error)]
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise InputError(answer[1])
    return answer[0]


def smallest(state: PartialState, size: int) -> int:
    """The smallest of what the processes found."""
    if state.num_processes == 1:
        return size
    from accelerate.utils import gather_object

    return int(min(gather_object([size])))
