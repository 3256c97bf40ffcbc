"""SIGTERM and Ctrl-C ask; a second Ctrl-C interrupts; the handlers are put back."""

from __future__ import annotations

import os
import signal

import pytest

from seqpair.train.loop import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(number, capsys):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal_number is None
        os.kill(os.getpid(), number)
        assert stop.signal_number == number
    assert signal.getsignal(number) is before
    assert "saving after this step" in capsys.readouterr().err


def test_a_second_ctrl_c_interrupts():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
