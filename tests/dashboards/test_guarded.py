"""A dashboard that fails, blocks or is full costs a training nothing."""

import threading

import pytest

from segplan.dashboards import GuardedLogger, guarded


class Recorder:
    """Notes what it is sent; fails as long as `broken` says so, and waits for `gate`."""

    def __init__(self):
        self.sent, self.closed = [], []
        self.broken = lambda values: False
        self.gate = threading.Event()
        self.gate.set()

    def metrics(self, values, step):
        self.gate.wait(20)
        if self.broken(values):
            raise ConnectionError("nobody listens\nsecond line")
        self.sent.append((step, values))

    def close(self, status):
        self.closed.append(status)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(guarded, "_FIRST_WAIT_S", 0.001)


def steps(recorder):
    return sorted(step for step, _ in recorder.sent)


def test_everything_arrives_and_the_run_is_ended():
    recorder = Recorder()
    logger = GuardedLogger("it", lambda: recorder)
    logger.log_metrics({"a": 1.0, "b": float("nan")}, 4)
    logger.close("success")
    assert recorder.sent == [(4, {"a": 1.0})]
    assert recorder.closed == ["success"]


def test_what_could_not_be_sent_is_sent_when_the_dashboard_answers_again(capfd):
    recorder, tries = Recorder(), []
    recorder.broken = lambda _: tries.append(1) or len(tries) <= 5
    logger = GuardedLogger("it", lambda: recorder)
    for step in range(3):
        logger.log_metrics({"a": 1.0}, step)
    while len(recorder.sent) < 3:
        threading.Event().wait(0.005)
    logger.close("success")
    assert steps(recorder) == [0, 1, 2]
    told = capfd.readouterr().err.splitlines()
    assert told == [
        "segplan: dashboard it: ConnectionError: nobody listens; training goes on, and metrics.csv has every epoch",
        "segplan: dashboard it: answers again",
    ]


def test_a_dashboard_that_cannot_be_opened_is_told_once_and_counted(capfd):
    def refuse():
        raise OSError("no such host")

    logger = GuardedLogger("it", refuse)
    for step in range(3):
        logger.log_metrics({"a": 1.0}, step)
    logger.close("success")
    told = capfd.readouterr().err
    assert told.count("no such host") == 1
    assert "3 entries were not sent" in told


def test_a_dashboard_that_blocks_keeps_neither_logging_nor_closing(capfd):
    recorder = Recorder()
    recorder.gate.clear()
    logger = GuardedLogger("it", lambda: recorder, close_s=0.05)
    for step in range(100):
        logger.log_metrics({"a": 1.0}, step)  # returns although nothing can be sent
    logger.close("success")
    assert recorder.sent == []
    assert "entries were not sent" in capfd.readouterr().err
    recorder.gate.set()


def test_the_queue_has_an_end():
    recorder = Recorder()
    recorder.gate.clear()
    logger = GuardedLogger("it", lambda: recorder, queue_size=5)
    for step in range(20):
        logger.log_metrics({"a": 1.0}, step)
    assert logger.lost >= 14  # one may be in the thread's hands
    recorder.gate.set()
    logger.close("success")
    assert len(recorder.sent) == 20 - logger.lost


def test_an_entry_that_can_never_be_sent_is_given_up_and_the_others_arrive(capfd):
    recorder = Recorder()
    recorder.broken = lambda values: "poison" in values
    logger = GuardedLogger("it", lambda: recorder)
    logger.log_metrics({"poison": 1.0}, 0)
    for step in range(1, 20):
        logger.log_metrics({"a": 1.0}, step)
    while len(recorder.sent) < 19:
        threading.Event().wait(0.005)
    logger.close("success")
    assert steps(recorder) == list(range(1, 20))
    assert "1 entries were not sent" in capfd.readouterr().err


def test_no_thread_runs_before_the_first_metrics():
    """Loader processes are forked before; one forked beside a busy thread could inherit a lock that is never freed."""
    recorder = Recorder()
    recorder.parameters = lambda values: recorder.sent.append((None, values))
    logger = GuardedLogger("quiet", lambda: recorder)
    logger.log_hyperparams({"lr": 0.1})
    assert not any(thread.name == "segplan dashboard quiet" for thread in threading.enumerate())
    logger.log_metrics({"a": 1.0}, 0)
    logger.close("success")
    assert recorder.sent == [(None, {"lr": 0.1}), (0, {"a": 1.0})]


def test_other_ranks_send_nothing():
    recorder = Recorder()
    logger = GuardedLogger("it", lambda: recorder, enabled=False)
    logger.log_metrics({"a": 1.0}, 0)
    logger.close("success")
    assert recorder.sent == recorder.closed == []


def test_a_failed_training_ends_the_run_as_failed():
    recorder = Recorder()
    logger = GuardedLogger("it", lambda: recorder)
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("failed")
    logger.close("failed")
    assert recorder.closed == ["failed"]
