"""Checkpoints are written beside the training, and hold the state of the moment at which they were asked for."""

import threading

import pytest
import torch

from segplan.errors import StorageError
from segplan.training import SafeCheckpointIO, checkpoint_io, load_checkpoint


@pytest.fixture
def gate(monkeypatch):
    """Writing waits until this is set."""
    gate, save = threading.Event(), torch.save

    def slow(content, file):
        assert gate.wait(30)
        save(content, file)

    monkeypatch.setattr(torch, "save", slow)
    yield gate
    gate.set()


def test_what_changes_after_saving_is_not_in_the_file(tmp_path, gate):
    writer, weights, history = SafeCheckpointIO(), torch.zeros(3), [1]
    writer.save_checkpoint({"weights": {"a": weights}, "history": history}, tmp_path / "last.ckpt")
    weights += 1
    history.append(2)
    assert not (tmp_path / "last.ckpt").exists()
    gate.set()
    writer.wait()
    saved = load_checkpoint(tmp_path / "last.ckpt")
    assert saved["weights"]["a"].tolist() == [0, 0, 0]
    assert saved["history"] == [1]


def test_reading_and_the_end_wait_for_the_write(tmp_path, gate):
    writer = SafeCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    threading.Timer(0.2, gate.set).start()
    assert writer.load_checkpoint(tmp_path / "last.ckpt")["epoch"] == 1
    gate.clear()
    writer.save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    threading.Timer(0.2, gate.set).start()
    writer.teardown()
    assert load_checkpoint(tmp_path / "last.ckpt")["epoch"] == 2


def test_a_full_disk_is_told_at_the_next_step(tmp_path, monkeypatch):
    def full(content, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    writer = SafeCheckpointIO()
    writer.save_checkpoint({}, tmp_path / "last.ckpt")
    writer._writer.shutdown(wait=True)
    with pytest.raises(StorageError, match="full"):
        writer.check()
    writer.check()  # told once
    assert not list(tmp_path.iterdir())


def test_an_error_that_ends_the_training_is_not_replaced_by_that_of_a_write(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "save", lambda content, file: 1 / 0)
    writer = SafeCheckpointIO()
    writer.save_checkpoint({}, tmp_path / "last.ckpt")
    with pytest.raises(KeyError, match="the first"):
        try:
            raise KeyError("the first")
        except KeyError:
            writer.teardown()
            raise
    assert "division by zero" in capsys.readouterr().err


def test_after_a_failed_write_the_next_one_is_tried_and_the_failure_told(tmp_path, monkeypatch):
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: 1 / 0)
    writer = SafeCheckpointIO()
    writer.save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    writer._writer.submit(int).result()  # the first write has ended
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ZeroDivisionError):
        writer.save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    writer.wait()
    assert load_checkpoint(tmp_path / "last.ckpt")["epoch"] == 2


def test_what_shares_a_tensor_shares_it_in_the_file_too(tmp_path):
    tied = torch.ones(1000, 1000)
    network = torch.nn.Module()
    network.first = network.second = torch.nn.Linear(1000, 1000)
    writer = SafeCheckpointIO()
    writer.save_checkpoint({"a": tied, "b": tied, "network": network.state_dict()}, tmp_path / "last.ckpt")
    writer.wait()
    assert (tmp_path / "last.ckpt").stat().st_size < 3 * 4 * 1000 * 1000


def test_what_is_too_large_for_a_copy_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_io, "available_memory", lambda: 16)
    SafeCheckpointIO().save_checkpoint({"weights": torch.ones(2)}, tmp_path / "last.ckpt")
    assert load_checkpoint(tmp_path / "last.ckpt")["weights"].tolist() == [1, 1]
