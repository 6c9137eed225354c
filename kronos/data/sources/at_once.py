"""Work on several symbols at once: their requests in a few threads, all else, such as writing, in the caller's."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, TypeVar

from kronos.data.sources.polite import NoAnswer
from kronos.utils.errors import UserError

Outcome = TypeVar("Outcome")
# The work on one symbol: yields requests, is sent their answers (or thrown what they raise), returns its outcome.
Work = Generator[Callable[[], Any], Any, Outcome]


def at_once(
    works: Sequence[Work[Outcome]], workers: int, stop: Callable[[], None]
) -> Generator[Outcome | NoAnswer, None, None]:
    """Yield the outcome of each work, or the NoAnswer it ended with, in the order given.

    At most `workers` requests are made at a time, each of another work. Outcomes are the same for any number of
    workers, and so is the UserError that is raised: that of the first work which has one. Where an error ends the
    whole, or it is closed, `stop` is called, which shall end the waits of requests, and the answers under way are
    still handed to their works, to be written down.
    """
    outcomes: dict[int, Outcome | NoAnswer] = {}
    errors: dict[int, UserError] = {}
    running: dict[Future[Any], int] = {}
    begun = told = 0
    with ThreadPoolExecutor(workers) as pool:

        def step(place: int, answer: Callable[[], Callable[[], Any]]) -> None:
            """Go on with a work up to its next request."""
            try:
                running[pool.submit(answer())] = place
            except StopIteration as end:
                outcomes[place] = end.value
            except NoAnswer as error:
                outcomes[place] = error
            except UserError as error:
                errors[place] = error

        try:
            while told < len(works):
                while told in outcomes:
                    yield outcomes.pop(told)
                    told += 1
                if told in errors:
                    raise errors[told]
                while begun < len(works) and len(running) < workers and not errors:
                    begun, work = begun + 1, works[begun]
                    step(begun - 1, work.__next__)
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    place = running.pop(future)
                    step(place, _resumed(works[place], future))
        except BaseException:
            stop()
            for future in wait(running).done:
                with suppress(Exception, KeyboardInterrupt):
                    _resumed(works[running[future]], future)()
            raise


def _resumed(work: Work[Any], future: Future[Any]) -> Callable[[], Callable[[], Any]]:
    """What goes on with a work that waits for a request: by its answer, or by what it raised."""
    error = future.exception()
    return (lambda: work.throw(error)) if error is not None else (lambda: work.send(future.result()))
