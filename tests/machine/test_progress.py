import io
import threading
import time

import pytest

from knowcusbench.machine.progress import Progress, duration, rate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_when_it_begins_and_ends_and_not_in_between_when_it_is_quick():
    out = io.StringIO()
    with Progress("adapt", 8, done=3, workers=2, stream=out) as progress:
        progress.update()
        progress.reach(8)
    first, last = out.getvalue().splitlines()
    assert first == "adapt: begins, 5 of 8 to do, 2 workers"
    assert last.startswith("adapt: ended, 8 of 8 done after 0.0 seconds")


def test_a_line_comes_while_one_long_job_yields_nothing():
    out = io.StringIO()
    with Progress("adapt", 8, workers=2, every=0.02, stream=out):
        wait_for(lambda: out.getvalue().count("\n") >= 3)
    between = out.getvalue().splitlines()[1:-1]
    assert len(between) >= 2
    assert all(line.startswith("adapt: 0 of 8 done, 0.") and line.endswith(", 2 workers") for line in between)


def test_lines_tell_rate_and_time_left_from_what_this_command_has_done(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    with Progress("generate", 520, done=20, unit="image", stream=out, every=1e9) as progress:
        progress.update(50)
        clock[0] += 25.0
        # 50 of the 500 remaining took 25 s: 2 a second, and 225 s for the other 450.
        assert progress.line() == "70 of 520 images done, 25.0 seconds, 2.0/s, about 3.8 minutes left, 1 worker"


def test_what_is_not_counted_has_lines_without_numbers_of_things():
    out = io.StringIO()
    with Progress("report", every=0.02, stream=out):
        wait_for(lambda: out.getvalue().count("\n") >= 2)
    lines = out.getvalue().splitlines()
    assert lines[0] == "report: begins"
    assert lines[1].startswith("report: at work, 0.")
    assert lines[-1].startswith("report: ended after 0.")


@pytest.mark.parametrize(("title", "total", "done"), [("adapt", 0, 0), ("adapt", 8, 8), (None, 8, 0)])
def test_nothing_to_do_and_nothing_to_show_print_nothing(title, total, done):
    out = io.StringIO()
    with Progress(title, total, done=done, stream=out) as progress:
        progress.expect(9 if title is None else total)
    assert out.getvalue() == ""


def test_what_turns_out_to_be_more_than_nothing_is_shown():
    out = io.StringIO()
    with Progress("generate", 0, unit="image", stream=out) as progress:
        progress.expect(4)
        progress.update(4)
    assert out.getvalue().splitlines()[0] == "generate: begins, 4 images to do, 1 worker"


def test_an_error_is_no_end_and_leaves_no_thread():
    out = io.StringIO()
    before = threading.active_count()
    with pytest.raises(ValueError, match="no"), Progress("adapt", 2, stream=out):
        raise ValueError("no")
    assert out.getvalue().splitlines()[-1].startswith("adapt: stopped, 0 of 2 done after")
    assert threading.active_count() == before


def test_a_terminal_gets_a_bar_and_no_lines():
    out = Terminal()
    with Progress("generate", 4, unit="image", stream=out) as progress:
        progress.update(2)
        progress.expect(5)
        progress.note("dog3")
        progress.update(3)
    shown = out.getvalue()
    assert "5/5" in shown
    assert "begins" not in shown


@pytest.mark.parametrize(
    ("per_second", "text"), [(12.34, "12.3/s"), (1, "1.0/s"), (0.5, "30.0/min"), (1 / 90, "40.0/h")]
)
def test_rates_have_the_unit_that_makes_them_at_least_one(per_second, text):
    assert rate(per_second) == text


@pytest.mark.parametrize(("seconds", "text"), [(3, "3.0 seconds"), (150, "2.5 minutes"), (9000, "2.5 hours")])
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def wait_for(condition) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_part_of_a_stage_has_lines_only_when_it_is_long():
    out = io.StringIO()
    with Progress("score", stream=out, every=0.05):
        with Progress("scores CLIP-I", 4, stream=out, every=0.05):
            pass
        with Progress("floors CLIP-I", 4, stream=out, every=0.05):
            wait_for(lambda: out.getvalue().count("floors") >= 2)
    lines = out.getvalue().splitlines()
    assert lines[0] == "score: begins"
    assert [line.split(":")[0] for line in lines[1:-1]] == ["floors CLIP-I"] * (len(lines) - 2)
    assert lines[-2].startswith("floors CLIP-I: ended, 0 of 4 done")
    assert lines[-1].startswith("score: ended after")
